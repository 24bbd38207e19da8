//! One path through ingester and extension: its load, its two ingesters, and one case after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proofs::compare::{Accounts, Source, compare_topics};
use proofs::database::Database;
use proofs::deeds::{Answer, Correction, Deeds};
use proofs::event::Account;
use proofs::fault_points::{FaultPoints, Side, go_on, is_stopped, sluice_with_faults};
use proofs::ingester::Ingester;
use proofs::load::Feed;
use proofs::reference::parse_numeric;
use proofs::rng::Rng;
use proofs::scene::{STALL, Scene};
use proofs::stack::unique;
use proofs::wait::wait_until;
use proofs::watch::led_by;
use proofs::workload::{Workload, credit};
use rustix::process::Pid;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::domain::Notes;

/// How batches come to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// Small ones of several partitions, in common transactions.
    Group,
    /// Large ones of one partition each, by COPY.
    Copy,
    /// Domain events with a handler.
    Domain,
}

/// Where triggers put fault points between the statements of SQL functions, in an operator's session only.
const TRIGGERS: &str = "
    CREATE FUNCTION public.fault_point(name text) RETURNS void AS 'sluice', 'fault_point_wrapper' LANGUAGE c STRICT;
    CREATE FUNCTION public.at_statement() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('proofs.operator', true) = 'on' THEN
            PERFORM public.fault_point(TG_ARGV[0]);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER at_statement AFTER UPDATE ON ledger.partition_leases FOR EACH STATEMENT EXECUTE FUNCTION public.at_statement('sql.step_down');
    CREATE TRIGGER at_statement AFTER INSERT ON ledger.retention FOR EACH STATEMENT EXECUTE FUNCTION public.at_statement('sql.prune_retention');
    CREATE TRIGGER at_statement AFTER INSERT ON ledger.balance_checkpoints FOR EACH STATEMENT EXECUTE FUNCTION public.at_statement('sql.prune_carried');
    CREATE TRIGGER at_statement AFTER DELETE ON ledger.dead_letters FOR EACH STATEMENT EXECUTE FUNCTION public.at_statement('sql.prune_letters');
    CREATE FUNCTION public.at_action() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('proofs.operator', true) = 'on' THEN
            PERFORM public.fault_point(CASE NEW.action WHEN 'REPLAY' THEN 'sql.replay_recorded' ELSE 'sql.discard_recorded' END);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER at_action AFTER INSERT ON ledger.dead_letter_actions FOR EACH ROW EXECUTE FUNCTION public.at_action();";

/// How long a point may take until somebody comes by.
const REACHED: Duration = Duration::from_secs(30);
/// Offsets behind the committed one that no prune touches: an id may come again so much later.
const KEPT: i64 = 1_000;
/// Accounts of corrections, which no load touches.
const OPERATORS: i64 = 9_000_000_000;

pub struct Chapter {
    path: Path,
    scene: Scene,
    notes: Option<Notes>,
    points: FaultPoints,
    instances: [Ingester; 2],
    feed: Option<Feed>,
    deeds: Deeds,
    /// Numbers notes, good and bad.
    sent: AtomicU64,
    bad: AtomicU64,
    serial: i64,
}

pub struct Told {
    records: u64,
    verdicts: BTreeMap<String, u64>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records {:?}", self.records, self.verdicts)
    }
}

