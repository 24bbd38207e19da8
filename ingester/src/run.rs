//! The conductor: the one loop that acquires partitions, starts and stops their lanes, and
//! hands them over. Time, notifications, finished lanes and shutdown all enter here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBackoff;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use crate::aftercare::Aftercare;
use crate::apply::{self, Applier};
use crate::config::{RunSettings, StartOffset};
use crate::error::{Consequence, back_off, back_off_up_to, consequence, describe, is_refusal};
use crate::group::Group;
use crate::hint::Hint;
use crate::http::{self, LastAnswer, Told};
use crate::lane::{End, Lane};
use crate::lease::{Acquired, Held, Leadership, Session};
use crate::look::{ACTION_LIMIT, Look};
use crate::metrics::Metrics;
use crate::outlet::Outlet;
use crate::partition::Partition;
use crate::pool::{First, Manager, Pool};
use crate::pooler;
use crate::renewals::{self, Leases, Renewals};
use crate::report::{self, Report};
use crate::results::Results;
use crate::schema::{self, Misfit};
use crate::share::{self, Barrier};
use crate::source::{Kafka, TopicId};
use crate::status::Status;
use crate::topics::{self, Topic, Topics};
use crate::watcher::Watcher;

/// How often Kafka is asked for the partitions of our topics.
const TOPICS_INTERVAL: Duration = Duration::from_secs(2);
/// How often for topics of registered handlers that are not there yet.
const MISSING_INTERVAL: Duration = Duration::from_secs(5);
/// How often the database is asked for new handlers.
const HANDLERS_INTERVAL: Duration = Duration::from_secs(4);
/// How often group offsets are committed, as a hint.
const GROUP_OFFSETS_INTERVAL: Duration = Duration::from_secs(1);
/// How often a busy instance says how it goes.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// How long stopping may take in all.
const STOP_LIMIT: Duration = Duration::from_millis(4_500);
/// How long PostgreSQL may take to release a partition.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// How long a migration under way may go without the grants that come at its end.
const MIGRATION: Duration = Duration::from_secs(60);
/// Renewals, standby, watcher.
pub const CONTROL_CONNECTIONS: usize = 3;
/// Between tries to open the session for standby, at most.
const STANDBY_WAIT: Duration = Duration::from_secs(1);
/// A partition that some transaction keeps from having a leader is tried again after this time.
const BLOCKED: Duration = Duration::from_secs(2);
/// For the page: opened once somebody looks at it.
const OPERATOR_CONNECTIONS: usize = 3;

type Ended = Result<(Partition, Arc<Leadership>, End), tokio::task::JoinError>;

/// A lane that runs.
struct Led {
    /// What keeps the partition from being read.
    barrier: watch::Sender<Option<Barrier>>,
    stop: CancellationToken,
    look_again: Arc<Notify>,
}

