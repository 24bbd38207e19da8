//! From the send to the committed row, under a steady load: the way of every single event.

use std::time::{Duration, Instant};

use comfy_table::Table;

use crate::balances::contenders::Apply;
use crate::balances::workload::{ACCOUNTS, Event, PARTITIONS, Skew, Stream, payload};
use crate::ingester::Ingester;
use crate::kafka::{self, Kafka, Record};
use crate::measure::processors::Processors;
use crate::measure::report::{grouped, right_aligned, table};
use crate::measure::sample::Spread;
use crate::stack::{Result, Stack};
use crate::{Form, Measured, fill};

/// Events per second of the targets.
const RATE: u32 = 2_000;
const DELAY_30: Reader = Reader::Sluice { delay_ms: "30" };
const DELAY_0: Reader = Reader::Sluice { delay_ms: "0" };
/// A rate that leaves the processors time to spare: what is left of the times is not queueing for them.
const EASY_RATE: u32 = 500;
/// Of Kafka, before all: a broker that runs for long has compiled its code.
const BROKER_WARM_UP: Duration = Duration::from_secs(30);
/// Events before the first that counts: connections, statements, caches.
const WARM_UP: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_secs(20);
/// Of 100,000 events each.
const TOUCH_ROUNDS: usize = 4;
const LONG_MINUTES: usize = 10;
/// Between two looks at what is committed.
const LOOK: Duration = Duration::from_millis(2);
/// Without any record.
const STALL: Duration = Duration::from_secs(30);
const KNOWN_IDENTITIES: usize = 1_000_000;

/// Who gets the events.
#[derive(Clone, Copy)]
enum Reader {
    Sluice {
        delay_ms: &'static str,
    },
    /// A consumer that drops them: what the producer, Kafka and the machine take of the time.
    Nobody,
}

impl Reader {
    fn name(self) -> String {
        match self {
            Self::Sluice { delay_ms } => format!("sluice run, delay {delay_ms} ms"),
            Self::Nobody => "bare consumer".to_owned(),
        }
    }
}