impl Chapter {
    pub async fn begin(path: Path, seed: u64) -> Self {
        let partitions = if path == Path::Group { 4 } else { 2 };
        let scene = Scene::new(partitions).await;
        let points = FaultPoints::new(&scene.stack);
        points.load_into(&scene.database).await;
        let session = scene.database.session().await;
        session.batch_execute(TRIGGERS).await.expect("triggers");
        let (dlq, told) = (unique("dlq"), unique("results"));
        scene.kafka().create_topic(&dlq, 1, &[]).await;
        scene.kafka().create_topic(&told, 1, &[]).await;
        let notes = match path {
            Path::Domain => {
                let notes = Notes::new(&scene, 2).await;
                notes.register(&scene).await;
                Some(notes)
            }
            _ => None,
        };
        let (size, delay, rate) = match path {
            Path::Group => ("200", "5", 600),
            Path::Copy => ("4000", "500", 2_000),
            Path::Domain => ("200", "5", 100),
        };
        let event_topics = notes.as_ref().map_or("", |notes| notes.topic.as_str());
        let settings = [
            points.setting(),
            ("EVENT_TOPICS", event_topics),
            ("DLQ_TOPIC", dlq.as_str()),
            ("RESULTS_TOPIC", told.as_str()),
            ("BATCH_SIZE", size),
            ("BATCHING_DELAY_MS", delay),
            ("RETRY_DELAY_MS", "100"),
        ];
        let instances = [(); 2].map(|()| {
            let (url, topic) = (&scene.database.url, &scene.topic);
            Ingester::start_build(sluice_with_faults(), &scene.stack, url, topic, &settings)
        });
        let feed = scene.feed(&Workload::forgetting(seed), rate);
        scene.committed_beyond(200).await;
        Self {
            path,
            scene,
            notes,
            points,
            instances,
            feed: Some(feed),
            deeds: Deeds::default(),
            sent: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            serial: 0,
        }
    }

    pub async fn case(&mut self, rng: &mut Rng, point: &str, side: Side, action: &str) {
        let case = format!("{:?}: {point} {action}", self.path);
        self.points.arm(point, action);
        if point.starts_with("alone.") {
            self.points.arm("group.commit", "raise");
        }
        let trigger = self.trigger(rng, point).await;
        let what = format!("{case}: the fault point to be reached");
        wait_until(&what, REACHED, async || {
            if matches!(trigger, Trigger::Load) {
                self.send_notes(1);
            }
            self.points.hit(point).is_some()
        })
        .await;
        let pid = self.points.hit(point).expect("just seen");
        match action {
            "crash" if side == Side::Ingester => self.ended(pid).await,
            "crash" => self.recovered().await,
            "freeze" => self.frozen(rng, pid, side).await,
            _ => {}
        }
        self.finish(&case, trigger).await;
        self.points.forget(point);
        self.points.forget("group.commit");
        for instance in &mut self.instances {
            if instance.has_ended() {
                instance.start_again();
            }
        }
        self.goes_on(&case).await;
    }

    /// Somebody, a successor or the same again, commits in every partition.
    async fn goes_on(&mut self, case: &str) {
        self.send_notes(20);
        let mut topics = vec![self.scene.topic.clone()];
        topics.extend(self.notes.as_ref().map(|notes| notes.topic.clone()));
        for topic in topics {
            let before = self.scene.database.progress(&topic).await;
            let what = format!("{case}: all partitions of {topic} to go on");
            wait_until(&what, STALL, async || {
                let now = self.scene.database.progress(&topic).await;
                let moved = now.iter().filter(|(partition, now)| {
                    let before = before
                        .get(partition)
                        .map_or(0, |before| before.commit_offset);
                    now.commit_offset > before
                });
                if moved.count() == now.len() {
                    return true;
                }
                self.send_notes(1);
                false
            })
            .await;
        }
    }

    async fn ended(&mut self, pid: Pid) {
        let instance = self.instance(pid);
        instance.ended(Duration::from_secs(20)).await;
    }

    fn instance(&mut self, pid: Pid) -> &mut Ingester {
        let pid = pid.as_raw_nonzero().get() as u32;
        let mut instances = self.instances.iter_mut();
        instances
            .find(|instance| instance.pid() == pid)
            .expect("one of our ingesters")
    }