/// Runs until `shutdown`; an error is one line for the operator.
pub async fn run(settings: RunSettings, shutdown: CancellationToken) -> Result<(), String> {
    let (status, metrics) = (Arc::<Status>::default(), Arc::<Metrics>::default());
    status.batches_wait(settings.gate.batching_delay);
    let kafka = Arc::new(Kafka::connect(&settings.kafka, status.clone())?);
    kafka.serve();
    let watcher = Watcher::new(settings.database.clone(), metrics.clone());
    let watcher = Arc::new(watcher);
    let pool = Manager::of(&settings.database, &watcher)
        .pool(settings.pool_size, settings.connection_timeout)?;
    // Before anything that may have to be waited for: health is told from the first moment on.
    let listener = http::bind("DB_WRITER_SERVICE_PORT", settings.http).await?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let probes = match settings.probes {
        Some(address) => Some(http::bind("PROBE_PORT", address).await?),
        None => None,
    };
    let operator = settings.operator.clone().with_statement_limit(ACTION_LIMIT);
    let operator = Manager::of_operator(&operator, &watcher)
        .pool(OPERATOR_CONNECTIONS, settings.connection_timeout)?;
    let look = Arc::new(Look::new(operator.clone()));
    let told = Arc::new(Told {
        service_id: settings.service_id.clone(),
        status: status.clone(),
        metrics: metrics.clone(),
        pool: pool.clone(),
        pool_size: settings.pool_size + CONTROL_CONNECTIONS,
        operator,
        look: look.clone(),
        admin_token: settings.admin_token.clone(),
        health: LastAnswer::default(),
        scrape: LastAnswer::default(),
    });
    let _probing = match probes {
        Some(listener) => {
            let address = listener.local_addr().map_err(|error| error.to_string())?;
            info!(probes = %address, "serving /livez and /readyz");
            let probing = http::serve_probes(listener, told.clone());
            Some(AbortOnDropHandle::new(tokio::spawn(probing)))
        }
        None => None,
    };
    let serving = AbortOnDropHandle::new(tokio::spawn(http::serve(listener, told)));
    let _looking_for_page = AbortOnDropHandle::new(tokio::spawn(async move { look.run().await }));
    info!(%address, "serving the page, /health and /metrics");
    let (wake, woken) = mpsc::channel(1);
    let Some(standby) = connect_first(&settings, &wake, &shutdown).await? else {
        return Ok(());
    };
    info!(
        service_id = settings.service_id,
        balance_topics = settings.kafka.balance_topics.join(","),
        event_topics = settings
            .kafka
            .event_topics
            .as_ref()
            .map(|names| names.join(",")),
        database = settings.database.address(),
        kafka = settings.kafka.brokers,
        batch_size = settings.gate.batch_size,
        "sluice runs"
    );
    watcher.precedence.is(First::Standby, true);
    let leases = Arc::<Leases>::default();
    let mut renewals = AbortOnDropHandle::new(tokio::spawn(renewals::run(Renewals {
        database: settings.database.clone(),
        lease: settings.lease,
        interval: settings.renew_interval,
        leases: leases.clone(),
        watcher: watcher.clone(),
        status: status.clone(),
        metrics: metrics.clone(),
    })));
    let watching = watcher.clone();
    let watching = AbortOnDropHandle::new(tokio::spawn(async move { watching.run().await }));
    let outlet = |topic: &Option<String>| {
        let topic = topic.as_ref();
        topic
            .map(|topic| Outlet::new(&settings.kafka, topic))
            .transpose()
    };
    let results = outlet(&settings.kafka.results_topic)?.map(|outlet| {
        let results = Results {
            pool: pool.clone(),
            outlet,
            status: status.clone(),
            begun: HashSet::new(),
        };
        let led = leases.clone();
        AbortOnDropHandle::new(tokio::spawn(results.run(move || led.all())))
    });
    let hint = settings.redis.clone();
    let ttl = hint.as_ref().map(|(_, ttl)| *ttl);
    let hint = hint.map(|(redis, ttl)| Hint::start(redis, ttl, pool.clone(), status.clone()));
    let aftercare = Aftercare {
        pool: pool.clone(),
        retry: settings.retry.clone(),
        hint: hint.clone().zip(ttl),
        outlet: outlet(&settings.kafka.dlq_topic)?,
        wake: Arc::default(),
        metrics: metrics.clone(),
    };
    let wake_aftercare = aftercare.wake.clone();
    let led = leases.clone();
    let aftercare = AbortOnDropHandle::new(tokio::spawn(aftercare.run(move || led.all())));
    let wanted = Topics::new(&settings.kafka);
    let (looking, looked_at) = (metrics.clone(), pool.clone());
    let dangling_after = settings.dangling_after;
    let _looking = AbortOnDropHandle::new(tokio::spawn(async move {
        looking.look(looked_at, dangling_after).await;
    }));
    let conductor = Conductor {
        topics: watch::Sender::new(wanted.with(&[])),
        wanted,
        handlers_seen: None,
        aftercare: wake_aftercare,
        hint,
        kafka,
        turns: Arc::new(Semaphore::new(settings.apply_concurrency)),
        group: Group::new(pool.clone()),
        pool,
        standby: Some(Arc::new(standby)),
        standby_waits: back_off_up_to(STANDBY_WAIT),
        standby_after: None,
        watcher,
        blocked: HashMap::new(),
        wake,
        leases,
        lanes: HashMap::new(),
        running: JoinSet::new(),
        counts: BTreeMap::new(),
        news: BTreeMap::new(),
        at_first: HashMap::new(),
        status,
        metrics,
        report: Report::default(),
        reported_at: None,
        quit: shutdown.clone(),
        said: HashMap::new(),
        settings,
    };
    tokio::select! {
        () = conductor.conduct(woken, shutdown) => Ok(()),
        // It never ends by itself: without renewals no lease would last.
        ended = aftercare => Err(format!("looking after dead letters has failed: {ended:?}")),
        ended = serving => Err(format!("serving HTTP has failed: {ended:?}")),
        ended = ended(results) => Err(format!("producing results has failed: {ended:?}")),
        ended = &mut renewals => Err(format!("renewing leases has failed: {ended:?}")),
        ended = watching => Err(format!("watching for answers has failed: {ended:?}")),
    }
}

