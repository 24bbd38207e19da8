//! The state of this instance at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::partition::Partition;

/// A partition that has records and commits none for so long, beyond what its batch waits for more, stands still.
pub(super) const STANDS_STILL: Duration = Duration::from_secs(10);

/// How a led partition does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    /// A batch is tried again.
    Retrying,
    /// The handler of its topic is paused.
    Paused,
    /// Someone has to change something first.
    Halted,
    /// There are records, and none is committed.
    Stalled,
}

impl State {
    pub const ALL: [Self; 5] = [
        Self::Running,
        Self::Retrying,
        Self::Paused,
        Self::Halted,
        Self::Stalled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::Stalled => "stalled",
        }
    }
}

/// A partition that this instance leads.
#[derive(Clone, Debug)]
pub struct Led {
    pub state: State,
    /// Why it does not run.
    pub reason: Option<String>,
    pub commit_offset: i64,
    /// Records that wait in Kafka, as far as Kafka has told.
    pub lag: Option<i64>,
    pub last_batch: Option<LastBatch>,
    /// Offsets in Kafka that cannot be read before an open transaction ends, and where they begin.
    pub behind_transaction: Option<(i64, i64)>,
    /// Whose lock its batch waits for.
    pub behind: Option<String>,
    /// When the first record of the batch in the database was made, by Kafka's timestamp.
    pub(super) oldest_ms: Option<i64>,
    /// Since when nothing waits, or the last commit.
    pub(super) progressed_at: Instant,
}

/// How long the last transaction of a partition took, phase by phase.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastBatch {
    pub rows: i64,
    pub copy: Duration,
    pub apply: Duration,
    pub commit: Duration,
}

impl Led {
    /// Says so where records wait, and what for.
    pub(super) fn look_at_waits(&mut self, batching_delay: Duration) {
        if self.state != State::Running || self.lag.is_none_or(|lag| lag <= 0) {
            return;
        }
        let still = self.progressed_at.elapsed();
        if still > STANDS_STILL + batching_delay {
            self.state = State::Stalled;
            let mut reason = format!("nothing was committed for {} s", still.as_secs());
            if let Some(holder) = &self.behind {
                reason = format!("{reason}: its batch waits for a lock of {holder}");
            }
            self.reason = Some(reason);
        }
        if let Some((offsets, first)) = self.behind_transaction
            && self.commit_offset >= first
        {
            self.reason = Some(format!(
                "waits behind an open transaction: {offsets} offsets from {first} on cannot be read before it ends"
            ));
        }
    }

    /// How long the oldest record that is not committed has waited; where it was not read yet, how long nothing was committed.
    pub fn lag_seconds(&self) -> Option<f64> {
        match (self.oldest_ms, self.lag?) {
            (Some(oldest_ms), _) => Some((now_ms() - oldest_ms).max(0) as f64 / 1_000.0),
            (None, 0) => Some(0.0),
            (None, _) => Some(self.progressed_at.elapsed().as_secs_f64()),
        }
    }
}

/// Milliseconds since 1970, as Kafka counts.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as i64)
}

/// Where a partition ends.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Behind the last record that there is.
    pub high: i64,
    /// Behind the last one that can be read: the first of an open transaction.
    pub stable: i64,
}

/// What librdkafka has fetched and nobody has read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queue {
    pub records: i64,
    pub bytes: i64,
}

/// The record below the offset that was committed last.
#[derive(Clone, Debug)]
pub struct Processed {
    pub partition: Partition,
    pub offset: i64,
    pub committed_at: SystemTime,
}

impl Processed {
    /// When it was committed, as ISO 8601 writes it: `2024-01-01T00:00:00.000Z`.
    pub fn at(&self) -> String {
        let at = time::OffsetDateTime::from(self.committed_at);
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.millisecond()
        )
    }
}

/// All of it at one moment.
pub struct Snapshot {
    /// Every partition of the topics that are read; `None` where another instance leads.
    pub partitions: BTreeMap<Partition, Option<Led>>,
    pub database_is_connected: bool,
    pub kafka_is_connected: bool,
    /// `None` where no Redis is set.
    pub redis_is_connected: Option<bool>,
    /// Topics that a setting names and Kafka does not have.
    pub missing_topics: BTreeSet<String>,
    /// Partitions without a leader that cannot be acquired, and why.
    pub blocked: BTreeMap<Partition, String>,
    /// Why this instance may lead nothing.
    pub cannot_lead: Option<String>,
    pub last_processed: Option<Processed>,
    pub queue: Queue,
    /// Since the leases were renewed; `None` where nothing is led.
    pub lease_age: Option<Duration>,
}

/// What `/health`, the page and the metrics sum it up to, in the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Healthy,
    Degraded,
    Down,
}

impl Health {
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Degraded, Self::Down];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

impl Snapshot {
    pub fn health(&self) -> Health {
        let suffers = |led: &Led| led.state != State::Running;
        if !self.database_is_connected || !self.kafka_is_connected {
            Health::Down
        } else if self.redis_is_connected == Some(false)
            || !self.missing_topics.is_empty()
            || !self.blocked.is_empty()
            || self.cannot_lead.is_some()
            || self.partitions.values().flatten().any(suffers)
        {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// Why it is not ready to lead, if it is not; a standby is.
    pub fn not_ready(&self) -> Option<&str> {
        match self.health() {
            Health::Down => Some("down"),
            _ => self.cannot_lead.as_deref(),
        }
    }

    /// Records that wait in the partitions led here.
    pub fn lag(&self) -> i64 {
        let led = self.partitions.values().flatten();
        led.filter_map(|led| led.lag).sum()
    }
}
