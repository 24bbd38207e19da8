//! Metrics for Prometheus: what is counted as it happens, and what is looked up when asked.
//! Base units, one prefix, and labels whose values are topics, partitions and closed lists.

use std::sync::RwLock;
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tracing::debug;

use crate::error::{chain, describe};
use crate::status::{Snapshot, State};

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PREFIX: &str = "sluice";
/// How often the database is asked for what waits for a person.
const LOOK: Duration = Duration::from_secs(10);

const PARKED: &str = "SELECT topic, error_code, letters FROM sluice.parked_dead_letters()";
const DANGLING: &str =
    "SELECT kind, rows FROM sluice.dangling_references($1::double precision * interval '1 s')";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Topic {
    topic: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Verdict {
    topic: String,
    verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
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
struct Letters {
    topic: String,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: String,
}

/// What a batch did.
pub struct Counts {
    pub applied: i64,
    pub rejected: i64,
    pub duplicates: i64,
    pub dead: i64,
}

/// What waits for a person, as the database last told.
#[derive(Default)]
struct Matters {
    dead_letters: Vec<(Letters, i64)>,
    dangling: Vec<(Kind, i64)>,
}

pub struct Metrics {
    registry: Registry,
    records: Family<Verdict, Counter>,
    delay: Family<Topic, Histogram, fn() -> Histogram>,
    batch_records: Histogram,
    phases: Family<Phase, Histogram, fn() -> Histogram>,
    retries: Family<Topic, Counter>,
    acquired: Counter,
    lost: Counter,
    fenced: Counter,
    matters: RwLock<Option<Matters>>,
}

/// From 0.5 ms to about a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 18))
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            records: Family::default(),
            delay: Family::new_with_constructor(seconds),
            batch_records: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            phases: Family::new_with_constructor(seconds),
            retries: Family::default(),
            acquired: Counter::default(),
            lost: Counter::default(),
            fenced: Counter::default(),
            matters: RwLock::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("records", "Records committed", self.records.clone());
        registry.register_with_unit(
            "event_delay",
            "From a record's timestamp in Kafka to its commit",
            Unit::Seconds,
            self.delay.clone(),
        );
        registry.register(
            "batch_records",
            "Records of a batch",
            self.batch_records.clone(),
        );
        registry.register_with_unit(
            "batch_phase",
            "What a batch spends its time on in the database",
            Unit::Seconds,
            self.phases.clone(),
        );
        registry.register(
            "batch_retries",
            "Batches that were tried again",
            self.retries.clone(),
        );
        registry.register(
            "partitions_acquired",
            "Partitions that this instance became leader of",
            self.acquired.clone(),
        );
        registry.register(
            "partitions_lost",
            "Partitions whose leadership was lost, not handed over",
            self.lost.clone(),
        );
        registry.register(
            "fencing_refusals",
            "Writes refused because leadership was another's",
            self.fenced.clone(),
        );
        self
    }

    /// What a batch came to.
    pub fn committed(&self, topic: &str, counts: &Counts) {
        for (verdict, count) in [
            ("APPLIED", counts.applied),
            ("REJECTED", counts.rejected),
            ("DUPLICATE", counts.duplicates),
            ("DEAD", counts.dead),
        ] {
            let topic = topic.to_owned();
            let counter = self.records.get_or_create(&Verdict { topic, verdict });
            counter.inc_by(count.max(0) as u64);
        }
    }

    /// How old the records of a batch were at its commit.
    pub fn delayed(&self, topic: &str, delays_ms: impl ExactSizeIterator<Item = i64>) {
        self.batch_records.observe(delays_ms.len() as f64);
        let topic = topic.to_owned();
        let delay = self.delay.get_or_create(&Topic { topic });
        delays_ms.for_each(|ms| delay.observe(ms.max(0) as f64 / 1_000.0));
    }

    /// Answers how long it took.
    pub fn phase(&self, phase: &'static str, since: Instant) -> Duration {
        let took = since.elapsed();
        let phases = self.phases.get_or_create(&Phase { phase });
        phases.observe(took.as_secs_f64());
        took
    }

    pub fn retried(&self, topic: &str) {
        let topic = topic.to_owned();
        self.retries.get_or_create(&Topic { topic }).inc();
    }

    pub fn acquired(&self) {
        self.acquired.inc();
    }

    pub fn lost(&self) {
        self.lost.inc();
    }

    pub fn fenced(&self) {
        self.fenced.inc();
    }

    /// Asks the database for what waits for a person, as long as the process lives.
    pub async fn look(&self, pool: Pool, dangling_after: Duration) {
        loop {
            let matters = Matters::of(&pool, dangling_after).await;
            let matters = matters.map_err(|error| debug!("nothing known of dead letters: {error}"));
            *self.matters.write().expect("no panic while held") = matters.ok();
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The text that Prometheus reads.
    pub fn render(&self, snapshot: &Snapshot, pool: &Pool) -> String {
        let mut now = Registry::with_prefix(PREFIX);
        self.register_matters(&mut now);
        register_snapshot(&mut now, snapshot);
        let connections = pool.status();
        now.register(
            "database_connections",
            "Connections of the pool to PostgreSQL",
            gauge(connections.size as i64),
        );
        now.register(
            "database_connections_max",
            "Connections that the pool may have",
            gauge(connections.max_size as i64),
        );
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let build = prometheus_client::metrics::info::Info::new(version);
        now.register("build", "What runs here", build);
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &now))
            .and_then(|()| encode_eof(&mut text))
            .expect("writing to a String cannot fail");
        text
    }

    fn register_matters(&self, registry: &mut Registry) {
        let matters = self.matters.read().expect("no panic while held");
        let Some(matters) = matters.as_ref() else {
            return;
        };
        let letters = Family::<Letters, Gauge>::default();
        for (label, count) in &matters.dead_letters {
            letters.get_or_create(label).set(*count);
        }
        registry.register(
            "dead_letters_parked",
            "Dead letters that nobody has replayed or discarded yet",
            letters,
        );
        let dangling = Family::<Kind, Gauge>::default();
        for (label, count) in &matters.dangling {
            dangling.get_or_create(label).set(*count);
        }
        registry.register(
            "dangling_references",
            "Rows of schema domain that were named longer than DANGLING_AFTER ago and are not created yet",
            dangling,
        );
    }
}