    /// A backend that crashed takes all sessions with it; PostgreSQL recovers.
    async fn recovered(&mut self) {
        let url = self.scene.database.admin_url.clone();
        wait_until("PostgreSQL to notice", STALL, async || {
            self.scene.database.client.is_closed()
        })
        .await;
        wait_until("PostgreSQL to recover", STALL, async || {
            let connecting = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
            let Ok((client, connection)) = connecting else {
                return false;
            };
            let serving = tokio::spawn(async move { drop(connection.await) });
            let answered = client.batch_execute("SELECT 1").await.is_ok();
            serving.abort();
            answered
        })
        .await;
        self.scene.database.reconnect().await;
    }

    /// Frozen for less than a lease or for more.
    async fn frozen(&mut self, rng: &mut Rng, pid: Pid, side: Side) {
        wait_until("the process to stand still", REACHED, async || {
            is_stopped(pid)
        })
        .await;
        let time = Duration::from_millis(rng.between(100, 4_500));
        tokio::time::sleep(time).await; // how long the fault lasts
        go_on(pid);
        if side == Side::Ingester {
            assert!(!self.instance(pid).has_ended(), "it goes on");
        }
    }
}

/// What makes somebody come by a point.
enum Trigger {
    /// The load does.
    Load,
    /// An operator, whose answer is awaited.
    Operator(Deed, JoinHandle<Answer>),
    /// An ingester that is asked to stop.
    Stop(usize),
}

/// What an operator does.
enum Deed {
    Correct(Correction),
    Replay((String, i32, i64)),
    Discard((String, i32, i64)),
    Other,
}

impl Chapter {
    async fn trigger(&mut self, rng: &mut Rng, point: &str) -> Trigger {
        let partition = rng.below(self.scene.partitions as u64) as i32;
        let topic = self.scene.topic.clone();
        match point {
            "lease.release" | "lease.released" | "release.before" | "release.done" => {
                let victim = self.leader(rng).await;
                self.instances[victim].terminate();
                Trigger::Stop(victim)
            }
            "lease.acquired" | "sql.step_down" => self.step_down(&topic, partition).await,
            _ if point.starts_with("acquire.") => self.step_down(&topic, partition).await,
            _ if point.starts_with("correct.") => self.correct().await,
            _ if point.starts_with("sql.prune") => {
                let committed =
                    self.scene.database.progress(&topic).await[&partition].commit_offset;
                let prune = format!(
                    "SELECT sluice.prune('{topic}', {partition}, {}, interval '0', 200, false)",
                    (committed - KEPT).max(0)
                );
                self.operate(Deed::Other, prune).await
            }
            "sql.discard_recorded" => self.discard().await,
            "sql.replay_recorded" => self.replay().await,
            _ if point.starts_with("replay.") => self.replay().await,
            _ if point.starts_with("letters.") => {
                self.send_bad_note();
                Trigger::Load
            }
            _ => Trigger::Load,
        }
    }

    /// An ingester that has something to release.
    async fn leader(&self, rng: &mut Rng) -> usize {
        let (database, topic) = (&self.scene.database, &self.scene.topic);
        let mut number = rng.below(2) as usize;
        wait_until("an ingester to lead", STALL, async || {
            number = 1 - number;
            let led = led_by(database, topic, &self.instances[number].service_id).await;
            !led.is_empty()
        })
        .await;
        number
    }

    async fn step_down(&self, topic: &str, partition: i32) -> Trigger {
        let statement = format!("SELECT sluice.step_down('{topic}', {partition})");
        self.operate(Deed::Other, statement).await
    }

    async fn correct(&mut self) -> Trigger {
        self.serial += 1;
        let account = OPERATORS + self.serial;
        let correction = Correction {
            account: Account::new(account, 0, "USD").expect("a currency code"),
            available: parse_numeric("12.5").expect("an amount"),
            answer: Answer::Unknown,
        };
        let statement = format!(
            r#"SELECT sluice.apply_balance_changes('[{{"accountId": {account}, "currencyCode": "USD", "availableDelta": "12.5"}}]', 'a proof', false)"#
        );
        self.operate(Deed::Correct(correction), statement).await
    }

