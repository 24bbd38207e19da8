//! The conductor: the one loop that acquires partitions, starts and stops their lanes, and
//! hands them over. Time, notifications, finished lanes and shutdown all enter here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::apply::Applier;
use crate::config::RunSettings;
use crate::error::{Consequence, back_off, consequence, describe, is_refusal};
use crate::lane::{End, Lane};
use crate::lease::{Leadership, Session, Survey};
use crate::partition::Partition;
use crate::progress::Progress;
use crate::schema;
use crate::share::quota;
use crate::source::Kafka;

/// How often Kafka is asked for the partitions of our topics.
const TOPICS_INTERVAL: Duration = Duration::from_secs(2);
/// How often group offsets are committed, as a hint.
const HINT_INTERVAL: Duration = Duration::from_secs(1);
/// How often a busy instance says how it goes.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// How long stopping may take in all.
const STOP_LIMIT: Duration = Duration::from_millis(4_500);
/// How long PostgreSQL may take to release a partition.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);
const SAY_AGAIN: Duration = Duration::from_secs(10);

type Held = Arc<Mutex<BTreeMap<Partition, Arc<Leadership>>>>;

/// A lane that runs.
struct Led {
    stop: CancellationToken,
    doubt: Arc<Notify>,
}

/// Runs until `shutdown`; an error is one line for the operator.
pub async fn run(settings: RunSettings, shutdown: CancellationToken) -> Result<(), String> {
    let kafka = Arc::new(Kafka::connect(&settings.kafka)?);
    kafka.serve();
    let (wake, woken) = mpsc::channel(1);
    let Some(standby) = connect_first(&settings, &wake, &shutdown).await? else {
        return Ok(());
    };
    info!(
        service_id = settings.service_id,
        topics = settings.kafka.topics.join(","),
        database = settings.database.address(),
        kafka = settings.kafka.brokers,
        batch_size = settings.gate.batch_size,
        "sluice runs"
    );
    let pool = settings
        .database
        .pool(settings.pool_size, settings.connection_timeout)?;
    let held: Held = Held::default();
    let mut renewals = tokio::spawn(renew(
        settings.database.clone(),
        settings.lease,
        settings.renew_interval,
        held.clone(),
    ));
    let conductor = Conductor {
        kafka,
        pool,
        standby: Some(standby),
        wake,
        held,
        lanes: HashMap::new(),
        running: JoinSet::new(),
        counts: BTreeMap::new(),
        progress: Arc::default(),
        said: HashMap::new(),
        settings,
    };
    tokio::select! {
        () = conductor.conduct(woken, shutdown) => Ok(()),
        // It never ends by itself: without renewals no lease would last.
        ended = &mut renewals => Err(format!("renewing leases has failed: {ended:?}")),
    }
}

/// The first connection: waits for a server that is away, gives up on one that refuses.
async fn connect_first(
    settings: &RunSettings,
    wake: &mpsc::Sender<()>,
    shutdown: &CancellationToken,
) -> Result<Option<Session>, String> {
    let mut waits = back_off();
    loop {
        let opened = async {
            let session =
                Session::open(&settings.database, settings.lease, Some(wake.clone())).await?;
            let fit = schema::fits(session.client()).await?;
            Ok::<_, tokio_postgres::Error>((session, fit))
        };
        let address = settings.database.address();
        let trouble = match tokio::time::timeout(settings.connection_timeout * 2, opened).await {
            Ok(Ok((session, Ok(())))) => return Ok(Some(session)),
            Ok(Ok((_, Err(misfit)))) => return Err(misfit),
            Ok(Err(error)) if is_refusal(&error) || consequence(&error) == Consequence::Halt => {
                return Err(format!(
                    "DATABASE_URL: PostgreSQL at {address} refuses: {}",
                    describe(&error)
                ));
            }
            Ok(Err(error)) => describe(&error),
            Err(_) => "no answer in time".to_owned(),
        };
        warn!("DATABASE_URL: cannot reach PostgreSQL at {address}, trying again: {trouble}");
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(waits.next().unwrap_or(SAY_AGAIN)) => {}
        }
    }
}

