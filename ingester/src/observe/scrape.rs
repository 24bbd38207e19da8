//! Metrics that are looked up when somebody asks.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::observe::labels::{PartitionLabel, StateLabel, StatusLabel, Topic};
use crate::observe::snapshot::{Health, Snapshot, State};
use crate::postgres::pool::Pool;

/// All of what the snapshot and the pool say.
pub(super) fn register(registry: &mut Registry, snapshot: &Snapshot, pool: &Pool) {
    register_partitions(registry, snapshot);
    register_health(registry, snapshot);
    register_services(registry, snapshot);
    register_pool(registry, pool);
}

pub(super) fn gauge(value: i64) -> ConstGauge<i64> {
    ConstGauge::new(value)
}

pub(super) fn gauges<Label>(values: impl Iterator<Item = (Label, i64)>) -> Family<Label, Gauge>
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
    register_shares(registry, snapshot);
}

fn register_shares(registry: &mut Registry, snapshot: &Snapshot) {
    let led = || snapshot.partitions.values().flatten();
    let states = State::ALL.into_iter().map(|state| {
        let count = led().filter(|led| led.state == state).count();
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