    /// A parked letter that no deed was done to yet.
    async fn letter(&mut self) -> (i64, (String, i32, i64)) {
        if self.notes.is_some() {
            self.send_bad_note();
        }
        let topic = match &self.notes {
            Some(notes) => notes.topic.clone(),
            None => self.scene.topic.clone(),
        };
        let query = "SELECT id, topic, partition, kafka_offset FROM ledger.dead_letters
            WHERE topic = $1 AND status = 'PARKED' AND (attempts > 2 OR error_code <> 'HANDLER_FAILED') ORDER BY id";
        let mut found = None;
        wait_until("a dead letter", STALL, async || {
            let rows = self.scene.database.client.query(query, &[&topic]).await;
            found = rows.expect("dead letters").iter().find_map(|row| {
                let place = (row.get(1), row.get(2), row.get(3));
                let is_new = !self.deeds.letters.contains_key(&place);
                is_new.then(|| (row.get(0), place))
            });
            found.is_some()
        })
        .await;
        found.expect("just found")
    }

    async fn replay(&mut self) -> Trigger {
        let (id, place) = self.letter().await;
        self.serial += 1;
        let (event_id, account) = (
            format!("corrected-{}", self.serial),
            OPERATORS + self.serial,
        );
        let payload = match &self.notes {
            Some(notes) => notes.message(&event_id, &event_id, Some("corrected"), 1),
            None => credit(&event_id, account, "7"),
        };
        let payload = payload.payload.expect("it has one");
        let statement = format!(
            "SELECT * FROM sluice.replay_dead_letters(ids => ARRAY[{id}::bigint], payload => convert_to('{}', 'UTF8'), why => 'a proof', dry_run => false)",
            String::from_utf8(payload.clone()).expect("JSON")
        );
        let letter = self.deeds.letters.entry(place.clone()).or_default();
        letter.payload = Some(payload);
        self.operate(Deed::Replay(place), statement).await
    }

    async fn discard(&mut self) -> Trigger {
        let (id, place) = self.letter().await;
        let statement = format!(
            "SELECT * FROM sluice.discard_dead_letters(ids => ARRAY[{id}::bigint], why => 'a proof', dry_run => false)"
        );
        let letter = self.deeds.letters.entry(place.clone()).or_default();
        letter.may_be_discarded = true;
        self.operate(Deed::Discard(place), statement).await
    }

    /// An operator in a session of its own.
    async fn operate(&self, deed: Deed, statement: String) -> Trigger {
        let session: Client = self.scene.database.session().await;
        let answer = tokio::spawn(async move {
            let marked = session.batch_execute("SET proofs.operator = 'on'").await;
            let answer = match marked {
                Ok(()) => session.simple_query(&statement).await.map(drop),
                Err(error) => Err(error),
            };
            match answer {
                Ok(()) => Answer::Done,
                // Whoever is ended by the server was not told what became of it.
                Err(error) => match error.code() {
                    Some(code) if !code.code().starts_with("57") => Answer::Refused,
                    _ => Answer::Unknown,
                },
            }
        });
        Trigger::Operator(deed, answer)
    }

    async fn finish(&mut self, case: &str, trigger: Trigger) {
        match trigger {
            Trigger::Load => {}
            Trigger::Stop(victim) => {
                // It ended itself, or was ended by what happened at the point.
                self.instances[victim].ended(Duration::from_secs(20)).await;
            }
            Trigger::Operator(deed, answer) => {
                let answer = tokio::time::timeout(STALL, answer).await;
                let answer = answer.unwrap_or_else(|_| panic!("{case}: no answer to the operator"));
                let answer = answer.expect("it does not panic");
                match deed {
                    Deed::Other => {}
                    Deed::Correct(correction) => self.deeds.corrections.push(Correction {
                        answer,
                        ..correction
                    }),
                    Deed::Replay(place) => self.settle(&place, answer, "REPLAYED"),
                    Deed::Discard(place) => self.settle(&place, answer, "DISCARDED"),
                }
            }
        }
    }