/// Renews all leases, apart from everything else.
async fn renew(database: crate::db::Database, lease: Duration, interval: Duration, held: Held) {
    let mut session: Option<Session> = None;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now: Vec<_> = held
            .lock()
            .expect("no panic while held")
            .iter()
            .map(|(p, l)| (p.clone(), l.clone()))
            .collect();
        if now.is_empty() {
            continue;
        }
        let work = async {
            let open = match session.take().filter(|session| !session.is_closed()) {
                Some(session) => session,
                None => Session::open(&database, lease, None).await?,
            };
            open.renew(&now).await?;
            Ok::<_, tokio_postgres::Error>(open)
        };
        // Early enough for another connection to renew before the lease is over.
        match tokio::time::timeout(lease / 3, work).await {
            Ok(Ok(open)) => session = Some(open),
            Ok(Err(error)) => {
                warn!("leases not renewed, trying again: {}", describe(&error));
                ticks.reset_after(interval.min(Duration::from_millis(100)));
            }
            Err(_) => {
                warn!("leases not renewed in time, trying again on another connection");
                ticks.reset_after(Duration::from_millis(1));
            }
        }
    }
}

struct Conductor {
    settings: RunSettings,
    kafka: Arc<Kafka>,
    pool: deadpool_postgres::Pool,
    standby: Option<Session>,
    wake: mpsc::Sender<()>,
    held: Held,
    lanes: HashMap<Partition, Led>,
    running: JoinSet<(Partition, Arc<Leadership>, End)>,
    /// Partitions of each topic, as far as Kafka has told.
    counts: BTreeMap<String, i32>,
    progress: Arc<Progress>,
    /// When a trouble was last said.
    said: HashMap<String, Instant>,
}

impl Conductor {
    async fn conduct(mut self, mut woken: mpsc::Receiver<()>, shutdown: CancellationToken) {
        let (tell, mut told) = mpsc::channel(16);
        let topics = tokio::spawn(watch_topics(
            self.kafka.clone(),
            self.settings.kafka.topics.clone(),
            tell,
        ));
        let mut polls = tokio::time::interval(self.settings.standby_poll);
        polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut hints = tokio::time::interval(HINT_INTERVAL);
        let mut reports = tokio::time::interval(REPORT_INTERVAL);
        let mut reported = 0;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.running.join_next() => self.finished(done).await,
                Some((topic, count)) = told.recv() => self.topic_told(topic, count),
                Some(()) = woken.recv() => self.round_unless(&shutdown).await,
                _ = polls.tick() => self.round_unless(&shutdown).await,
                _ = hints.tick() => self.hint(),
                _ = reports.tick() => {
                    let records = self.progress.records();
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
        let limit = self.settings.lease.max(Duration::from_secs(2));
        match tokio::time::timeout(limit, self.try_round()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.say(
                    "database",
                    format!(
                        "cannot look for partitions, trying again: {}",
                        describe(&error)
                    ),
                );
                self.standby = None;
            }
            Err(_) => {
                self.say(
                    "database",
                    "cannot look for partitions: PostgreSQL does not answer".into(),
                );
                self.standby = None;
            }
        }
    }