/// Waits for a task that there may not be.
async fn ended(task: Option<AbortOnDropHandle<()>>) -> Result<(), tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// The first connection: waits for a server that is away and for a migration, gives up on one that refuses.
async fn connect_first(
    settings: &RunSettings,
    wake: &mpsc::Sender<()>,
    shutdown: &CancellationToken,
) -> Result<Option<Session>, String> {
    let mut waits = back_off();
    let mut was_behind: Option<Instant> = None;
    loop {
        let opened = async {
            let session =
                Session::open(&settings.database, settings.lease, Some(wake.clone())).await?;
            if pooler::is_between(session.client(), &settings.database).await? {
                let address = settings.database.address();
                let shared = format!("DATABASE_URL: {address}: {}", pooler::ADVICE);
                return Ok((session, Err(Misfit::Wrong(shared))));
            }
            let fit = schema::fits(session.client()).await?;
            Ok::<_, tokio_postgres::Error>((session, fit))
        };
        let address = settings.database.address();
        let unreachable =
            |why: &str| format!("cannot reach PostgreSQL at {address}, trying again: {why}");
        let trouble = match tokio::time::timeout(settings.connection_timeout * 2, opened).await {
            Ok(Ok((session, Ok(())))) => return Ok(Some(session)),
            Ok(Ok((_, Err(Misfit::Wrong(misfit))))) => return Err(misfit),
            Ok(Ok((_, Err(Misfit::Behind(misfit))))) => {
                was_behind = Some(Instant::now());
                format!("waiting for a migration: {misfit}")
            }
            // Its grants come last.
            Ok(Err(error))
                if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
                    && was_behind.is_some_and(|since| since.elapsed() < MIGRATION) =>
            {
                format!("waiting for the end of a migration: {}", describe(&error))
            }
            Ok(Err(error)) if is_refusal(&error) || consequence(&error) == Consequence::Halt => {
                return Err(format!(
                    "DATABASE_URL: PostgreSQL at {address} refuses: {}",
                    describe(&error)
                ));
            }
            Ok(Err(error)) => unreachable(&describe(&error)),
            Err(_) => unreachable("no answer in time"),
        };
        warn!("DATABASE_URL: {trouble}");
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(waits.next().unwrap_or(SAY_AGAIN)) => {}
        }
    }
}