    fn settle(&mut self, place: &(String, i32, i64), answer: Answer, status: &'static str) {
        let letter = self.deeds.letters.get_mut(place).expect("noted before");
        letter.settled = match answer {
            Answer::Done => Some(status),
            Answer::Refused => Some("PARKED"),
            Answer::Unknown => None,
        };
    }

    /// To each partition.
    fn send_notes(&self, count: u64) {
        let Some(notes) = &self.notes else { return };
        for partition in 0..2 {
            let first = self.sent.fetch_add(count, Ordering::Relaxed);
            let messages = (first..first + count).map(|n| {
                let id = format!("note-{n}");
                notes.message(&id, &id, Some("text"), 1)
            });
            let messages: Vec<_> = messages.collect();
            self.scene
                .kafka()
                .produce(&notes.topic, partition, messages);
        }
    }

    fn send_bad_note(&self) {
        let Some(notes) = &self.notes else { return };
        let id = format!("bad-{}", self.bad.fetch_add(1, Ordering::Relaxed));
        let message = notes.message(&id, &id, None, 1);
        self.scene.kafka().produce(&notes.topic, 0, [message]);
    }

    pub async fn end(mut self) -> Told {
        self.feed.take().expect("ended once").stop().await;
        self.scene.caught_up().await;
        let Scene {
            stack,
            database,
            topic,
            partitions,
        } = &self.scene;
        let topics = [(topic.as_str(), *partitions, Accounts::OfOnePartition)];
        let deeds = Arc::new(std::mem::take(&mut self.deeds));
        let report = compare_topics(Source::Topic, stack, database, &topics, &deeds).await;
        report.assert_none();
        if let Some(notes) = &self.notes {
            database
                .caught_up(&stack.kafka, &notes.topic, 2, STALL)
                .await;
            self.compare_notes(notes, database, &deeds).await;
        }
        self.scene.verify_invariants().await;
        database.audit(topic).await;
        for instance in &mut self.instances {
            instance.stop().await;
        }
        Told {
            records: report.records,
            verdicts: report.verdicts,
        }
    }

    async fn compare_notes(&self, notes: &Notes, database: &Database, deeds: &Deeds) {
        let count = |what: &str| format!("SELECT count(*) FROM {what}");
        let of = |condition: &str| {
            count(&format!(
                "ledger.event_verdicts WHERE topic = '{}' AND {condition}",
                notes.topic
            ))
        };
        let corrected = format!("domain.{} WHERE body = 'corrected'", notes.table);
        let corrected = database.count(&count(&corrected)).await;
        let replayed = format!(
            "ledger.dead_letters WHERE topic = '{}' AND status = 'REPLAYED'",
            notes.topic
        );
        assert_eq!(
            database.count(&count(&replayed)).await,
            corrected,
            "each correction is one row"
        );
        let mut certain = 0;
        for ((_, partition, offset), letter) in deeds
            .letters
            .iter()
            .filter(|((topic, ..), _)| *topic == notes.topic)
        {
            let Some(status) = letter.settled else {
                continue;
            };
            certain += i64::from(status == "REPLAYED");
            let at = format!(
                "ledger.dead_letters WHERE topic = '{}' AND partition = {partition} AND kafka_offset = {offset} AND status = '{status}'",
                notes.topic
            );
            assert_eq!(
                database.count(&count(&at)).await,
                1,
                "{status} was answered for {partition}@{offset}"
            );
        }
        assert!(corrected >= certain);
        let (sent, bad) = (
            self.sent.load(Ordering::Relaxed) as i64,
            self.bad.load(Ordering::Relaxed) as i64,
        );
        assert_eq!(
            notes.count(&self.scene).await,
            sent + corrected,
            "every good note, once"
        );
        assert_eq!(
            database.count(&of("verdict = 'APPLIED'")).await,
            sent + corrected
        );
        assert_eq!(
            database.count(&of("reason = 'HANDLER_FAILED'")).await,
            bad - corrected
        );
        assert_eq!(
            database.count(&of("true")).await,
            sent + bad,
            "one verdict each"
        );
    }
}