    async fn try_round(&mut self) -> Result<(), tokio_postgres::Error> {
        if self.standby.as_ref().is_none_or(Session::is_closed) {
            let session = Session::open(
                &self.settings.database,
                self.settings.lease,
                Some(self.wake.clone()),
            )
            .await?;
            self.standby = Some(session);
        }
        let Some(session) = &self.standby else {
            return Ok(());
        };
        let survey = session
            .survey(&self.settings.service_id, &self.settings.kafka.topics)
            .await?;
        if !survey.name_is_ours {
            let name = &self.settings.service_id;
            self.say(
                "name",
                format!("SERVICE_ID: another live instance is called {name:?}; give each its own"),
            );
            return Ok(());
        }
        let share = self.share(&survey);
        let leading = self
            .lanes
            .values()
            .filter(|led| !led.stop.is_cancelled())
            .count();
        let draining = self.lanes.len() - leading;
        if leading > share && draining == 0 {
            // One at a time; the next round follows as soon as this one is released.
            if let Some((partition, led)) =
                self.lanes.iter().find(|(_, led)| !led.stop.is_cancelled())
            {
                info!(%partition, share, leading, "handing over");
                led.stop.cancel();
            }
        }
        let free: Vec<Partition> = self
            .free(&survey)
            .take(share.saturating_sub(self.lanes.len()))
            .collect();
        for partition in free {
            self.acquire(partition).await?;
        }
        Ok(())
    }

    fn share(&self, survey: &Survey) -> usize {
        let me = &self.settings.service_id;
        let mut counts: BTreeMap<&str, usize> = survey
            .instances
            .iter()
            .map(|name| (name.as_str(), 0))
            .collect();
        counts.insert(me, 0);
        for lease in &survey.leases {
            if let Some(count) = lease
                .leader
                .as_deref()
                .and_then(|leader| counts.get_mut(leader))
            {
                *count += 1;
            }
        }
        counts.insert(me, self.lanes.len());
        let held: Vec<(String, usize)> = counts
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        quota(
            self.counts.values().map(|count| *count as usize).sum(),
            &held,
            me,
        )
    }

    /// Partitions that nobody leads, or that a former incarnation of ours led.
    fn free(&self, survey: &Survey) -> impl Iterator<Item = Partition> {
        let led: HashMap<&Partition, &Option<String>> = survey
            .leases
            .iter()
            .map(|lease| (&lease.partition, &lease.leader))
            .collect();
        let all = self.counts.iter().flat_map(|(topic, count)| {
            (0..*count).map(|number| Partition {
                topic: topic.clone(),
                number,
            })
        });
        let free = all.filter(|partition| {
            let leader = led.get(partition).and_then(|leader| leader.as_deref());
            !self.lanes.contains_key(partition)
                && leader.is_none_or(|leader| leader == self.settings.service_id)
        });
        free.collect::<Vec<_>>().into_iter()
    }