struct Conductor {
    settings: RunSettings,
    wanted: Topics,
    /// What is read now.
    topics: watch::Sender<BTreeMap<String, Topic>>,
    /// When registered handlers were last looked at.
    handlers_seen: Option<Instant>,
    /// Looks after dead letters.
    aftercare: Arc<Notify>,
    /// Marks processed events in Redis.
    hint: Option<Hint>,
    kafka: Arc<Kafka>,
    pool: Pool,
    turns: Arc<Semaphore>,
    group: Arc<Group>,
    standby: Option<Arc<Session>>,
    /// Tries to open it again, and before when not.
    standby_waits: ExponentialBackoff,
    standby_after: Option<Instant>,
    watcher: Arc<Watcher>,
    /// Partitions that a transaction keeps from having a leader, and until when they are left alone.
    blocked: HashMap<Partition, Instant>,
    wake: mpsc::Sender<()>,
    leases: Arc<Leases>,
    lanes: HashMap<Partition, Led>,
    running: JoinSet<(Partition, Arc<Leadership>, End)>,
    /// Partitions of each topic, as far as Kafka has told.
    counts: BTreeMap<String, i32>,
    /// Topics that Kafka has told of, existing or not, which the database has not heard of from us.
    news: BTreeMap<String, i32>,
    /// How many partitions each topic had when Sluice first started on it.
    at_first: HashMap<String, i32>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    report: Report,
    reported_at: Option<Instant>,
    /// The process is to end.
    quit: CancellationToken,
    /// When a trouble was last said.
    said: HashMap<String, Instant>,
}