fn gauge(value: i64) -> ConstGauge<i64> {
    ConstGauge::new(value)
}

fn register_snapshot(registry: &mut Registry, snapshot: &Snapshot) {
    let (lags, offsets) = (
        Family::<PartitionLabel, Gauge>::default(),
        Family::<PartitionLabel, Gauge>::default(),
    );
    let states = Family::<StateLabel, Gauge>::default();
    for state in State::ALL {
        let led = snapshot.partitions.values().flatten();
        let count = led.filter(|led| led.state == state).count();
        let state = state.as_str();
        states
            .get_or_create(&StateLabel { state })
            .set(count as i64);
    }
    for (partition, led) in &snapshot.partitions {
        let Some(led) = led else { continue };
        let label = PartitionLabel {
            topic: partition.topic.clone(),
            partition: partition.number,
        };
        offsets.get_or_create(&label).set(led.commit_offset);
        if let Some(lag) = led.lag {
            lags.get_or_create(&label).set(lag);
        }
    }
    registry.register(
        "partition_lag_records",
        "Records that wait in a partition led here",
        lags,
    );
    registry.register(
        "partition_commit_offset",
        "Offset of the next record of a partition led here",
        offsets,
    );
    registry.register(
        "partitions_led",
        "Partitions that this instance leads, by state",
        states,
    );
    for (name, help, is_up) in [
        (
            "database_up",
            "Whether PostgreSQL answers",
            Some(snapshot.database_is_connected),
        ),
        (
            "kafka_up",
            "Whether Kafka answers",
            Some(snapshot.kafka_is_connected),
        ),
        (
            "redis_up",
            "Whether Redis answers, where one is set",
            snapshot.redis_is_connected,
        ),
    ] {
        if let Some(is_up) = is_up {
            registry.register(name, help, gauge(i64::from(is_up)));
        }
    }
}

impl Matters {
    async fn of(pool: &Pool, dangling_after: Duration) -> Result<Self, String> {
        let client = pool.get().await.map_err(|error| chain(&error))?;
        let seconds = dangling_after.as_secs_f64();
        let letters = client.query(PARKED, &[]).await;
        let letters = letters.map_err(|error| describe(&error))?;
        let dangling = client.query(DANGLING, &[&seconds]).await;
        let dangling = dangling.map_err(|error| describe(&error))?;
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