    async fn acquire(&mut self, partition: Partition) -> Result<(), tokio_postgres::Error> {
        let Some(session) = &self.standby else {
            return Ok(());
        };
        let leadership = match session.acquire(&partition, &self.settings.service_id).await {
            Ok(Some(leadership)) => Arc::new(leadership),
            Ok(None) => return Ok(()),
            Err(error)
                if error.as_db_error().is_some() && consequence(&error) == Consequence::Retry =>
            {
                debug!(%partition, "not acquired: {}", describe(&error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let position = session.position(&partition).await?;
        info!(
            %partition, fencing_token = leadership.fencing_token, commit_offset = leadership.commit_offset,
            "leading partition"
        );
        self.held
            .lock()
            .expect("no panic while held")
            .insert(partition.clone(), leadership.clone());
        let led = Led {
            stop: CancellationToken::new(),
            doubt: Arc::default(),
        };
        let lane = Lane {
            partition: partition.clone(),
            leadership: leadership.clone(),
            position,
            kafka: self.kafka.clone(),
            applier: Applier {
                pool: self.pool.clone(),
                partition: partition.clone(),
                leadership: leadership.clone(),
                retry: self.settings.retry.clone(),
            },
            gate: self.settings.gate.clone(),
            start: self.settings.start,
            progress: self.progress.clone(),
            doubt: led.doubt.clone(),
            stop: led.stop.clone(),
        };
        self.lanes.insert(partition.clone(), led);
        self.running.spawn(async move {
            let end = tokio::spawn(lane.run()).await.unwrap_or_else(|error| {
                error!(%partition, "a lane of our own failed: {error}");
                End::Lost
            });
            (partition, leadership, end)
        });
        Ok(())
    }

    async fn finished(
        &mut self,
        done: Result<(Partition, Arc<Leadership>, End), tokio::task::JoinError>,
    ) {
        let Ok((partition, leadership, end)) = done else {
            return;
        };
        self.lanes.remove(&partition);
        self.held
            .lock()
            .expect("no panic while held")
            .remove(&partition);
        if end == End::Drained {
            self.release(&partition, &leadership).await;
            // What was lost may be lost again at once: for that the next poll is soon enough.
            let _ = self.wake.try_send(());
        }
    }

    async fn release(&mut self, partition: &Partition, leadership: &Leadership) {
        let Some(session) = &self.standby else { return };
        match tokio::time::timeout(RELEASE_LIMIT, session.release(partition, leadership)).await {
            Ok(Ok(true)) => {
                info!(%partition, fencing_token = leadership.fencing_token, "released partition")
            }
            Ok(Ok(false)) => debug!(%partition, "was not ours any more"),
            Ok(Err(error)) => {
                warn!(%partition, "not released, the lease ends by itself: {}", describe(&error))
            }
            Err(_) => {
                warn!(%partition, "not released, PostgreSQL does not answer; the lease ends by itself");
                self.standby = None;
            }
        }
    }

    fn topic_told(&mut self, topic: String, count: Result<Option<i32>, String>) {
        match count {
            Ok(Some(count)) => {
                // A topic created anew with fewer partitions keeps its number: the lanes of those that are
                // gone say so and wait, and no partition that exists loses its leader to them.
                let count = count.max(self.counts.get(&topic).copied().unwrap_or(0));
                if self.counts.insert(topic.clone(), count) != Some(count) {
                    info!(topic, partitions = count, "topic found");
                    let _ = self.wake.try_send(());
                }
            }
            Ok(None) => {
                self.say(
                    &topic,
                    format!("topic {topic} does not exist: create it or change BALANCE_TOPICS"),
                );
                for (_, led) in self
                    .lanes
                    .iter()
                    .filter(|(partition, _)| partition.topic == topic)
                {
                    led.doubt.notify_one();
                }
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

    fn hint(&self) {
        let moved = self.progress.take_moved();
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

    /// Leaves first, so that the others know they are to take what is released next.
    async fn stop(&mut self) {
        info!(partitions = self.lanes.len(), "stopping");
        if let Some(session) = &self.standby {
            let leaving = session.leave(&self.settings.service_id);
            if !matches!(
                tokio::time::timeout(RELEASE_LIMIT, leaving).await,
                Ok(Ok(()))
            ) {
                debug!("not said that we leave");
            }
        }
        self.lanes.values().for_each(|led| led.stop.cancel());
        while let Some(done) = self.running.join_next().await {
            self.finished(done).await;
        }
        self.hint();
        info!("stopped");
    }
}

/// Asks Kafka for the partitions of each topic, again and again.
async fn watch_topics(
    kafka: Arc<Kafka>,
    topics: Vec<String>,
    tell: mpsc::Sender<(String, Result<Option<i32>, String>)>,
) {
    let mut warm = HashSet::new();
    let mut ticks = tokio::time::interval(TOPICS_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for topic in &topics {
            let count = kafka.partition_count(topic).await;
            if count == Ok(None) || count.is_err() {
                warm.remove(topic);
            } else if warm.insert(topic) {
                // So that the first take-over does not have to look for brokers.
                let _ = kafka
                    .watermarks(&Partition {
                        topic: topic.clone(),
                        number: 0,
                    })
                    .await;
            }
            if tell.send((topic.clone(), count)).await.is_err() {
                return;
            }
        }
    }
}
