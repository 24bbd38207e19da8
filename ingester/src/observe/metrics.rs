//! Metrics for Prometheus: what is counted as it happens, and what is looked up when asked.
//! Base units, one prefix, and labels whose values are topics, partitions and closed lists.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::RwLock;
use std::time::{Duration, Instant, UNIX_EPOCH};

use ledger::verdict::{RejectReason, Verdict};
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tracing::debug;

use crate::observe::history::History;
use crate::observe::status::{Health, Snapshot, State};
use crate::postgres::error::Consequence;
use crate::postgres::pool::{AskError, Pool};

/// Prometheus' plain text, which everything that scrapes can read.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const PREFIX: &str = "sluice";
/// How often the database is asked for what waits for a person.
const LOOK: Duration = Duration::from_secs(10);
/// How often it is asked who else may write: rights change rarely.
const WRITERS_LOOK: Duration = Duration::from_secs(30);
/// How long a batch with dead letters waits for the next look at least: many of them must not ask all the time.
const NEXT_LOOK: Duration = Duration::from_secs(1);

const PARKED: &str = "SELECT topic, error_code, letters FROM sluice.parked_dead_letters()";
/// In rows, so many at most.
const OTHER_WRITERS: &str = "SELECT kind, writer, writes FROM sluice.other_writers() LIMIT 50";
const DANGLING: &str =
    "SELECT kind, rows FROM sluice.dangling_references($1::double precision * interval '1 s')";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Topic {
    topic: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Decided {
    topic: String,
    verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Rejected {
    topic: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Failed {
    topic: String,
    consequence: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Change {
    change: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartitionLabel {
    topic: String,
    partition: i32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Letters {
    topic: String,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Writer {
    kind: String,
    writer: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Version {
    version: &'static str,
}

/// A counter under the name that Prometheus shows: OpenMetrics would leave its `_total` out of HELP and TYPE.
#[derive(Clone, Debug, Default)]
struct Total(Counter);

impl EncodeMetric for Total {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.0.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Total {
    const TYPE: MetricType = MetricType::Counter;
}

/// What a batch did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub applied: i64,
    pub rejected: i64,
    pub duplicates: i64,
    pub dead: i64,
    /// What `rejected` is made of, in the order of [`RejectReason::ALL`].
    pub rejections: [i64; RejectReason::ALL.len()],
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.applied += other.applied;
        self.rejected += other.rejected;
        self.duplicates += other.duplicates;
        self.dead += other.dead;
        for (sum, more) in self.rejections.iter_mut().zip(other.rejections) {
            *sum += more;
        }
    }
}

/// What waits for a person, as the database last told.
#[derive(Default)]
struct Matters {
    dead_letters: Vec<(Letters, i64)>,
    dangling: Vec<(Kind, i64)>,
}

/// Bytes that a lane holds for the database.
pub struct Staging {
    gauge: Gauge,
    gathering: i64,
    in_flight: i64,
}

impl Staging {
    pub fn gathered(&mut self, bytes: usize) {
        self.are(bytes as i64, self.in_flight);
    }

    /// What was gathered goes to the database.
    pub fn sent(&mut self, bytes: usize) {
        self.are(0, bytes as i64);
    }

    pub fn done(&mut self) {
        self.are(self.gathering, 0);
    }

    fn are(&mut self, gathering: i64, in_flight: i64) {
        let before = self.gathering + self.in_flight;
        self.gauge.inc_by(gathering + in_flight - before);
        (self.gathering, self.in_flight) = (gathering, in_flight);
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.are(0, 0);
    }
}

type Histograms<Label> = Family<Label, Histogram, fn() -> Histogram>;

pub struct Metrics {
    registry: Registry,
    records: Family<Decided, Total>,
    rejections: Family<Rejected, Total>,
    delay: Histograms<Topic>,
    age: Histograms<Topic>,
    batch_records: Histogram,
    batch_bytes: Histogram,
    phases: Histograms<Phase>,
    errors: Family<Failed, Total>,
    retries: Family<Topic, Total>,
    letter_retries: Total,
    leadership: Family<Change, Total>,
    renewal_failures: Total,
    fenced: Total,
    silences: Total,
    staging: Gauge,
    matters: RwLock<Option<Matters>>,
    /// Who may write what Sluice alone should, and what.
    other_writers: RwLock<Vec<(Writer, String)>>,
    /// Something new waits for a person.
    more_matters: Notify,
    pub history: History,
}

/// From 0.5 ms to about a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 18))
}

/// From 1 ms to three days: a sender's clock, and its outages.
fn hours() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 15))
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            records: Family::default(),
            rejections: Family::default(),
            delay: Family::new_with_constructor(seconds),
            age: Family::new_with_constructor(hours),
            batch_records: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            batch_bytes: Histogram::new(exponential_buckets(256.0, 4.0, 10)),
            phases: Family::new_with_constructor(seconds),
            errors: Family::default(),
            retries: Family::default(),
            letter_retries: Total::default(),
            leadership: Family::default(),
            renewal_failures: Total::default(),
            fenced: Total::default(),
            silences: Total::default(),
            staging: Gauge::default(),
            matters: RwLock::default(),
            other_writers: RwLock::default(),
            more_matters: Notify::new(),
            history: History::default(),
        };
        for change in ["acquired", "released", "stepped_down", "lost"] {
            drop(metrics.leadership.get_or_create(&Change { change }));
        }
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("records_total", "Records committed", self.records.clone());
        registry.register(
            "event_delay_seconds",
            "From a record's timestamp in Kafka to its commit",
            self.delay.clone(),
        );
        registry.register(
            "event_age_seconds",
            "From an event's own timestamp to its commit",
            self.age.clone(),
        );
        registry.register(
            "rejections_total",
            "Records committed as rejected, by reason",
            self.rejections.clone(),
        );
        registry.register(
            "batch_records",
            "Records of a batch",
            self.batch_records.clone(),
        );
        registry.register(
            "batch_bytes",
            "Bytes of a batch, raw and staged",
            self.batch_bytes.clone(),
        );
        registry.register(
            "batch_phase_seconds",
            "What a batch spends its time on",
            self.phases.clone(),
        );
        registry.register(
            "batch_errors_total",
            "Tries of a batch that failed, by what follows",
            self.errors.clone(),
        );
        registry.register(
            "batch_retries_total",
            "Batches that were tried again as they are",
            self.retries.clone(),
        );
        registry.register(
            "dead_letter_retries_total",
            "Records that broke their handler and were tried again",
            self.letter_retries.clone(),
        );
        registry.register(
            "leadership_changes_total",
            "Partitions whose leadership this instance acquired, released, stepped down from or lost",
            self.leadership.clone(),
        );
        registry.register(
            "lease_renewal_failures_total",
            "Renewals of all leases that failed",
            self.renewal_failures.clone(),
        );
        registry.register(
            "fencing_refusals_total",
            "Writes refused because leadership was another's",
            self.fenced.clone(),
        );
        registry.register(
            "database_silences_total",
            "Connections given up because an answer of PostgreSQL did not come",
            self.silences.clone(),
        );
        registry.register(
            "staging_bytes",
            "Bytes of records that are gathered or on their way into the database",
            self.staging.clone(),
        );
        self
    }

    /// A partition of the topic is led from now on; what may be counted of it begins at zero.
    pub fn leads(&self, topic: &str) {
        for verdict in Verdict::ALL {
            drop(self.records.get_or_create(&decided(topic, *verdict)));
        }
        for reason in RejectReason::ALL {
            drop(self.rejections.get_or_create(&rejected(topic, *reason)));
        }
        for consequence in Consequence::ALL {
            drop(self.errors.get_or_create(&failed(topic, consequence)));
        }
        let topic = topic.to_owned();
        drop(self.retries.get_or_create(&Topic { topic }));
        self.leadership_changed("acquired");
    }

    pub fn released(&self) {
        self.leadership_changed("released");
    }

    pub fn stepped_down(&self) {
        self.leadership_changed("stepped_down");
    }

    pub fn lost(&self) {
        self.leadership_changed("lost");
    }

    fn leadership_changed(&self, change: &'static str) {
        let counter = self.leadership.get_or_create(&Change { change });
        counter.0.inc();
    }

    /// What a batch came to.
    pub fn committed(&self, topic: &str, counts: &Counts) {
        if counts.dead > 0 {
            self.more_matters.notify_one();
        }
        for (reason, count) in RejectReason::ALL.iter().zip(counts.rejections) {
            let counter = self.rejections.get_or_create(&rejected(topic, *reason));
            counter.0.inc_by(count.max(0) as u64);
        }
        let counts = [
            counts.applied,
            counts.rejected,
            counts.duplicates,
            counts.dead,
        ];
        self.history.committed(counts);
        for (verdict, count) in Verdict::ALL.iter().zip(counts) {
            let counter = self.records.get_or_create(&decided(topic, *verdict));
            counter.0.inc_by(count.max(0) as u64);
        }
    }

    /// How large a batch was, and how old its records were at its commit: by Kafka's timestamps, and by the events' own,
    /// where they have one.
    pub fn delayed(
        &self,
        topic: &str,
        bytes: usize,
        delays_ms: impl ExactSizeIterator<Item = i64> + Clone,
        ages_us: impl Iterator<Item = i64>,
    ) {
        self.history.delayed(delays_ms.clone());
        self.batch_records.observe(delays_ms.len() as f64);
        self.batch_bytes.observe(bytes as f64);
        let topic = topic.to_owned();
        let topic = Topic { topic };
        let delay = self.delay.get_or_create(&topic);
        delays_ms.for_each(|ms| delay.observe(ms.max(0) as f64 / 1_000.0));
        let age = self.age.get_or_create(&topic);
        ages_us.for_each(|us| age.observe(us.max(0) as f64 / 1_000_000.0));
    }

    pub fn phase(&self, phase: &'static str, took: Duration) {
        let took = took.as_secs_f64();
        self.phases.get_or_create(&Phase { phase }).observe(took);
    }

    pub fn failed(&self, topic: &str, consequence: Consequence) {
        let counter = self.errors.get_or_create(&failed(topic, consequence));
        counter.0.inc();
    }

    pub fn retried(&self, topic: &str) {
        let topic = topic.to_owned();
        self.retries.get_or_create(&Topic { topic }).0.inc();
    }

    pub fn dead_letters_retried(&self, letters: i64) {
        self.letter_retries.0.inc_by(letters.max(0) as u64);
    }

    pub fn renewal_failed(&self) {
        self.renewal_failures.0.inc();
    }

    pub fn fell_silent(&self) {
        self.silences.0.inc();
    }

    pub fn fenced(&self) {
        self.fenced.0.inc();
    }

    pub fn staging(&self) -> Staging {
        Staging {
            gauge: self.staging.clone(),
            gathering: 0,
            in_flight: 0,
        }
    }

    /// Asks the database for what waits for a person, as long as the process lives.
    pub async fn look(&self, pool: Pool, dangling_after: Duration) {
        let mut writers_seen: Option<Instant> = None;
        loop {
            let matters = Matters::of(&pool, dangling_after).await;
            let matters = matters.map_err(|failed| {
                debug!("nothing known of dead letters: {}", failed.describe());
            });
            *self.matters.write().expect("no panic while held") = matters.ok();
            if writers_seen.is_none_or(|seen| seen.elapsed() > WRITERS_LOOK)
                && let Ok(writers) = other_writers(&pool).await
            {
                writers_seen = Some(Instant::now());
                *self.other_writers.write().expect("no panic while held") = writers;
            }
            tokio::time::sleep(NEXT_LOOK).await;
            tokio::select! {
                () = self.more_matters.notified() => {}
                () = tokio::time::sleep(LOOK - NEXT_LOOK) => {}
            }
        }
    }

    /// Dead letters that wait for a person; `None` where the database has not told.
    pub fn parked(&self) -> Option<i64> {
        let matters = self.matters.read().expect("no panic while held");
        let letters = &matters.as_ref()?.dead_letters;
        Some(letters.iter().map(|(_, count)| count).sum())
    }

    /// Who may write what Sluice alone should, in words, as the database last told.
    pub fn other_writers(&self) -> Vec<String> {
        let writers = self.other_writers.read().expect("no panic while held");
        writers
            .iter()
            .map(|(Writer { kind, writer }, writes)| format!("{kind} {writer} ({writes})"))
            .collect()
    }

    /// The text that Prometheus reads.
    pub fn render(&self, snapshot: &Snapshot, pool: &Pool) -> String {
        let mut now = Registry::with_prefix(PREFIX);
        self.register_matters(&mut now);
        register_partitions(&mut now, snapshot);
        register_health(&mut now, snapshot);
        register_services(&mut now, snapshot);
        register_pool(&mut now, pool);
        let build = Family::<Version, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&Version { version }).set(1);
        now.register("build_info", "What runs here", build);
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &now))
            .expect("writing to a String cannot fail");
        text
    }

    fn register_matters(&self, registry: &mut Registry) {
        let writers = self.other_writers.read().expect("no panic while held");
        registry.register(
            "other_writers",
            "Logins, triggers, rules and foreign keys that may write tables which Sluice alone should",
            gauges(writers.iter().map(|(label, _)| (label.clone(), 1))),
        );
        let matters = self.matters.read().expect("no panic while held");
        let Some(matters) = matters.as_ref() else {
            return;
        };
        registry.register(
            "dead_letters_parked",
            "Dead letters that nobody has replayed or discarded yet",
            gauges(matters.dead_letters.iter().cloned()),
        );
        registry.register(
            "dangling_references",
            "Rows of schema domain that were named longer than DANGLING_AFTER ago and are not created yet",
            gauges(matters.dangling.iter().cloned()),
        );
    }
}

