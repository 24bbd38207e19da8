//! What faults strike: services, topics under load, three ingesters behind a proxy each.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::compare::Accounts;
use crate::database::Database;
use crate::deeds::{Answer, Deeds};
use crate::families::random;
use crate::families::schema::EventType;
use crate::ingester::{Ingester, UNSET};
use crate::load::Feed;
use crate::proxy::Proxy;
use crate::rng::Rng;
use crate::stack::{Stack, unique};
use crate::workload::Workload;

/// Accounts of manual corrections and corrected letters, which no load touches.
const OPERATORS: i64 = 9_000_000_000;
pub const INGESTERS: usize = 3;
const FAMILIES: [&str; 4] = [
    "user.followed",
    "user.updated",
    "content.post.liked",
    "wallet.updated",
];
/// Domain events that a run can use up.
const DOMAIN_EVENTS: usize = 60_000;
/// Records per second: of each balance topic, and of all families together.
const RATE: u64 = 250;
const DOMAIN_RATE: u64 = 40;
/// How long a statement of an operator may take.
const STATEMENT_LIMIT: &str = "30s";

pub struct BalanceTopic {
    pub name: String,
    pub partitions: AtomicI32,
    pub accounts: Accounts,
    feed: Mutex<Option<Feed>>,
}

impl BalanceTopic {
    pub fn count(&self) -> i32 {
        self.partitions.load(Ordering::Relaxed)
    }

    pub fn grow(&self, partitions: i32) {
        self.partitions.store(partitions, Ordering::Relaxed);
        if let Some(feed) = &*self.feed.lock().expect("no panic while held") {
            feed.grow(partitions);
        }
    }
}

/// An event type that was added during the run, with a handler that counts in `table` how often it is given each note.
#[derive(Clone)]
pub struct Newcomer {
    pub topic: String,
    pub table: String,
    pub partitions: i32,
}

/// An ingester and its way to the database.
pub struct Member {
    pub ingester: Ingester,
    pub proxy: Proxy,
}

pub struct Arena {
    pub stack: Stack,
    pub database: String,
    /// Dropped once a run has passed.
    _made: Database,
    pub admin_url: String,
    pub balances: [BalanceTopic; 2],
    pub families: Vec<EventType>,
    /// Event types that were added during the run.
    newcomers: Mutex<Vec<Newcomer>>,
    pub dlq: String,
    pub results: String,
    pub members: [tokio::sync::Mutex<Member>; INGESTERS],
    /// Whoever stops a service holds it: one at a time.
    pub services: tokio::sync::Mutex<()>,
    pub deeds: Mutex<Deeds>,
    /// What each handler was before anybody changed it: `CREATE OR REPLACE FUNCTION …`.
    pub handlers: HashMap<String, String>,
    serial: AtomicI64,
    domain_stop: std::sync::Arc<AtomicBool>,
    domain_feed: Mutex<Option<std::thread::JoinHandle<()>>>,
    findings: Mutex<Vec<String>>,
    say: Box<dyn Fn(String) + Send + Sync>,
    start: Instant,
}

