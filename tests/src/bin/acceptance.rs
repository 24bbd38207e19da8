//! `make acceptance`: what the contract promises in milliseconds, megabytes and per cents, measured.
//! Times depend on the machine, so they are no tests. Arguments choose among the sections.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use proofs::ingester::Ingester;
use proofs::rng::seed;
use proofs::scene::Scene;
use proofs::watch::{led_by, settled, takeovers};
use proofs::workload::{Workload, credit};

#[tokio::main]
async fn main() -> ExitCode {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let wants = |section: &str| chosen.is_empty() || chosen.iter().any(|name| name == section);
    let mut results = Results::default();
    if wants("takeover") {
        takeover(&mut results).await;
    }
    if wants("latency") {
        latency(&mut results, "30", 0.99, 50.0).await;
        latency(&mut results, "0", 0.50, 10.0).await;
    }
    if wants("idle") {
        idle(&mut results).await;
    }
    if wants("http") {
        http(&mut results).await;
    }
    if wants("memory") {
        memory(&mut results).await;
    }
    println!("{}", results.table);
    if results.missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

struct Results {
    table: Table,
    missed: bool,
}

impl Default for Results {
    fn default() -> Self {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY).set_header([
            "what", "min", "median", "max", "measured", "at most", "unit", "",
        ]);
        Self {
            table,
            missed: false,
        }
    }
}

impl Results {
    /// `measured` counts, the samples are shown beside it.
    fn add(&mut self, what: &str, samples: &mut [f64], measured: f64, bound: f64, unit: &str) {
        samples.sort_by(f64::total_cmp);
        let good = measured <= bound;
        self.missed |= !good;
        let number =
            |value: f64| Cell::new(format!("{value:.1}")).set_alignment(CellAlignment::Right);
        let shown = [
            samples.first(),
            samples.get(samples.len() / 2),
            samples.last(),
        ]
        .map(|value| value.map_or(Cell::new(""), |value| number(*value)));
        let [min, median, max] = shown;
        let verdict = if good {
            Cell::new("ok").fg(Color::Green)
        } else {
            Cell::new("MISSED").fg(Color::Red)
        };
        self.table.add_row([
            Cell::new(what),
            min,
            median,
            max,
            number(measured),
            number(bound),
            Cell::new(unit),
            verdict,
        ]);
        eprintln!("{what}: {measured:.1} {unit}, at most {bound:.1}");
    }
}

const TRIES: usize = 10;
const LEASE_MS: f64 = 3_000.0;

#[derive(Clone, Copy)]
enum Fault {
    Kill,
    Terminate,
    Freeze,
}

/// From the fault to the first COMMIT of a successor on the last of the victim's partitions, under load.
async fn takeover(results: &mut Results) {
    let scene = Scene::new(4).await;
    let feed = scene.feed(&Workload::new(seed()), 2_000);
    let mut instances = [scene.ingester(), scene.ingester()];
    let faults = [
        ("take-over after kill -9", Fault::Kill, 1_000.0),
        ("take-over after SIGTERM", Fault::Terminate, 200.0),
        ("take-over after SIGSTOP", Fault::Freeze, LEASE_MS + 1_000.0),
    ];
    for (name, fault, bound) in faults {
        let mut times = Vec::new();
        for number in 0..TRIES {
            let took = one_takeover(&scene, &mut instances, number % 2, fault).await;
            eprintln!("{name}, try {}: {took:?}", number + 1);
            times.push(took.as_secs_f64() * 1000.0);
        }
        let longest = times.iter().copied().fold(0.0, f64::max);
        results.add(
            &format!("{name}, longest of {TRIES}"),
            &mut times,
            longest,
            bound,
            "ms",
        );
    }
    feed.stop().await;
}

async fn one_takeover(
    scene: &Scene,
    instances: &mut [Ingester; 2],
    victim: usize,
    fault: Fault,
) -> Duration {
    let names = instances
        .each_ref()
        .map(|instance| instance.service_id.clone());
    settled(
        &scene.database,
        &scene.topic,
        4,
        &names.each_ref().map(String::as_str),
        Duration::from_secs(30),
    )
    .await;
    let committed = scene.committed().await;
    scene.committed_beyond(committed + 1_000).await;
    let led = led_by(&scene.database, &scene.topic, &names[victim]).await;
    let start = Instant::now();
    match fault {
        Fault::Kill => instances[victim].kill9(),
        Fault::Terminate => instances[victim].terminate(),
        Fault::Freeze => instances[victim].freeze(),
    }
    let took = takeovers(
        &scene.database,
        &scene.topic,
        &led,
        start,
        Duration::from_secs(30),
    )
    .await;
    if let Fault::Freeze = fault {
        instances[victim].unfreeze();
    } else {
        instances[victim].ended(Duration::from_secs(10)).await;
        instances[victim].start_again();
    }
    took.last().expect("the victim led something").after
}