fn decided(topic: &str, verdict: Verdict) -> Decided {
    Decided {
        topic: topic.to_owned(),
        verdict: verdict.as_str(),
    }
}

fn rejected(topic: &str, reason: RejectReason) -> Rejected {
    Rejected {
        topic: topic.to_owned(),
        reason: reason.as_str(),
    }
}

fn failed(topic: &str, consequence: Consequence) -> Failed {
    Failed {
        topic: topic.to_owned(),
        consequence: consequence.as_str(),
    }
}

fn gauge(value: i64) -> ConstGauge<i64> {
    ConstGauge::new(value)
}

fn gauges<Label>(values: impl Iterator<Item = (Label, i64)>) -> Family<Label, Gauge>
where
    Label: Clone + std::hash::Hash + Eq,
{
    let family = Family::<Label, Gauge>::default();
    for (label, value) in values {
        family.get_or_create(&label).set(value);
    }
    family
}

fn register_partitions(registry: &mut Registry, snapshot: &Snapshot) {
    let led: Vec<_> = snapshot
        .partitions
        .iter()
        .filter_map(|(partition, led)| {
            let label = PartitionLabel {
                topic: partition.topic.clone(),
                partition: partition.number,
            };
            Some((label, led.as_ref()?))
        })
        .collect();
    let led = || led.iter().map(|(label, led)| (label.clone(), *led));
    registry.register(
        "partition_lag_records",
        "Records that wait in a partition led here",
        gauges(led().filter_map(|(label, led)| Some((label, led.lag?)))),
    );
    registry.register(
        "partition_open_transaction_offsets",
        "Offsets of a partition led here that cannot be read before an open transaction ends",
        gauges(led().map(|(label, led)| {
            (
                label,
                led.behind_transaction.map_or(0, |(offsets, _)| offsets),
            )
        })),
    );
    let lag_seconds = Family::<PartitionLabel, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    for (label, led) in led() {
        if let Some(seconds) = led.lag_seconds() {
            lag_seconds.get_or_create(&label).set(seconds);
        }
    }
    registry.register(
        "partition_lag_seconds",
        "How long the oldest record that waits in a partition led here has done so",
        lag_seconds,
    );
    registry.register(
        "partition_commit_offset",
        "Offset of the next record of a partition led here",
        gauges(led().map(|(label, led)| (label, led.commit_offset))),
    );
    let states = State::ALL.into_iter().map(|state| {
        let count = led().filter(|(_, led)| led.state == state).count();
        let state = state.as_str();
        (StateLabel { state }, count as i64)
    });
    registry.register(
        "partitions_led",
        "Partitions that this instance leads, by state",
        gauges(states),
    );
    let mut topics = BTreeMap::<&String, i64>::new();
    for partition in snapshot.partitions.keys() {
        *topics.entry(&partition.topic).or_default() += 1;
    }
    let topics = topics.into_iter().map(|(topic, count)| {
        let topic = topic.clone();
        (Topic { topic }, count)
    });
    registry.register(
        "topic_partitions",
        "Partitions of the topics that this instance reads, whoever leads them",
        gauges(topics),
    );
    if let Some(age) = snapshot.lease_age {
        registry.register(
            "lease_age_seconds",
            "Since the leases of the partitions led here were renewed",
            ConstGauge::new(age.as_secs_f64()),
        );
    }
}

