//! The whole story at once: load, two ingesters, kills of the busier one, and the accounts at the end.
//! `make demo` shows it with one kill, `make soak` with twenty.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::compare::{Accounts, Report, compare};
use crate::database::Database;
use crate::ingester::Ingester;
use crate::load::{fill_counting, share};
use crate::scene::STALL;
use crate::stack::Stack;
use crate::watch::{led_by, settled, takeovers};
use crate::workload::Workload;

pub const TOPIC: &str = "balance.changed";
const DLQ_TOPIC: &str = "db-writer.dlq";

#[derive(Debug, Clone)]
pub struct Plan {
    pub events: u64,
    pub partitions: i32,
    pub kills: u64,
    pub workload: Workload,
}

/// What happens meanwhile, for whoever watches.
pub trait Audience {
    fn step(&mut self, what: &str);
    fn progress(&mut self, sent: u64, committed: u64);
    fn note(&mut self, what: &str);
}

pub struct Outcome {
    pub report: Report,
    /// Name of each invariant check, and what it found where it found something.
    pub checks: Vec<(String, Option<String>)>,
    /// From the first record sent to the last one committed, kills included.
    pub took: Duration,
    pub peak_rss_bytes: u64,
    pub kills: Vec<Kill>,
}

pub struct Kill {
    pub led: usize,
    /// From kill -9 to the first COMMIT of a successor, for the first and the last partition.
    pub takeover: Option<(Duration, Duration)>,
}

impl Outcome {
    pub fn is_good(&self) -> bool {
        self.report.difference_count == 0 && self.checks.iter().all(|(_, found)| found.is_none())
    }
}

/// Runs the plan on the stack's own database, which must be empty.
pub async fn run(stack: &Stack, plan: &Plan, audience: &mut impl Audience) -> Outcome {
    audience.step("migrating the database, creating topics, starting two ingesters");
    let database = Database::stack_default(stack).await;
    stack.kafka.create_topic(TOPIC, plan.partitions, &[]).await;
    stack.kafka.create_topic(DLQ_TOPIC, 1, &[]).await;
    let mut instances = [
        Ingester::start(stack, &database.url, TOPIC, &[]),
        Ingester::start(stack, &database.url, TOPIC, &[]),
    ];
    let names = instances
        .each_ref()
        .map(|instance| instance.service_id.clone());
    settled(
        &database,
        TOPIC,
        plan.partitions,
        &names.each_ref().map(String::as_str),
        Duration::from_secs(30),
    )
    .await;

    audience.step(&format!(
        "sending {} events to {} partitions while two ingesters read them",
        plan.events, plan.partitions
    ));
    let start = Instant::now();
    let sent = Arc::new(AtomicU64::new(0));
    let producing = produce(stack, plan, sent.clone());
    let mut kills = Vec::new();
    for kill in 1..=plan.kills {
        watch_until(
            &database,
            plan.events * kill / (plan.kills + 1),
            &sent,
            audience,
        )
        .await;
        kills.push(kill_busier(&database, &mut instances, plan, audience).await);
    }
    watch_until(&database, plan.events, &sent, audience).await;
    let took = start.elapsed();
    producing.await.expect("Kafka took the load");
    database
        .caught_up(&stack.kafka, TOPIC, plan.partitions, STALL)
        .await;
    let peak_rss_bytes = instances
        .iter()
        .map(Ingester::peak_rss_bytes)
        .max()
        .unwrap_or(0);
    for instance in &mut instances {
        instance.stop().await;
    }

    audience.step("reading the topic again with the reference ledger and comparing every record");
    let report = compare(
        stack,
        &database,
        TOPIC,
        plan.partitions,
        Accounts::OfOnePartition,
    )
    .await;
    audience.step("running the invariant checks of sql/");
    let checks = database.run_checks().await;
    Outcome {
        report,
        checks,
        took,
        peak_rss_bytes,
        kills,
    }
}

fn produce(stack: &Stack, plan: &Plan, sent: Arc<AtomicU64>) -> tokio::task::JoinHandle<()> {
    let (kafka, plan) = (stack.kafka.clone(), plan.clone());
    tokio::task::spawn_blocking(move || {
        fill_counting(
            &kafka,
            TOPIC,
            plan.partitions,
            &plan.workload,
            plan.events,
            &sent,
        )
    })
}

/// Shows progress until `target` records are committed.
async fn watch_until(
    database: &Database,
    target: u64,
    sent: &AtomicU64,
    audience: &mut impl Audience,
) {
    let mut last = (0, Instant::now());
    loop {
        let committed = database.committed(TOPIC).await as u64;
        audience.progress(sent.load(Ordering::Relaxed), committed);
        if committed >= target {
            return;
        }
        if committed != last.0 {
            last = (committed, Instant::now());
        }
        assert!(
            last.1.elapsed() < STALL,
            "no progress for {STALL:?} at {committed} of {target} records"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn kill_busier(
    database: &Database,
    instances: &mut [Ingester; 2],
    plan: &Plan,
    audience: &mut impl Audience,
) -> Kill {
    let first = led_by(database, TOPIC, &instances[0].service_id).await;
    let second = led_by(database, TOPIC, &instances[1].service_id).await;
    let (victim, mut led) = if second.len() > first.len() {
        (1, second)
    } else {
        (0, first)
    };
    let count = led.len();
    instances[victim].kill9();
    let fault = Instant::now();
    audience.note(&format!(
        "kill -9 of {}, which led {count} partitions",
        instances[victim].service_id
    ));
    // A partition that is nearly read to its end may have nothing left for a successor to commit.
    led.retain(|partition, progress| {
        progress.commit_offset as usize + 10_000 < share(plan.events, plan.partitions, *partition)
    });
    let took = takeovers(database, TOPIC, &led, fault, STALL).await;
    instances[victim].start_again();
    let takeover = took
        .first()
        .zip(took.last())
        .map(|(first, last)| (first.after, last.after));
    if let Some((_, last)) = takeover {
        audience.note(&format!(
            "its partitions were taken over within {:.2} s; started it again",
            last.as_secs_f64()
        ));
    }
    Kill {
        led: count,
        takeover,
    }
}
