//! The conductor: the one loop that acquires partitions, starts and stops their lanes, and
//! hands them over. Time, notifications, finished lanes and shutdown all enter here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBackoff;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::back_off::back_off_up_to;
use crate::commit::group::Group;
use crate::commit::statements::warm_up;
use crate::config::run::RunSettings;
use crate::lanes::lane::End;
use crate::leases::lease::{Leadership, Session};
use crate::leases::report::{self, Report};
use crate::leases::shares::{self, Barrier};
use crate::leases::topics::{self, Topic, Topics};
use crate::partition::Partition;
use crate::postgres::error::{Consequence, consequence, describe};
use crate::postgres::precedence::ControlSession;
use crate::redis_marks::Hint;
use crate::run::renewals::Leases;
use crate::run::service::Service;
use crate::run::topic_watch::{TopicAnswer, watch_topics};
use crate::throttle::Throttle;

/// How often the database is asked for new handlers.
const HANDLERS_INTERVAL: Duration = Duration::from_secs(4);
/// How often group offsets are committed to Kafka, as a hint.
const GROUP_OFFSETS_INTERVAL: Duration = Duration::from_secs(1);
/// How often a busy instance logs its progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// How long a shutdown may take in all.
const STOP_LIMIT: Duration = Duration::from_millis(4_500);
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// At most this long between tries to open the session for acquiring.
const STANDBY_WAIT: Duration = Duration::from_secs(1);
/// A partition that a transaction keeps from being acquired is tried again after this time.
const BLOCKED: Duration = Duration::from_secs(2);

pub(super) type Ended = Result<(Partition, Arc<Leadership>, End), tokio::task::JoinError>;

/// A running lane.
pub(super) struct Led {
    /// Why the partition is not read.
    pub(super) barrier: watch::Sender<Option<Barrier>>,
    pub(super) stop: CancellationToken,
    pub(super) look_again: Arc<Notify>,
}

/// The one loop.
pub struct Conductor {
    pub(super) settings: RunSettings,
    pub(super) wanted: Topics,
    /// The topics that are read now.
    pub(super) topics: watch::Sender<BTreeMap<String, Topic>>,
    /// When registered handlers were last queried.
    pub(super) handlers_seen: Option<Instant>,
    /// Retries and publishes dead letters.
    pub(super) wake_dead_letters: Arc<Notify>,
    /// Marks processed events in Redis.
    pub(super) hint: Option<Hint>,
    pub(super) service: Service,
    pub(super) turns: Arc<Semaphore>,
    pub(super) group: Arc<Group>,
    pub(super) standby: Option<Arc<Session>>,
    /// Tries to open it again, and the earliest time for the next try.
    pub(super) standby_waits: ExponentialBackoff,
    pub(super) standby_after: Option<Instant>,
    /// Partitions that a transaction keeps from being acquired, and until when they are not tried.
    pub(super) blocked: HashMap<Partition, Instant>,
    pub(super) wake: mpsc::Sender<()>,
    pub(super) leases: Arc<Leases>,
    pub(super) lanes: HashMap<Partition, Led>,
    pub(super) running: JoinSet<(Partition, Arc<Leadership>, End)>,
    /// The number of partitions of each topic, as far as Kafka has answered.
    pub(super) counts: BTreeMap<String, i32>,
    /// Topics that Kafka has answered about, existing or not, and that we have not reported to the database.
    pub(super) news: BTreeMap<String, i32>,
    /// How many partitions each topic had when Sluice first started on it.
    pub(super) at_first: HashMap<String, i32>,
    pub(super) report: Report,
    pub(super) reported_at: Option<Instant>,
    /// The process is to end.
    pub(super) quit: CancellationToken,
    /// When each problem was last logged.
    pub(super) said: HashMap<String, Throttle>,
}