fn register_health(registry: &mut Registry, snapshot: &Snapshot) {
    let now = snapshot.health();
    let statuses = Health::ALL.into_iter().map(|health| {
        let status = health.as_str();
        (StatusLabel { status }, i64::from(health == now))
    });
    registry.register(
        "health",
        "Whether this is the status that /health tells",
        gauges(statuses),
    );
    if let Some(last) = &snapshot.last_processed {
        let at = last.committed_at.duration_since(UNIX_EPOCH);
        registry.register(
            "last_processed_event_seconds",
            "When this instance last committed an event, in seconds since 1970",
            ConstGauge::new(at.map_or(0.0, |at| at.as_secs_f64())),
        );
    }
}

fn register_services(registry: &mut Registry, snapshot: &Snapshot) {
    for (name, help, value) in [
        (
            "database_up",
            "Whether PostgreSQL answers",
            Some(i64::from(snapshot.database_is_connected)),
        ),
        (
            "kafka_up",
            "Whether Kafka answers",
            Some(i64::from(snapshot.kafka_is_connected)),
        ),
        (
            "redis_up",
            "Whether Redis answers, where one is set",
            snapshot.redis_is_connected.map(i64::from),
        ),
        (
            "topics_missing",
            "Topics that a setting names and Kafka does not have",
            Some(snapshot.missing_topics.len() as i64),
        ),
        (
            "kafka_queue_records",
            "Records fetched from Kafka and not gathered yet",
            Some(snapshot.queue.records),
        ),
        (
            "kafka_queue_bytes",
            "Bytes fetched from Kafka and not gathered yet",
            Some(snapshot.queue.bytes),
        ),
    ] {
        if let Some(value) = value {
            registry.register(name, help, gauge(value));
        }
    }
}