impl Arena {
    pub async fn build(stack: &Stack, seed: u64, say: Box<dyn Fn(String) + Send + Sync>) -> Self {
        let database = Database::create(stack).await;
        let types = EventType::all().into_iter();
        let families: Vec<EventType> = types
            .filter(|found| FAMILIES.contains(&found.name.as_str()))
            .collect();
        assert_eq!(
            families.len(),
            FAMILIES.len(),
            "a family has another name now"
        );
        let (dlq, results) = (unique("dlq"), unique("results"));
        for family in &families {
            if stack.kafka.partitions(&family.name) > 0 {
                stack.kafka.delete_topic(&family.name).await;
            }
            stack.kafka.create_topic(&family.name, 1, &[]).await;
        }
        stack.kafka.create_topic(&dlq, 1, &[]).await;
        stack.kafka.create_topic(&results, 2, &[]).await;
        let own = Workload::forgetting(seed);
        let shared = Workload::shared_by_partitions(seed, 300).on_lane(1);
        let mut balances = Vec::new();
        for (workload, accounts) in [(own, Accounts::OfOnePartition), (shared, Accounts::Shared)] {
            let name = unique("nemesis");
            stack.kafka.create_topic(&name, 2, &[]).await;
            balances.push(BalanceTopic {
                feed: Mutex::new(Some(Feed::start(&stack.kafka, &name, 2, &workload, RATE))),
                name,
                partitions: AtomicI32::new(2),
                accounts,
            });
        }
        let names: Vec<&str> = balances.iter().map(|topic| topic.name.as_str()).collect();
        only_families(&database.client).await;
        let named = FAMILIES.join(",");
        let mut members = Vec::new();
        for number in 0..INGESTERS {
            // The first reads what its setting names, the others what has a handler, also later.
            let event_topics = if number == 0 { named.as_str() } else { UNSET };
            let settings = [
                ("EVENT_TOPICS", event_topics),
                ("DLQ_TOPIC", dlq.as_str()),
                ("RESULTS_TOPIC", results.as_str()),
            ];
            members.push(member(stack, &database, &names, &settings).await);
        }
        let handlers = definitions(&database.client).await;
        let domain_stop = std::sync::Arc::new(AtomicBool::new(false));
        let domain_feed = feed_families(stack, seed, domain_stop.clone());
        let arena = Self {
            stack: stack.clone(),
            database: database.name.clone(),
            admin_url: database.admin_url.clone(),
            _made: database,
            balances: balances
                .try_into()
                .unwrap_or_else(|_| unreachable!("two were made")),
            families,
            newcomers: Mutex::default(),
            dlq,
            results,
            members: members
                .try_into()
                .unwrap_or_else(|_| unreachable!("three were made")),
            services: tokio::sync::Mutex::default(),
            deeds: Mutex::default(),
            handlers,
            serial: AtomicI64::new(0),
            domain_stop,
            domain_feed: Mutex::new(Some(domain_feed)),
            findings: Mutex::default(),
            say,
            start: Instant::now(),
        };
        arena.say(format!(
            "database {}, topics {:?}",
            arena.database,
            arena.topics()
        ));
        arena
    }

    /// Names of all topics that are read, with their partitions.
    pub fn topics(&self) -> Vec<(String, i32)> {
        let balances = self
            .balances
            .iter()
            .map(|topic| (topic.name.clone(), topic.count()));
        let families = self.families.iter().map(|family| (family.name.clone(), 1));
        let newcomers = self.newcomers().into_iter();
        let newcomers = newcomers.map(|newcomer| (newcomer.topic, newcomer.partitions));
        balances.chain(families).chain(newcomers).collect()
    }

    /// A topic that is there to be read from now on.
    pub fn welcome(&self, newcomer: Newcomer) {
        let mut newcomers = self.newcomers.lock().expect("no panic while held");
        newcomers.push(newcomer);
    }

    /// Whether a topic was there from the beginning.
    pub fn is_old(&self, topic: &str) -> bool {
        let newcomers = self.newcomers();
        newcomers.iter().all(|newcomer| newcomer.topic != topic)
    }

    pub fn newcomers(&self) -> Vec<Newcomer> {
        self.newcomers.lock().expect("no panic while held").clone()
    }

    pub fn say(&self, line: String) {
        (self.say)(format!("{:7.2} {line}", self.start.elapsed().as_secs_f64()));
    }

    /// Something that must not be.
    pub fn finding(&self, finding: String) {
        self.say(format!("FINDING: {finding}"));
        self.findings
            .lock()
            .expect("no panic while held")
            .push(finding);
    }

    pub fn findings(&self) -> Vec<String> {
        self.findings.lock().expect("no panic while held").clone()
    }

    /// A number that no other deed has.
    pub fn next(&self) -> i64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// An account that no other deed touches.
    pub fn account(&self) -> i64 {
        OPERATORS + self.next()
    }

    /// A superuser's session, if the server lets one in.
    pub async fn session(&self) -> Option<Client> {
        let mut config: tokio_postgres::Config = self.admin_url.parse().expect("an address");
        config
            .application_name("nemesis")
            .connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await.ok()?;
        tokio::spawn(async move { drop(connection.await) });
        let limit = format!(
            "SET statement_timeout = '{STATEMENT_LIMIT}'; SET default_transaction_isolation = 'read committed'"
        );
        client.batch_execute(&limit).await.ok()?;
        Some(client)
    }

