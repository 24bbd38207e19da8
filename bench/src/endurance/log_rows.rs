//! The apply on a log, and with identities known, of ever more rows.

use std::process::Command;
use std::time::Instant;

use crate::balances::contenders::Apply;
use crate::balances::workload::{ACCOUNTS, Skew, Stream};
use crate::measure::report::{grouped, ratio, right_aligned, table};
use crate::measure::sample::{Sample, Spread};
use crate::stack::{Result, Stack};
use crate::{Measured, fill, number};

const MILLION: usize = 1_000_000;
/// Each is more than the rounds at the one before add to it.
const SIZES: [usize; 6] = [1, 5, 10, 20, 50, 100];
/// Of a row with its identity, in heaps and indexes, as measured.
const BYTES_PER_ROW: usize = 300;
/// What the write-ahead log may take, and some to spare.
const RESERVE: usize = 25_000_000_000;
const BATCH_SIZE: usize = 2_000;
const EVENTS_PER_ROUND: usize = 100_000;
/// So that every page of the accounts is changed, and logged as a whole, once.
const FIRST_TOUCH_ROUNDS: usize = 4;
const ROUNDS: usize = 5;
/// The last identities that are added touch every leaf of their index.
const LAST_PIECE: usize = 5 * MILLION;

/// Rates at one size.
struct Point {
    rows: usize,
    touched: Vec<Sample>,
    /// Right after a checkpoint, when the first change of each page logs the page as a whole.
    untouched: Vec<Sample>,
}

pub async fn run(stack: &Stack) -> Result<Measured> {
    let machine = stack.machine().await?;
    let most = number("BENCH_LOG_MILLIONS", 100)?.unwrap_or(100) * MILLION;
    let room = free_bytes(stack)?.saturating_sub(RESERVE) / BYTES_PER_ROW;
    let sizes = SIZES.map(|millions| millions * MILLION);
    // What autovacuum does is measured with the latency; here it would come at one size and not at another.
    stack.set("autovacuum", "off").await?;
    let points = points(
        stack,
        sizes.into_iter().filter(|size| *size <= most.min(room)),
    )
    .await?;
    stack.set("autovacuum", "DEFAULT").await?;

    let first = Spread::of_rates(&points[0].touched).median;
    let mut table = table(&[
        "rows",
        "events/s",
        "÷ 1,000,000 rows",
        "right after a checkpoint (events/s)",
    ]);
    for point in &points {
        let rates = Spread::of_rates(&point.touched);
        table.add_row([
            grouped(point.rows as f64),
            rates.show(grouped),
            to_first(&point.touched, first).show(ratio),
            Spread::of_rates(&point.untouched).show(grouped),
        ]);
    }
    let text = format!(
        "Measured on {}; minimum / median / maximum of {ROUNDS} rounds.\n\n{}\n\n{}",
        machine.date,
        machine.list(),
        right_aligned(table)
    );
    let largest = &points[points.len() - 1];
    let curve = points.iter().map(|point| {
        let rate = Spread::of_rates(&point.touched).median;
        [point.rows as f64, rate.round()]
    });
    Ok(Measured {
        text,
        figures: vec![("log-rows", to_first(&largest.touched, first))],
        curves: vec![("log-rows-curve", curve.collect())],
    })
}

fn to_first(samples: &[Sample], first: f64) -> Spread {
    Spread::of(samples.iter().map(|sample| sample.rate() / first))
}

async fn points(stack: &Stack, sizes: impl Iterator<Item = usize>) -> Result<Vec<Point>> {
    let admin = stack.admin().await?;
    fill::anew(&admin, ACCOUNTS, 0).await?;
    let mut apply = Apply::connect(stack).await?;
    let mut stream = Stream::new(Skew::Uniform, "log-rows".into(), 1);
    let mut points = Vec::new();
    let mut rows = 0;
    for size in sizes {
        // The rounds before the first that counts bring the last of the rows.
        let fill_to = size - FIRST_TOUCH_ROUNDS * EVENTS_PER_ROUND;
        grow(stack, rows, fill_to).await?;
        rows = fill_to;
        let mut round = async || -> Result<Sample> {
            let events = stream.take(EVENTS_PER_ROUND);
            let sample = apply.measure(&events, BATCH_SIZE).await?;
            rows += sample.events;
            Ok(sample)
        };
        for _ in 0..FIRST_TOUCH_ROUNDS {
            round().await?;
        }
        let (mut touched, mut untouched) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            touched.push(round().await?);
        }
        admin.batch_execute("CHECKPOINT").await?;
        for _ in 0..ROUNDS {
            untouched.push(round().await?);
        }
        eprintln!(
            "{size} rows: {:.0}/s, right after a checkpoint {:.0}/s",
            Spread::of_rates(&touched).median,
            Spread::of_rates(&untouched).median
        );
        points.push(Point {
            rows: size,
            touched,
            untouched,
        });
    }
    Ok(points)
}

/// Fills log and identities up to `to` rows. A checkpoint comes before the last of them, so
/// that pages are as long after it, when they were changed already.
async fn grow(stack: &Stack, from: usize, to: usize) -> Result<()> {
    let clock = Instant::now();
    let (one, other) = (stack.admin().await?, stack.admin().await?);
    let count = to - from;
    let last = count.min(LAST_PIECE);
    tokio::try_join!(
        fill::log(&one, from, to),
        fill::identities(&other, count - last)
    )?;
    one.batch_execute("CHECKPOINT").await?;
    fill::identities(&one, last).await?;
    let tables = "'{ledger.balance_log,ledger.event_identities}'::regclass[]";
    let bytes: i64 = one
        .query_one(
            &format!("SELECT sum(pg_total_relation_size(c))::bigint FROM unnest({tables}) c"),
            &[],
        )
        .await?
        .get(0);
    eprintln!(
        "filled up to {to} rows in {:.0} s, {} bytes a row",
        clock.elapsed().as_secs_f64(),
        bytes as usize / to
    );
    Ok(())
}

fn free_bytes(stack: &Stack) -> Result<usize> {
    let answer = Command::new("df").arg("-Pk").arg(&stack.dir).output()?;
    let text = String::from_utf8(answer.stdout)?;
    let free = text
        .lines()
        .nth(1)
        .and_then(|line| line.split_whitespace().nth(3));
    let kilobytes: usize = free.ok_or("df tells no free space")?.parse()?;
    Ok(kilobytes * 1024)
}