fn register_pool(registry: &mut Registry, pool: &Pool) {
    let connections = pool.status();
    let active = connections.size.saturating_sub(connections.available);
    let states = [("active", active), ("idle", connections.available)];
    let states = states
        .into_iter()
        .map(|(state, count)| (StateLabel { state }, count as i64));
    registry.register(
        "database_connections",
        "Connections of the pool to PostgreSQL",
        gauges(states),
    );
    registry.register(
        "database_connections_max",
        "Connections that the pool may have",
        gauge(connections.max_size as i64),
    );
    registry.register(
        "database_connections_wanted",
        "Batches and other work that wait for a connection of the pool",
        gauge(connections.waiting as i64),
    );
}

async fn other_writers(pool: &Pool) -> Result<Vec<(Writer, String)>, AskError> {
    let client = pool.get().await.map_err(AskError::of_pool)?;
    let rows = client.answer(client.query(OTHER_WRITERS, &[])).await?;
    let writers = rows.iter().map(|row| {
        let (kind, writer) = (row.get(0), row.get(1));
        (Writer { kind, writer }, row.get(2))
    });
    Ok(writers.collect())
}

impl Matters {
    async fn of(pool: &Pool, dangling_after: Duration) -> Result<Self, AskError> {
        let client = pool.get().await.map_err(AskError::of_pool)?;
        let seconds = dangling_after.as_secs_f64();
        let letters = client.answer(client.query(PARKED, &[])).await?;
        let dangling = client.answer(client.query(DANGLING, &[&seconds])).await?;
        let letters = letters.iter().map(|row| {
            let (topic, code) = (row.get(0), row.get(1));
            (Letters { topic, code }, row.get(2))
        });
        let dangling = dangling
            .iter()
            .map(|row| (Kind { kind: row.get(0) }, row.get(1)));
        Ok(Self {
            dead_letters: letters.collect(),
            dangling: dangling.collect(),
        })
    }
}