/// One load, and the figure that it gives.
struct Load {
    rate: u32,
    reader: Reader,
    time: Duration,
    /// And its quantile, where there is a target.
    figure: Option<(&'static str, f64)>,
}

/// Measures all, and answers with the table.
pub async fn run(stack: &Stack, form: Form) -> Result<Measured> {
    let machine = stack.machine().await?;
    let admin = stack.admin().await?;
    fill::anew(&admin, ACCOUNTS, KNOWN_IDENTITIES).await?;
    touch(stack).await?;
    let first = Load {
        time: BROKER_WARM_UP,
        ..short(RATE, DELAY_30, None)
    };
    measure(stack, "bench.latency.first", &first).await?;
    let mut loads = vec![
        short(RATE, Reader::Nobody, None),
        short(RATE, DELAY_30, Some("p99-delay-30")),
        short(RATE, DELAY_0, Some("p99-delay-0")),
    ];
    if form == Form::Full {
        let readers = [Reader::Nobody, DELAY_30, DELAY_0];
        loads.extend(readers.map(|reader| short(EASY_RATE, reader, None)));
        loads.push(long()?);
    }
    let mut times_table = table(&[
        "events/s",
        "reader",
        "events",
        "p50 (ms)",
        "p99 (ms)",
        "p99.9 (ms)",
        "longest (ms)",
        "checkpoints",
        "autovacuum runs",
    ]);
    let mut shares: Option<Table> = None;
    let mut figures = Vec::new();
    for (number, load) in loads.iter().enumerate() {
        let long = load.time > SHORT;
        if long {
            disturb(stack).await?;
        }
        let before = disturbances(stack).await?;
        let topic = format!("bench.latency.{number}");
        let (times, used) = measure(stack, &topic, load).await?;
        let after = disturbances(stack).await?;
        if long {
            leave_alone(stack).await?;
        }
        let ms = |quantile| format!("{:.1}", at(&times, quantile));
        times_table.add_row([
            grouped(f64::from(load.rate)),
            load.reader.name(),
            grouped(times.len() as f64),
            ms(0.5),
            ms(0.99),
            ms(0.999),
            ms(1.0),
            (after.checkpoints - before.checkpoints).to_string(),
            (after.autovacuums - before.autovacuums).to_string(),
        ]);
        let load_name = [grouped(f64::from(load.rate)), load.reader.name()];
        let shares = shares.get_or_insert_with(|| {
            let processes: Vec<&str> = used.iter().map(|(process, _)| *process).collect();
            table(&[&["events/s", "reader"], &processes[..]].concat())
        });
        let used = used.iter().map(|(_, percent)| format!("{percent:.1}"));
        shares.add_row(load_name.into_iter().chain(used));
        if let Some((figure, quantile)) = load.figure {
            figures.push((figure, Spread::once(at(&times, quantile))));
        }
    }
    let text = format!(
        "Measured on {}.\n\n{}\n\n{}\n\n\
         Processor time meanwhile, in % of all processors\n\n{}",
        machine.date,
        machine.list(),
        right_aligned(times_table),
        right_aligned(shares.ok_or("no load")?),
    );
    Ok(Measured::of(text, figures))
}

/// Changes every page once after the checkpoint, which logs it as a whole.
async fn touch(stack: &Stack) -> Result<()> {
    let mut apply = Apply::connect(stack).await?;
    let mut stream = Stream::new(Skew::Uniform, "touch".into(), 1);
    for _ in 0..TOUCH_ROUNDS {
        apply.measure(&stream.take(100_000), 2_000).await?;
    }
    Ok(())
}

fn short(rate: u32, reader: Reader, figure: Option<&'static str>) -> Load {
    Load {
        rate,
        reader,
        time: SHORT,
        figure: figure.map(|figure| (figure, 0.99)),
    }
}

/// Across checkpoints and autovacuum runs.
fn long() -> Result<Load> {
    let minutes = crate::number("BENCH_MINUTES", 60)?.unwrap_or(LONG_MINUTES);
    Ok(Load {
        time: Duration::from_secs(60) * minutes as u32,
        figure: Some(("p999", 0.999)),
        ..short(RATE, DELAY_30, None)
    })
}

/// Has checkpoints and autovacuum come as often as they do where they are most of a burden.
async fn disturb(stack: &Stack) -> Result<()> {
    stack.set("checkpoint_timeout", "'1min'").await?;
    stack.set("autovacuum_naptime", "'10s'").await
}

async fn leave_alone(stack: &Stack) -> Result<()> {
    stack.set("checkpoint_timeout", "'1h'").await?;
    stack.set("autovacuum_naptime", "DEFAULT").await
}

struct Disturbances {
    checkpoints: i64,
    autovacuums: i64,
}

async fn disturbances(stack: &Stack) -> Result<Disturbances> {
    let row = stack
        .admin()
        .await?
        .query_one(
            "SELECT checkpoints_timed + checkpoints_req,
                (SELECT sum(autovacuum_count)::bigint FROM pg_stat_user_tables)
             FROM pg_stat_bgwriter",
            &[],
        )
        .await?;
    Ok(Disturbances {
        checkpoints: row.get(0),
        autovacuums: row.get(1),
    })
}

/// How long each event took, in milliseconds, sorted; and who used the processors.
async fn measure(
    stack: &Stack,
    topic: &str,
    load: &Load,
) -> Result<(Vec<f64>, Vec<(&'static str, f64)>)> {
    let Load {
        rate, reader, time, ..
    } = *load;
    let kafka = Kafka::prompt(stack)?;
    kafka.create_topics([topic], PARTITIONS as i32).await?;
    let mut ingester = None;
    if let Reader::Sluice { delay_ms } = reader {
        let settings = [
            ("BALANCE_TOPICS", topic),
            ("EVENT_TOPICS", ""),
            ("BATCHING_DELAY_MS", delay_ms),
        ];
        let ingester = ingester.insert(Ingester::start_with(stack, &settings)?);
        all_led(stack, topic, ingester).await?;
    }

    let events = rate * (WARM_UP + time).as_secs() as u32;
    let (start, before) = (Instant::now(), Processors::now()?);
    let to = topic.to_owned();
    let sending = std::thread::spawn(move || send(&kafka, &to, start, rate, events));
    let mut times = match &mut ingester {
        // All on one thread: looking costs what is looked at as little as can be.
        Some(ingester) => std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?
                    .block_on(watch(stack, topic, start, rate, events, ingester))
            });
            watching.join().expect("no panic")
        })?,
        None => consume(stack, topic, start, rate, events)?,
    };
    let used = Processors::now()?.shares_since(&before);
    sending.join().map_err(|_| "the producer panicked")??;
    if let Some(ingester) = ingester {
        ingester.stop();
    }
    times.sort_by(f64::total_cmp);
    eprintln!(
        "{rate}/s, {}, {} s: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms",
        reader.name(),
        time.as_secs(),
        at(&times, 0.5),
        at(&times, 0.99),
        at(&times, 0.999)
    );
    Ok((times, used))
}