impl Conductor {
    async fn conduct(mut self, mut woken: mpsc::Receiver<()>, shutdown: CancellationToken) {
        let (tell, mut told) = mpsc::channel(16);
        let topics = tokio::spawn(watch_topics(
            self.kafka.clone(),
            self.topics.subscribe(),
            tell,
        ));
        let mut polls = tokio::time::interval(self.settings.standby_poll);
        polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut group_offsets = tokio::time::interval(GROUP_OFFSETS_INTERVAL);
        let mut reports = tokio::time::interval(REPORT_INTERVAL);
        let mut reported = 0;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.running.join_next() => self.finished(done).await,
                Some(TopicTold { topic, count, is_other }) = told.recv() => {
                    if is_other {
                        self.look_again(&topic);
                    }
                    self.topic_told(topic, count);
                }
                Some(()) = woken.recv() => self.round_unless(&shutdown).await,
                _ = polls.tick() => self.round_unless(&shutdown).await,
                _ = group_offsets.tick() => self.commit_group_offsets(),
                _ = reports.tick() => {
                    let records = self.status.records();
                    if records > reported {
                        let rate = (records - reported) as f64 / REPORT_INTERVAL.as_secs_f64();
                        info!(records, records_per_second = rate.round(), partitions = self.lanes.len(), "committing");
                    }
                    reported = records;
                }
            }
        }
        topics.abort();
        if tokio::time::timeout(STOP_LIMIT, self.stop()).await.is_err() {
            warn!("stopped without releasing everything; the leases end by themselves");
        }
    }

    /// A server that does not answer must not keep us from stopping.
    async fn round_unless(&mut self, shutdown: &CancellationToken) {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = self.round() => {}
        }
    }

    /// One look around: what we should lead, what to take, what to hand over.
    async fn round(&mut self) {
        if self.standby.is_none()
            && self
                .standby_after
                .is_some_and(|after| Instant::now() < after)
        {
            return;
        }
        let limit = self.settings.lease.max(Duration::from_secs(2));
        match tokio::time::timeout(limit, self.try_round()).await {
            Ok(Ok(())) => self.status.database_answered(),
            Ok(Err(error)) => {
                self.say(
                    "database",
                    format!(
                        "cannot look for partitions, trying again: {}",
                        describe(&error)
                    ),
                );
                self.drop_standby();
            }
            Err(_) => {
                self.say(
                    "database",
                    "cannot look for partitions: PostgreSQL does not answer".into(),
                );
                self.drop_standby();
            }
        }
    }

    /// Leases acquired through it since the last renewal look free once it is gone: the other session takes them over.
    fn drop_standby(&mut self) {
        self.standby = None;
        self.watcher.precedence.is(First::Standby, false);
        self.leases.renew_now.notify_one();
    }

    async fn standby(&mut self) -> Result<Arc<Session>, tokio_postgres::Error> {
        if let Some(session) = self.standby.as_ref().filter(|session| !session.is_closed()) {
            return Ok(session.clone());
        }
        self.drop_standby();
        let wait = self.standby_waits.next().unwrap_or(STANDBY_WAIT);
        self.standby_after = Some(Instant::now() + wait);
        let (lease, wake) = (self.settings.lease, Some(self.wake.clone()));
        let session = Arc::new(Session::open(&self.settings.database, lease, wake).await?);
        self.standby = Some(session.clone());
        self.watcher.precedence.is(First::Standby, true);
        self.standby_waits = back_off_up_to(STANDBY_WAIT);
        self.warm_up();
        Ok(session)
    }

    /// Connections that the first batches will need are opened before them.
    fn warm_up(&self) {
        let partitions: i32 = self.counts.values().sum();
        tokio::spawn(apply::warm_up(self.pool.clone(), partitions as usize));
    }

    async fn try_round(&mut self) -> Result<(), tokio_postgres::Error> {
        let session = self.standby().await?;
        let name = self.settings.service_id.clone();
        if self
            .handlers_seen
            .is_none_or(|seen| seen.elapsed() > HANDLERS_INTERVAL)
        {
            self.follow_handlers(&session).await?;
        }
        let names: Vec<String> = self.topics.borrow().keys().cloned().collect();
        let survey = session.survey(&name, &names).await?;
        let taken = (!survey.name_is_ours).then(|| {
            format!("SERVICE_ID: another live instance is called {name:?}; give each its own")
        });
        self.status.cannot_lead(taken.clone());
        if let Some(taken) = taken {
            self.say("name", taken);
            return Ok(());
        }
        self.status.have_leaders(survey.leaders.keys());
        for (partition, led) in &self.lanes {
            let barrier = survey.barriers.get(partition);
            led.barrier.send_if_modified(|now| {
                let is_news = now.as_ref() != barrier;
                *now = barrier.cloned();
                is_news
            });
        }
        self.start_topics(&session).await?;
        let last = self.reported_at;
        if last.is_none_or(|at| at.elapsed() >= report::INTERVAL) {
            self.reported_at = Some(Instant::now());
            self.report.send(&session, &name, &self.status).await?;
        }
        let mine: BTreeSet<Partition> = self.lanes.keys().cloned().collect();
        let mut known = self.counts.clone();
        known.retain(|topic, _| self.at_first.contains_key(topic));
        let plan = share::plan(&name, &mine, &known, &survey);
        // One at a time; the next round follows as soon as it is released.
        let draining = self.lanes.values().any(|led| led.stop.is_cancelled());
        if let Some(partition) = plan.give_up.first().filter(|_| !draining) {
            info!(%partition, leading = mine.len(), "handing over");
            self.lanes[partition].stop.cancel();
        }
        // A lease that nobody can renew is lost again at once.
        if !self.watcher.precedence.all_are_open() {
            return Ok(());
        }
        self.blocked.retain(|_, until| Instant::now() < *until);
        let candidates = plan.candidates.into_iter();
        let mut attempts: FuturesUnordered<_> = candidates
            .filter(|partition| !self.blocked.contains_key(partition))
            .take(plan.wanted)
            .map(|partition| session.acquire(partition, &name))
            .collect();
        while let Some((partition, attempt)) = attempts.next().await {
            match attempt {
                Ok(Some(acquired)) => self.lead(acquired),
                Ok(None) => {}
                Err(error)
                    if error.as_db_error().is_some()
                        && consequence(&error) == Consequence::Retry =>
                {
                    self.not_acquired(partition, &error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Has the database remember what there is at the first start on a topic; until then none of it is led.
    async fn start_topics(&mut self, session: &Session) -> Result<(), tokio_postgres::Error> {
        if self.news.is_empty() {
            return Ok(());
        }
        let at_first = session.start_topics(&self.news).await?;
        self.at_first.extend(at_first);
        self.news.clear();
        Ok(())
    }

    /// Something in the database keeps a partition without a leader; the others are not to wait for it.
    fn not_acquired(&mut self, partition: Partition, error: &tokio_postgres::Error) {
        let why = describe(error);
        self.say(
            &partition.to_string(),
            format!("{partition} has no leader and cannot be acquired, trying again: {why}"),
        );
        self.status.is_blocked(&partition, why);
        self.blocked.insert(partition, Instant::now() + BLOCKED);
    }

    /// Reads the topics of new handlers, and hands back those of handlers that are gone.
    async fn follow_handlers(&mut self, session: &Session) -> Result<(), tokio_postgres::Error> {
        let registered = topics::registered(session.client()).await?;
        self.handlers_seen = Some(Instant::now());
        let now = self.wanted.with(&registered);
        if *self.topics.borrow() == now {
            return Ok(());
        }
        self.counts.retain(|topic, _| now.contains_key(topic));
        self.status.topics_have(&self.counts);
        for (partition, led) in &self.lanes {
            if !now.contains_key(&partition.topic) {
                led.stop.cancel();
            }
        }
        self.topics.send_replace(now);
        Ok(())
    }

    fn lead(&mut self, acquired: Acquired) {
        let Acquired {
            partition,
            leadership,
            position,
        } = acquired;
        let leadership = Arc::new(leadership);
        let Some(kind) = self
            .topics
            .borrow()
            .get(&partition.topic)
            .map(|topic| topic.kind)
        else {
            return;
        };
        info!(
            %partition, fencing_token = leadership.fencing_token, commit_offset = leadership.commit_offset,
            "leading partition"
        );
        self.leases.insert((partition.clone(), leadership.clone()));
        let led = Led {
            barrier: watch::Sender::new(position.halted.clone().map(Barrier::Halt)),
            stop: CancellationToken::new(),
            look_again: Arc::default(),
        };
        let at_first = self.at_first.get(&partition.topic);
        let was_there = at_first.is_some_and(|count| partition.number < *count);
        let lane = Lane {
            partition: partition.clone(),
            kind,
            leadership: leadership.clone(),
            position,
            kafka: self.kafka.clone(),
            applier: Applier {
                pool: self.pool.clone(),
                partition: partition.clone(),
                leadership: leadership.clone(),
                turns: self.turns.clone(),
                group: self.group.clone(),
                retry: self.settings.retry.clone(),
                aftercare: self.aftercare.clone(),
                status: self.status.clone(),
                metrics: self.metrics.clone(),
                keeps_headers: self.settings.kafka.results_topic.is_some(),
            },
            gate: self.settings.gate.clone(),
            // Later partitions and topics are read from their beginning.
            start: match was_there {
                true => self.settings.start,
                false => StartOffset::Earliest,
            },
            status: self.status.clone(),
            hint: self.hint.clone(),
            look_again: led.look_again.clone(),
            barrier: led.barrier.subscribe(),
            doubts: 0,
            stop: led.stop.clone(),
            quit: self.quit.clone(),
        };
        self.lanes.insert(partition.clone(), led);
        self.metrics.leads(&partition.topic);
        self.status.leads(&partition, leadership.commit_offset);
        // A former leader may have left something.
        self.aftercare.notify_one();
        self.running.spawn(async move {
            let end = tokio::spawn(lane.run()).await;
            let end = end.unwrap_or_else(|error| {
                error!(%partition, "a lane of our own failed: {error}");
                End::Lost("its lane failed".to_owned())
            });
            (partition, leadership, end)
        });
    }

    /// Lanes that ended, `first` and any others by now: what they led is released in one statement.
    async fn finished(&mut self, first: Ended) {
        let (mut drained, mut lost) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(ended) = next {
            if let Ok((partition, leadership, end)) = ended {
                self.lanes.remove(&partition);
                self.leases.remove(&partition);
                self.status.leads_no_more(&partition);
                match end {
                    End::Lost(reason) => lost.push((partition, reason)),
                    End::Drained => drained.push((partition, leadership)),
                }
            }
            next = self.running.try_join_next();
        }
        self.say_lost(lost).await;
        if !drained.is_empty() {
            // In the order in which leases are renewed, so that neither waits for the other in a circle.
            drained.sort_by(|one, other| one.0.cmp(&other.0));
            self.release(&drained).await;
            // What was lost may be lost again at once: for that the next poll is soon enough.
            let _ = self.wake.try_send(());
        }
    }

    /// What an operator took away is no accident.
    async fn say_lost(&mut self, lost: Vec<(Partition, String)>) {
        if lost.is_empty() {
            return;
        }
        let names: Vec<&Partition> = lost.iter().map(|(partition, _)| partition).collect();
        let stepped_down = match self.standby.clone() {
            Some(session) => {
                let asked = session.stepped_down(&self.settings.service_id, &names);
                let told = tokio::time::timeout(RELEASE_LIMIT, asked).await;
                told.ok().and_then(Result::ok).unwrap_or_default()
            }
            None => Vec::new(),
        };
        for (partition, reason) in &lost {
            if stepped_down.contains(partition) {
                self.metrics.stepped_down();
                info!(%partition, "stepped down, as somebody asked by step_down");
            } else {
                self.metrics.lost();
                warn!(%partition, "leadership lost: {reason}");
            }
        }
    }

    async fn release(&mut self, drained: &[Held]) {
        let Some(session) = self.standby.clone() else {
            return;
        };
        match tokio::time::timeout(RELEASE_LIMIT, session.release(drained)).await {
            Ok(Ok(released)) => {
                for ((partition, leadership), released) in drained.iter().zip(released) {
                    let fencing_token = leadership.fencing_token;
                    if released {
                        self.metrics.released();
                        info!(%partition, fencing_token, "released partition");
                    } else {
                        debug!(%partition, fencing_token, "was not ours any more");
                    }
                }
            }
            Ok(Err(error)) => {
                warn!(
                    "partitions not released, their leases end by themselves: {}",
                    describe(&error)
                )
            }
            Err(_) => {
                warn!(
                    "partitions not released, PostgreSQL does not answer; their leases end by themselves"
                );
                self.drop_standby();
            }
        }
    }

    fn topic_told(&mut self, topic: String, count: Result<Option<i32>, String>) {
        if !self.topics.borrow().contains_key(&topic) {
            return;
        }
        self.status.kafka_answers(count.is_ok());
        let setting = self
            .topics
            .borrow()
            .get(&topic)
            .and_then(|found| found.setting);
        if let Ok(count) = count {
            if !self.at_first.contains_key(&topic) {
                self.news.insert(topic.clone(), count.unwrap_or(0));
            }
            self.status
                .topic_is_missing(&topic, count.is_none() && setting.is_some());
        }
        match count {
            Ok(Some(count)) => {
                // A topic created anew with fewer partitions keeps its number: the lanes of those that are
                // gone say so and wait, and no partition that exists loses its leader to them.
                let count = count.max(self.counts.get(&topic).copied().unwrap_or(0));
                if self.counts.insert(topic.clone(), count) != Some(count) {
                    info!(topic, partitions = count, "topic found");
                    self.status.topics_have(&self.counts);
                    self.warm_up();
                    let _ = self.wake.try_send(());
                }
            }
            Ok(None) => {
                if let Some(setting) = setting {
                    let text =
                        format!("topic {topic} does not exist: create it or change {setting}");
                    self.say(&topic, text);
                }
                self.look_again(&topic);
            }
            Err(error) => {
                let brokers = &self.settings.kafka.brokers;
                self.say(
                    "kafka",
                    format!("KAFKA_BROKERS: no answer from {brokers}, trying again: {error}"),
                );
            }
        }
    }

    /// Has all lanes of a topic ask Kafka whether it is still the one that they read.
    fn look_again(&self, topic: &str) {
        let of_topic = |(partition, _): &(&Partition, &Led)| partition.topic == topic;
        for (_, led) in self.lanes.iter().filter(of_topic) {
            led.look_again.notify_one();
        }
    }

    fn commit_group_offsets(&self) {
        let moved = self.status.take_moved();
        if !moved.is_empty() {
            self.kafka.commit_hint(&moved);
        }
    }

    /// A WARN line, at most once every few seconds for each subject.
    fn say(&mut self, subject: &str, text: String) {
        let said = self.said.get(subject);
        if said.is_none_or(|said| said.elapsed() > SAY_AGAIN) {
            self.said.insert(subject.to_owned(), Instant::now());
            warn!("{text}");
        }
    }

    async fn stop(&mut self) {
        info!(partitions = self.lanes.len(), "stopping");
        self.lanes.values().for_each(|led| led.stop.cancel());
        // Sent before any release, so that the others know they are to take what is released.
        if let Some(session) = &self.standby {
            let leaving = session.leave(&self.settings.service_id);
            if !matches!(
                tokio::time::timeout(RELEASE_LIMIT, leaving).await,
                Ok(Ok(()))
            ) {
                debug!("not said that we leave");
            }
        }
        while let Some(ended) = self.running.join_next().await {
            self.finished(ended).await;
        }
        self.kafka.commit_last(self.status.take_moved()).await;
        info!("stopped");
    }
}

/// What Kafka says of a topic.
struct TopicTold {
    topic: String,
    count: Result<Option<i32>, String>,
    /// It is another one of the same name.
    is_other: bool,
}

/// Asks Kafka for the partitions of each topic, again and again.
async fn watch_topics(
    kafka: Arc<Kafka>,
    topics: watch::Receiver<BTreeMap<String, Topic>>,
    tell: mpsc::Sender<TopicTold>,
) {
    let mut warm = HashSet::new();
    let mut ids: HashMap<String, TopicId> = HashMap::new();
    let mut missing_since: HashMap<String, Instant> = HashMap::new();
    let mut ticks = tokio::time::interval(TOPICS_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let wanted = topics.borrow().clone();
        for (topic, wanted) in wanted {
            let missing = missing_since.get(&topic);
            if wanted.setting.is_none()
                && missing.is_some_and(|seen| seen.elapsed() < MISSING_INTERVAL)
            {
                continue;
            }
            let count = kafka.partition_count(&topic).await;
            if count == Ok(None) {
                missing_since.insert(topic.clone(), Instant::now());
            }
            if count == Ok(None) || count.is_err() {
                warm.remove(&topic);
            } else if warm.insert(topic.clone()) {
                missing_since.remove(&topic);
                // So that the first take-over does not have to look for brokers.
                let _ = kafka
                    .watermarks(&Partition {
                        topic: topic.clone(),
                        number: 0,
                    })
                    .await;
            }
            let mut is_other = false;
            if matches!(count, Ok(Some(_)))
                && let Ok(Some(id)) = kafka.topic_id(&topic).await
            {
                let before = ids.insert(topic.clone(), id);
                is_other = before.is_some_and(|before| before != id);
            }
            let told = TopicTold {
                topic,
                count,
                is_other,
            };
            if tell.send(told).await.is_err() {
                return;
            }
        }
    }
}
