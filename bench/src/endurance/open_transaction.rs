//! The apply while somebody else's transaction stays open: no version of a row that it may
//! still look at can be removed.

use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::balances::contenders::Apply;
use crate::balances::workload::{Skew, Stream};
use crate::measure::report::{grouped, ratio, right_aligned, table};
use crate::measure::sample::{Sample, Spread};
use crate::stack::{Result, Stack};
use crate::{Measured, fill, number};

const MINUTES: usize = 10;
/// One hot account shows sooner what happens.
const HOT_MINUTES: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);
const BATCH_SIZE: usize = 2_000;
const EVENTS_PER_ROUND: usize = 100_000;
const WARM_UP: Duration = Duration::from_secs(15);
/// Without the transaction, before and after it.
const BESIDE: Duration = Duration::from_secs(30);
const ACCOUNTS: usize = 100_000;
const KNOWN_IDENTITIES: usize = 1_000_000;
/// pg_dump starts with this minute.
const DUMP_MINUTE: usize = 3;

/// Events per second of one workload.
struct Course {
    before: f64,
    minutes: Vec<f64>,
    after: f64,
    dump: Duration,
}

pub async fn run(stack: &Stack) -> Result<Measured> {
    let machine = stack.machine().await?;
    let minutes = number("BENCH_MINUTES", 60)?.unwrap_or(MINUTES);
    let uniform = course(stack, Skew::Uniform, minutes).await?;
    let hot = course(stack, Skew::Hot, minutes.min(HOT_MINUTES)).await?;

    let mut table = table(&[
        "minute",
        "uniform, 100,000 accounts (events/s)",
        "÷ before",
        "one hot account (events/s)",
        "÷ before",
    ]);
    let mut line = |when: String, uniform_rate: f64, hot_rate: Option<f64>| {
        let show = |show: fn(f64) -> String, value: Option<f64>| value.map_or(String::new(), show);
        table.add_row([
            when,
            grouped(uniform_rate),
            ratio(uniform_rate / uniform.before),
            show(grouped, hot_rate),
            show(ratio, hot_rate.map(|rate| rate / hot.before)),
        ]);
    };
    line("before".to_owned(), uniform.before, Some(hot.before));
    for (minute, rate) in uniform.minutes.iter().enumerate() {
        let when = (minute + 1).to_string();
        line(when, *rate, hot.minutes.get(minute).copied());
    }
    line("after".to_owned(), uniform.after, Some(hot.after));
    let text = format!(
        "Measured on {}. pg_dump began with minute {} and took {:.0} s (uniform) and {:.0} s (hot).\n\n{}\n\n{}",
        machine.date,
        DUMP_MINUTE.min(minutes),
        uniform.dump.as_secs_f64(),
        hot.dump.as_secs_f64(),
        machine.list(),
        right_aligned(table)
    );
    let ratios = uniform.minutes.iter().map(|rate| rate / uniform.before);
    Ok(Measured::of(
        text,
        vec![("open-transaction", Spread::of(ratios))],
    ))
}

async fn course(stack: &Stack, skew: Skew, minutes: usize) -> Result<Course> {
    let admin = stack.admin().await?;
    fill::anew(&admin, ACCOUNTS, KNOWN_IDENTITIES).await?;
    let mut load = Load {
        apply: Apply::connect(stack).await?,
        stream: Stream::new(skew, format!("open-{skew:?}"), 1).over(ACCOUNTS),
    };
    load.until(Instant::now() + WARM_UP).await?;
    let before = load.until(Instant::now() + BESIDE).await?;
    eprintln!("{skew:?} before: {before:.0}/s");

    let reader = stack.admin().await?;
    reader
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM ledger.account_balances LIMIT 1",
        )
        .await?;
    let opened = Instant::now();
    let mut rates = Vec::new();
    let mut dumping = None;
    for minute in 1..=minutes {
        if minute == DUMP_MINUTE.min(minutes) {
            dumping = Some(dump(stack)?);
        }
        let rate = load.until(opened + MINUTE * minute as u32).await?;
        let sizes = sizes(&admin).await?;
        eprintln!("{skew:?} minute {minute}: {rate:.0}/s; {sizes}");
        rates.push(rate);
    }
    let dump = dumping.ok_or("no minute, no pg_dump")?;
    let dump = dump.join().map_err(|_| "the wait for pg_dump panicked")??;
    reader.batch_execute("ROLLBACK").await?;
    for table in ["account_balances", "partition_progress"] {
        admin
            .batch_execute(&format!("VACUUM ledger.{table}"))
            .await?;
    }
    let after = load.until(Instant::now() + BESIDE).await?;
    eprintln!("{skew:?} after: {after:.0}/s; pg_dump took {dump:?}");
    Ok(Course {
        before,
        minutes: rates,
        after,
        dump,
    })
}

struct Load {
    apply: Apply,
    stream: Stream,
}

impl Load {
    /// Events per second of rounds up to then, the preparation of batches aside.
    async fn until(&mut self, end: Instant) -> Result<f64> {
        let mut total = Sample::default();
        while Instant::now() < end {
            let events = self.stream.take(EVENTS_PER_ROUND);
            let sample = self.apply.measure(&events, BATCH_SIZE).await?;
            total.events += sample.events;
            total.seconds += sample.seconds;
        }
        Ok(total.rate())
    }
}

/// Starts pg_dump; answers how long it took.
fn dump(stack: &Stack) -> Result<JoinHandle<Result<Duration>>> {
    let started = Instant::now();
    let mut process = stack.pg_dump()?.stdout(Stdio::null()).spawn()?;
    Ok(std::thread::spawn(move || {
        if !process.wait()?.success() {
            return Err("pg_dump failed".into());
        }
        Ok(started.elapsed())
    }))
}

/// What the versions that cannot be removed have come to.
async fn sizes(admin: &Client) -> Result<String> {
    let row = admin
        .query_one(
            "SELECT string_agg(format('%s %s MB and %s MB of index', c, pg_table_size(c) >> 20, pg_indexes_size(c) >> 20), ', ')
             FROM unnest('{ledger.account_balances,ledger.partition_progress,ledger.event_identities}'::regclass[]) c",
            &[],
        )
        .await?;
    Ok(row.get(0))
}