/// From just before the record is handed to the producer to the moment its offset is seen committed.
async fn latency(results: &mut Results, delay_ms: &str, quantile: f64, bound: f64) {
    const RECORDS: usize = 2_000;
    let scene = Scene::new(1).await;
    let mut ingester = scene.ingester_with(&[("BATCHING_DELAY_MS", delay_ms)]);
    settled(
        &scene.database,
        &scene.topic,
        1,
        &[&ingester.service_id],
        Duration::from_secs(30),
    )
    .await;
    let (kafka, topic) = (scene.kafka().clone(), scene.topic.clone());
    let sending = std::thread::spawn(move || {
        let producer = kafka.producer_with(&[("linger.ms", "0")]);
        let start = Instant::now();
        let mut sent = Vec::with_capacity(RECORDS);
        for number in 0..RECORDS {
            let due = Duration::from_millis(10) * number as u32;
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            sent.push(Instant::now());
            producer.send(
                &topic,
                0,
                &credit(&format!("e{number}"), number as i64 % 100, "1"),
            );
            producer.poll();
        }
        producer.flush();
        sent
    });
    let mut seen = Vec::with_capacity(RECORDS);
    let query = scene
        .database
        .client
        .prepare("SELECT commit_offset FROM ledger.partition_progress")
        .await
        .expect("a statement");
    while seen.len() < RECORDS {
        let offset: i64 = scene
            .database
            .client
            .query_one(&query, &[])
            .await
            .expect("progress")
            .get(0);
        let now = Instant::now();
        seen.resize(offset as usize, now);
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let sent = sending.join().expect("Kafka took the records");
    // The first second is warm-up: connections, statements, caches.
    let mut times: Vec<f64> = sent
        .iter()
        .zip(&seen)
        .skip(100)
        .map(|(sent, seen)| (*seen - *sent).as_secs_f64() * 1000.0)
        .collect();
    times.sort_by(f64::total_cmp);
    let measured = times[(times.len() as f64 * quantile) as usize];
    let name =
        format!("a record that comes alone, BATCHING_DELAY_MS={delay_ms}, quantile {quantile}");
    results.add(&name, &mut times, measured, bound, "ms");
    ingester.stop().await;
}

/// What an instance costs that leads 64 partitions in which nothing happens.
async fn idle(results: &mut Results) {
    const WINDOW: Duration = Duration::from_secs(20);
    let scene = Scene::new(64).await;
    scene
        .database
        .client
        .batch_execute("CREATE EXTENSION pg_stat_statements")
        .await
        .expect("the stack loads pg_stat_statements");
    let mut ingester = scene.ingester();
    settled(
        &scene.database,
        &scene.topic,
        64,
        &[&ingester.service_id],
        Duration::from_secs(60),
    )
    .await;
    // Whatever the start has under way ends within two polls and two renewals.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (before, cpu, start) = (statements(&scene).await, ingester.cpu(), Instant::now());
    tokio::time::sleep(WINDOW).await;
    let seconds = start.elapsed().as_secs_f64();
    let used = (ingester.cpu() - cpu).as_secs_f64() / seconds * 100.0;
    let after = statements(&scene).await;
    for (text, count) in &after {
        let count = count - before.get(text).copied().unwrap_or(0);
        if count > 0 {
            eprintln!(
                "  {:.2}/s {}",
                count as f64 / seconds,
                text.split_whitespace().collect::<Vec<_>>().join(" ")
            );
        }
    }
    let calls = after.values().sum::<i64>() - before.values().sum::<i64>();
    results.add(
        "idle with 64 partitions, processor",
        &mut [],
        used,
        2.0,
        "% of a core",
    );
    results.add(
        "idle with 64 partitions, statements",
        &mut [],
        calls as f64 / seconds,
        5.0,
        "per second",
    );
    results.add(
        "idle with 64 partitions, resident memory",
        &mut [],
        ingester.rss_bytes() as f64 / 1e6,
        256.0,
        "MB",
    );
    ingester.stop().await;
}

/// What answers cost of the processors that would else apply batches: a hundred a second, with 64 partitions to tell of.
async fn http(results: &mut Results) {
    const WINDOW: Duration = Duration::from_secs(10);
    const ROUNDS: usize = 3;
    let scene = Scene::new(64).await;
    let mut ingester = scene.ingester();
    let names = [ingester.service_id.as_str()];
    settled(
        &scene.database,
        &scene.topic,
        64,
        &names,
        Duration::from_secs(60),
    )
    .await;
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let mut used = [0.0; 2];
        for (asks, used) in [false, true].into_iter().zip(&mut used) {
            let (cpu, start) = (ingester.cpu(), Instant::now());
            let mut asked = 0;
            while start.elapsed() < WINDOW {
                if asks {
                    let path = if asked % 2 == 0 {
                        "/health"
                    } else {
                        "/metrics"
                    };
                    assert_eq!(ingester.get(path).await.0, 200);
                }
                asked += 1;
                let due = start + Duration::from_millis(10) * asked;
                tokio::time::sleep_until(due.into()).await;
            }
            *used = (ingester.cpu() - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
        }
        costs.push((used[1] - used[0]) / processors * 100.0);
    }
    costs.sort_by(f64::total_cmp);
    let median = costs[ROUNDS / 2];
    let what = "100 requests/s to /health and /metrics";
    results.add(what, &mut costs, median, 2.0, "% of all cores");
    ingester.stop().await;
}

async fn statements(scene: &Scene) -> BTreeMap<String, i64> {
    const CALLS: &str = "SELECT s.query, sum(s.calls)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
        JOIN pg_roles r ON r.oid = s.userid
        WHERE d.datname = current_database() AND r.rolname = 'sluice_ingester' GROUP BY s.query";
    let rows = scene
        .database
        .client
        .query(CALLS, &[])
        .await
        .expect("pg_stat_statements");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Resident memory at its peak while a backlog is drained, and how fast that goes.
async fn memory(results: &mut Results) {
    const EVENTS: u64 = 1_000_000;
    let scene = Scene::new(8).await;
    scene.fill(&Workload::new(seed()), EVENTS).await;
    let mut ingester = scene.ingester();
    let start = Instant::now();
    scene.caught_up().await;
    let rate = EVENTS as f64 / start.elapsed().as_secs_f64();
    eprintln!(
        "backlog of {EVENTS} events drained at {rate:.0} events/s by one ingester with {} threads",
        ingester.threads()
    );
    results.add(
        "draining a million events of 8 partitions, peak memory",
        &mut [],
        ingester.peak_rss_bytes() as f64 / 1e6,
        256.0,
        "MB",
    );
    ingester.stop().await;
}