    /// What the server answers to an operator's statement, in a session of its own.
    pub async fn operate(&self, statement: &str) -> Answer {
        let Some(session) = self.session().await else {
            return Answer::Refused;
        };
        match session.simple_query(statement).await {
            Ok(_) => Answer::Done,
            // Ended or cancelled from outside: what became of it is not told.
            Err(error) => match error.code() {
                Some(code) if !code.code().starts_with("57") && !code.code().starts_with("08") => {
                    let words = error
                        .as_db_error()
                        .map(|answer| answer.message().to_owned());
                    self.say(format!(
                        "  refused ({}): {}",
                        code.code(),
                        words.unwrap_or_default()
                    ));
                    Answer::Refused
                }
                _ => Answer::Unknown,
            },
        }
    }

    /// An ingester that ended although nobody ended it is a finding; it is started again.
    pub async fn supervise(&self) {
        for member in &self.members {
            // Whoever holds it is about to end it.
            let Ok(mut member) = member.try_lock() else {
                continue;
            };
            if member.ingester.has_ended() {
                let tail = member.ingester.log_tail();
                self.finding(format!(
                    "{} ended by itself:\n{tail}",
                    member.ingester.service_id
                ));
                member.ingester.start_again();
            }
        }
    }

    pub async fn stop_load(&self) {
        for topic in &self.balances {
            let feed = topic.feed.lock().expect("no panic while held").take();
            if let Some(feed) = feed {
                feed.stop().await;
            }
        }
        self.domain_stop.store(true, Ordering::Relaxed);
        let feed = self.domain_feed.lock().expect("no panic while held").take();
        if let Some(feed) = feed {
            let ended = tokio::task::spawn_blocking(move || feed.join()).await;
            ended
                .expect("a blocking task")
                .expect("Kafka took everything");
        }
    }
}

async fn member(
    stack: &Stack,
    database: &Database,
    topics: &[&str],
    own: &[(&str, &str)],
) -> tokio::sync::Mutex<Member> {
    let proxy = Proxy::start(stack.postgres_port).await;
    let topics = topics.join(",");
    let settings = [
        ("BALANCE_TOPICS", topics.as_str()),
        ("REDIS_URL", stack.redis_url.as_str()),
        ("BATCH_SIZE", "100"),
        ("BATCHING_DELAY_MS", "5"),
        ("RETRY_DELAY_MS", "200"),
        ("RUST_LOG", "info,sluice=debug"),
    ];
    let settings = [settings.as_slice(), own].concat();
    let url = database.url_through(stack, proxy.port);
    let ingester = Ingester::start(stack, &url, &topics, &settings);
    tokio::sync::Mutex::new(Member { ingester, proxy })
}

/// Other tests on this stack have topics of the other types.
async fn only_families(client: &Client) {
    let query = "SELECT sluice.unregister_handler(h.event_type) FROM ledger.event_handlers h WHERE h.event_type <> ALL ($1)";
    let unregistered = client.query(query, &[&FAMILIES.as_slice()]).await;
    unregistered.expect("a superuser may");
}

/// Each family's handler, as it can be created again.
async fn definitions(client: &Client) -> HashMap<String, String> {
    let query =
        "SELECT h.event_type, pg_get_functiondef(to_regprocedure(h.handler || '(domain.event[])'))
        FROM ledger.event_handlers h WHERE h.event_type = ANY ($1)";
    let rows = client
        .query(query, &[&FAMILIES.as_slice()])
        .await
        .expect("handlers");
    assert_eq!(rows.len(), FAMILIES.len(), "a family has no handler");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn feed_families(
    stack: &Stack,
    seed: u64,
    stop: std::sync::Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    let kafka = stack.kafka.clone();
    std::thread::spawn(move || {
        let types = EventType::all().into_iter();
        let types: Vec<EventType> = types
            .filter(|found| FAMILIES.contains(&found.name.as_str()))
            .collect();
        let events = random::stream(&mut Rng::stream(seed, 5), &types, DOMAIN_EVENTS);
        let producer = kafka.producer_with(&[("linger.ms", "1")]);
        let (start, mut sent) = (Instant::now(), 0);
        while !stop.load(Ordering::Relaxed) {
            let due = (start.elapsed().as_secs_f64() * DOMAIN_RATE as f64) as usize;
            for (topic, message) in &events[sent.min(events.len())..due.min(events.len())] {
                producer.send(topic, 0, message);
            }
            sent = due;
            producer.poll();
            std::thread::sleep(Duration::from_millis(2)); // the load's own clock
        }
        producer.flush();
    })
}