/// What a conductor needs.
pub struct Parts {
    pub settings: RunSettings,
    pub service: Service,
    pub leases: Arc<Leases>,
    /// Marks processed events in Redis.
    pub hint: Option<Hint>,
    /// Wakes the task for dead letters.
    pub wake_dead_letters: Arc<Notify>,
    /// The first connection, already open.
    pub standby: Session,
    pub wake: mpsc::Sender<()>,
    /// The process is to end.
    pub quit: CancellationToken,
}

impl Conductor {
    pub fn new(parts: Parts) -> Self {
        let (settings, service) = (parts.settings, parts.service);
        let wanted = Topics::new(&settings.kafka);
        Self {
            topics: watch::Sender::new(wanted.with(&[])),
            wanted,
            handlers_seen: None,
            wake_dead_letters: parts.wake_dead_letters,
            hint: parts.hint,
            turns: Arc::new(Semaphore::new(settings.apply_concurrency)),
            group: Group::new(service.pool.clone()),
            service,
            standby: Some(Arc::new(parts.standby)),
            standby_waits: back_off_up_to(STANDBY_WAIT),
            standby_after: None,
            blocked: HashMap::new(),
            wake: parts.wake,
            leases: parts.leases,
            lanes: HashMap::new(),
            running: JoinSet::new(),
            counts: BTreeMap::new(),
            news: BTreeMap::new(),
            at_first: HashMap::new(),
            report: Report::default(),
            reported_at: None,
            quit: parts.quit,
            said: HashMap::new(),
            settings,
        }
    }

    pub async fn conduct(mut self, mut woken: mpsc::Receiver<()>, shutdown: CancellationToken) {
        let (tell, mut told) = mpsc::channel(16);
        let topics = tokio::spawn(watch_topics(
            self.service.kafka.clone(),
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
                Some(TopicAnswer { topic, count, is_other }) = told.recv() => {
                    if is_other {
                        self.look_again(&topic);
                    }
                    self.topic_told(topic, count);
                }
                Some(()) = woken.recv() => self.round_unless(&shutdown).await,
                _ = polls.tick() => self.round_unless(&shutdown).await,
                _ = group_offsets.tick() => self.commit_group_offsets(),
                _ = reports.tick() => {
                    let records = self.service.status.records();
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
            warn!("stopped before every partition was released; their leases expire");
        }
    }

    /// A server that does not answer must not delay the shutdown.
    async fn round_unless(&mut self, shutdown: &CancellationToken) {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = self.round() => {}
        }
    }

    /// One round: computes our share, acquires partitions, hands partitions over.
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
            Ok(Ok(())) => self.service.status.database_answered(),
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

    /// Leases acquired through it since the last renewal look free once it ends: the other session takes them over.
    pub(super) fn drop_standby(&mut self) {
        self.standby = None;
        self.service
            .watcher
            .precedence
            .set_open(ControlSession::Standby, false);
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
        self.service
            .watcher
            .precedence
            .set_open(ControlSession::Standby, true);
        self.standby_waits = back_off_up_to(STANDBY_WAIT);
        self.warm_up();
        Ok(session)
    }

    /// Connections that the first batches will need are opened before them.
    fn warm_up(&self) {
        let partitions: i32 = self.counts.values().sum();
        tokio::spawn(warm_up(self.service.pool.clone(), partitions as usize));
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
        self.service.status.cannot_lead(taken.clone());
        if let Some(taken) = taken {
            self.say("name", taken);
            return Ok(());
        }
        self.service.status.have_leaders(survey.leaders.keys());
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
            self.report
                .send(&session, &name, &self.service.status)
                .await?;
        }
        let mine: BTreeSet<Partition> = self.lanes.keys().cloned().collect();
        let mut known = self.counts.clone();
        known.retain(|topic, _| self.at_first.contains_key(topic));
        let plan = shares::plan(&name, &mine, &known, &survey);
        // One at a time; the next round follows as soon as it is released.
        let draining = self.lanes.values().any(|led| led.stop.is_cancelled());
        if let Some(partition) = plan.give_up.first().filter(|_| !draining) {
            info!(%partition, leading = mine.len(), "handing over");
            self.lanes[partition].stop.cancel();
        }
        self.acquire(&session, plan).await
    }