async fn all_led(stack: &Stack, topic: &str, ingester: &mut Ingester) -> Result<()> {
    let admin = stack.admin().await?;
    let since = Instant::now();
    loop {
        let led: i64 = admin
            .query_one(
                "SELECT count(leader_svc_id) FROM ledger.partition_leader_locks WHERE topic = $1",
                &[&topic],
            )
            .await?
            .get(0);
        if led == PARTITIONS as i64 {
            return Ok(());
        }
        ingester.check(0, since)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// When an event is to be sent, whatever became of those before it.
fn due(event: u32, rate: u32) -> Duration {
    Duration::from_secs(1) * event / rate
}

/// Which event it is: partitions take turns.
fn number(partition: i32, offset: i64) -> u32 {
    offset as u32 * PARTITIONS as u32 + partition as u32
}

fn send(kafka: &Kafka, topic: &str, start: Instant, rate: u32, events: u32) -> Result<()> {
    let mut stream = Stream::new(Skew::Uniform, topic.replace('.', "-"), 1);
    for number in 0..events {
        let partition = number as i32 % PARTITIONS as i32;
        let event = of_partition(stream.next_event(), partition);
        let payload = payload(&event);
        let key = event.change.key.account_id.to_string();
        std::thread::sleep(due(number, rate).saturating_sub(start.elapsed()));
        kafka.send(&Record {
            topic,
            partition,
            key: key.as_bytes(),
            payload: &payload,
        })?;
    }
    kafka.flush()
}

/// An account's events stay in one partition, as any producer would send them.
fn of_partition(mut event: Event, partition: i32) -> Event {
    let partitions = PARTITIONS as i64;
    let account_id = &mut event.change.key.account_id;
    *account_id = (*account_id - 1) / partitions * partitions + i64::from(partition) + 1;
    event
}

/// Reads the records as they come, and does nothing with them.
fn consume(stack: &Stack, topic: &str, start: Instant, rate: u32, events: u32) -> Result<Vec<f64>> {
    let consumer = kafka::Reader::connect(stack, topic)?;
    let partitions = 0..PARTITIONS as i32;
    consumer.assign(partitions.map(|partition| (topic, partition, 0)))?;
    let mut times = Vec::with_capacity(events as usize);
    for _ in 0..events {
        let found = consumer.next(STALL)?.ok_or("no record comes any more")?;
        let now = start.elapsed();
        let due = due(number(found.partition, found.offset), rate);
        if due >= WARM_UP {
            times.push((now - due).as_secs_f64() * 1_000.0);
        }
    }
    Ok(times)
}

/// Looks again and again at what is committed: from when an event was due to the first look that finds it.
async fn watch(
    stack: &Stack,
    topic: &str,
    start: Instant,
    rate: u32,
    events: u32,
    ingester: &mut Ingester,
) -> Result<Vec<f64>> {
    let admin = stack.admin().await?;
    let committed = admin
        .prepare(
            "SELECT partition, commit_offset FROM ledger.partition_leases
             JOIN ledger.partition_progress USING (partition_id) WHERE topic = $1",
        )
        .await?;
    let mut times = Vec::with_capacity(events as usize);
    let mut next_offsets = [0; PARTITIONS];
    let (mut last_commit, mut looks) = (start, 0);
    loop {
        let rows = admin.query(&committed, &[&topic]).await?;
        let now = Instant::now();
        looks += 1;
        for row in rows {
            let (partition, commit_offset): (i32, i64) = (row.get(0), row.get(1));
            let next_offset = &mut next_offsets[partition as usize];
            for offset in *next_offset..commit_offset {
                let due = due(number(partition, offset), rate);
                if due >= WARM_UP {
                    times.push((now - start - due).as_secs_f64() * 1_000.0);
                }
                last_commit = now;
            }
            *next_offset = commit_offset;
        }
        let missing = i64::from(events) - next_offsets.iter().sum::<i64>();
        if missing == 0 {
            let between = start.elapsed().as_secs_f64() * 1_000.0 / f64::from(looks);
            eprintln!("looked every {between:.2} ms");
            return Ok(times);
        }
        ingester.check(missing, last_commit)?;
        // Not tokio's clock, which counts whole milliseconds only.
        std::thread::sleep(LOOK);
    }
}

fn at(sorted: &[f64], quantile: f64) -> f64 {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted[rank.max(1) - 1]
}
