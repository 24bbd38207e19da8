//! Metrics for Prometheus: what is counted as it happens, and what is looked up when asked.
//! Base units, one prefix, and labels whose values are topics, partitions and closed lists.

use std::sync::RwLock;
use std::time::{Duration, Instant};

use ledger::verdict::{RejectReason, Verdict};
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tracing::debug;

use crate::instance::VERSION;
use crate::observe::counts::{BatchCounts, Staging};
use crate::observe::history::History;
use crate::observe::labels::{
    Change, Decided, Failed, Phase, Rejected, Topic, Total, Version, Writer, decided, failed,
    rejected,
};
use crate::observe::matters::{Matters, other_writers};
use crate::observe::process;
use crate::observe::scrape::{self, gauges};
use crate::observe::snapshot::Snapshot;
use crate::observe::trend::{Trend, standing};
use crate::postgres::error::Consequence;
use crate::postgres::pool::Pool;

/// Prometheus' plain text, which everything that scrapes can read.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const PREFIX: &str = "sluice";
/// How often the database is asked for what waits for a person.
const LOOK: Duration = Duration::from_secs(10);
/// How often it is asked who else may write: rights change rarely.
const WRITERS_LOOK: Duration = Duration::from_secs(30);
/// How long a batch with dead letters waits for the next look at least: many of them must not ask all the time.
const NEXT_LOOK: Duration = Duration::from_secs(1);

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
    pub trend: Trend,
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
            trend: Trend::default(),
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
        self.register_events();
        self
    }

    /// What happens now and then.
    fn register_events(&mut self) {
        let registry = &mut self.registry;
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
    pub fn committed(&self, topic: &str, counts: &BatchCounts) {
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
            if let Ok(standing) = standing(&pool).await {
                self.trend.sample(&standing, self.parked());
            }
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
        scrape::register(&mut now, snapshot, pool);
        let build = Family::<Version, Gauge>::default();
        build.get_or_create(&Version { version: VERSION }).set(1);
        now.register("build_info", "What runs here", build);
        let mut own = Registry::default();
        process::register(&mut own);
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &now))
            .and_then(|()| encode_registry(&mut text, &own))
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