    async fn acquire(
        &mut self,
        session: &Session,
        plan: shares::Plan,
    ) -> Result<(), tokio_postgres::Error> {
        let name = self.settings.service_id.clone();
        // A lease that cannot be renewed is lost again at once.
        if !self.service.watcher.precedence.all_are_open() {
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

    /// Records in the database which partitions exist at the first start on a topic; until then none of them is led.
    async fn start_topics(&mut self, session: &Session) -> Result<(), tokio_postgres::Error> {
        if self.news.is_empty() {
            return Ok(());
        }
        let at_first = session.start_topics(&self.news).await?;
        self.at_first.extend(at_first);
        self.news.clear();
        Ok(())
    }

    /// Something in the database keeps a partition from being acquired; the others must not wait for it.
    fn not_acquired(&mut self, partition: Partition, error: &tokio_postgres::Error) {
        let why = describe(error);
        self.say(
            &partition.to_string(),
            format!("{partition} has no leader and cannot be acquired, trying again: {why}"),
        );
        self.service.status.is_blocked(&partition, why);
        self.blocked.insert(partition, Instant::now() + BLOCKED);
    }

    /// Reads the topics of new handlers, and releases those of handlers that were unregistered.
    async fn follow_handlers(&mut self, session: &Session) -> Result<(), tokio_postgres::Error> {
        let registered = topics::registered(session.client()).await?;
        self.handlers_seen = Some(Instant::now());
        let now = self.wanted.with(&registered);
        if *self.topics.borrow() == now {
            return Ok(());
        }
        self.counts.retain(|topic, _| now.contains_key(topic));
        self.service.status.topics_have(&self.counts);
        for (partition, led) in &self.lanes {
            if !now.contains_key(&partition.topic) {
                led.stop.cancel();
            }
        }
        self.topics.send_replace(now);
        Ok(())
    }

    fn topic_told(&mut self, topic: String, count: Result<Option<i32>, String>) {
        if !self.topics.borrow().contains_key(&topic) {
            return;
        }
        self.service.status.kafka_answers(count.is_ok());
        let setting = self
            .topics
            .borrow()
            .get(&topic)
            .and_then(|found| found.setting);
        if let Ok(count) = count {
            if !self.at_first.contains_key(&topic) {
                self.news.insert(topic.clone(), count.unwrap_or(0));
            }
            self.service
                .status
                .topic_is_missing(&topic, count.is_none() && setting.is_some());
        }
        match count {
            Ok(Some(count)) => {
                // A topic that was created again with fewer partitions keeps its former number here: the lanes of
                // missing partitions report it and wait, and no existing partition loses its leader because of them.
                let count = count.max(self.counts.get(&topic).copied().unwrap_or(0));
                if self.counts.insert(topic.clone(), count) != Some(count) {
                    info!(topic, partitions = count, "topic found");
                    self.service.status.topics_have(&self.counts);
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

    /// Makes all lanes of a topic check with Kafka that it is still the one that they read.
    fn look_again(&self, topic: &str) {
        let of_topic = |(partition, _): &(&Partition, &Led)| partition.topic == topic;
        for (_, led) in self.lanes.iter().filter(of_topic) {
            led.look_again.notify_one();
        }
    }

    fn commit_group_offsets(&self) {
        let moved = self.service.status.take_moved();
        if !moved.is_empty() {
            self.service.kafka.commit_hint(&moved);
        }
    }

    /// A WARN line, at most once every few seconds for each subject.
    fn say(&mut self, subject: &str, text: String) {
        let throttle = || Throttle::every(SAY_AGAIN);
        let said = self.said.entry(subject.to_owned());
        if said.or_insert_with(throttle).is_due() {
            warn!("{text}");
        }
    }
}
