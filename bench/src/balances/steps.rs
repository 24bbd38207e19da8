//! Where the time of one event goes: batch after batch in one session, step by step; and what
//! each process of the machine spends on an event from Kafka to COMMIT.

use std::time::{Duration, Instant};

use sluice::batch::Batch;
use sluice::batch::record::{Kind, Record};
use sluice::batch::sealed::Sealed;
use sluice::batch::slice::Content;

use crate::Measured;
use crate::ingester::Ingester;
use crate::kafka::Kafka;
use crate::measure::processors::{TICKS, busy, processor_time};
use crate::measure::report::{grouped, right_aligned, table};
use crate::stack::{Result, Stack};

use super::contenders::Apply;
use super::transfer::{self, Transfers};
use super::whole_way;
use super::workload::{Event, PARTITIONS, Skew, Stream, payload};
use super::{BACKLOG, DEFAULT_BATCH, SEED, accounts};

const EVENTS: usize = 200_000;
const MOST_BATCHES: usize = 1_000;
/// Events of the same kind before the first that counts.
const WARM_UP: usize = 100_000;
/// What the single-statement baseline gathers.
const SMALL_BATCH: usize = 200;
/// What the steps may differ from the whole by.
const TOLERANCE: f64 = 0.1;

/// Seconds by step, in the order in which a batch meets them.
type Times = Vec<(String, f64)>;

/// Measures both, and answers with their tables.
pub async fn run(stack: &Stack) -> Result<Measured> {
    let machine = stack.machine().await?;
    accounts::open(stack).await?;
    let mut columns = Vec::new();
    for (skew, batch_size) in [
        (Skew::Uniform, DEFAULT_BATCH),
        (Skew::Zipf, DEFAULT_BATCH),
        (Skew::Zipf, SMALL_BATCH),
    ] {
        let mut stream = Stream::new(skew, format!("steps-{skew:?}-{batch_size}"), SEED);
        let take = |count| stream.take(count).iter().map(payload).collect();
        let name = format!("{}, batch {}", skew.name(), grouped(batch_size as f64));
        columns.push((name, one_session(stack, batch_size, take).await?));
    }
    let mut transfers = Transfers::new("steps-transfer", SEED);
    let take = |count| {
        transfers
            .take(count)
            .iter()
            .map(transfer::payload)
            .collect()
    };
    let name = format!(
        "transfers, 10,000 accounts, batch {}",
        grouped(DEFAULT_BATCH as f64)
    );
    columns.push((name, one_session(stack, DEFAULT_BATCH, take).await?));
    let (by_process, whole) = every_process(stack).await?;
    let text = format!(
        "Measured on {}.\n\n{}\n\n\
         One session, one step after the other: microseconds per event\n\n{}\n\n\
         Kafka to COMMIT, {PARTITIONS} partitions with backlog, everything on this machine: microseconds of processor time per event\n\n{}",
        machine.date,
        machine.list(),
        side_by_side(&columns)?,
        alone("process", &by_process, whole, "both cores, less idle time")?,
    );
    accounts::empty_logs(stack).await?;
    Ok(Measured::of(text, Vec::new()))
}

/// Microseconds per event by step, and of the whole; `take` makes the next payloads.
async fn one_session(
    stack: &Stack,
    batch_size: usize,
    mut take: impl FnMut(usize) -> Vec<Vec<u8>>,
) -> Result<(Times, f64)> {
    let mut apply = Apply::connect(stack).await?;
    let warm_up = take(WARM_UP);
    let events = EVENTS.min(MOST_BATCHES * batch_size);
    let payloads = take(events);
    let (mut times, mut whole) = (Times::new(), Duration::ZERO);
    let mut spare: Option<Sealed> = None;
    let batches = warm_up
        .chunks(batch_size)
        .chain(payloads.chunks(batch_size));
    for (batch, payloads) in batches.enumerate() {
        if batch == warm_up.len().div_ceil(batch_size) {
            (times, whole) = (Times::new(), Duration::ZERO);
        }
        let clock = Instant::now();
        // As a lane of the ingester does, with its code.
        let mut gathered = match spare.take() {
            Some(spare) => spare.reopen(apply.offset()),
            None => Batch::new(Kind::Balance, apply.offset()),
        };
        for (offset, payload) in (apply.offset()..).zip(payloads) {
            gathered.push(Record {
                offset,
                timestamp_ms: 0,
                key: None,
                payload: Some(payload),
                headers: None,
            });
        }
        let sealed = gathered.seal();
        let slice = sealed.slice(0..sealed.records());
        let Content::Balance(staged) = &slice.content else {
            return Err("a batch of balance events holds others".into());
        };
        add(
            &mut times,
            "decode, hash and stage (ingester)",
            clock.elapsed(),
        );
        let counts = [payloads.len(), staged.promise.rows as usize];
        let steps = apply
            .in_steps(&staged.bytes, counts, slice.last_record)
            .await?;
        whole += clock.elapsed();
        drop(slice);
        spare = Some(sealed);
        // Asked for when the clock stands still.
        let inside = apply.last_steps().await?;
        let [stage, call, commit] = steps;
        let called: Duration = inside.iter().map(|(_, took)| *took).sum();
        add(&mut times, "BEGIN and staging", stage);
        add(&mut times, "call: round trip", call - called.min(call));
        for (step, took) in inside {
            add(&mut times, &format!("call: {step}"), took);
        }
        add(&mut times, "COMMIT", commit);
    }
    let each = |seconds: f64| seconds * 1e6 / events as f64;
    let times = times
        .into_iter()
        .map(|(step, seconds)| (step, each(seconds)));
    Ok((times.collect(), each(whole.as_secs_f64())))
}

fn add(times: &mut Times, step: &str, took: Duration) {
    let took = took.as_secs_f64();
    match times.iter_mut().find(|(name, _)| name == step) {
        Some((_, seconds)) => *seconds += took,
        None => times.push((step.to_owned(), took)),
    }
}

/// Microseconds of processor time per event by process, and of the whole machine.
async fn every_process(stack: &Stack) -> Result<(Times, f64)> {
    let kafka = Kafka::connect(stack)?;
    let topic = "bench.steps";
    let backlog = Stream::new(Skew::Uniform, "steps-whole".into(), SEED).take(BACKLOG);
    accounts::empty_logs(stack).await?;
    whole_way::fill(&kafka, topic, &backlog, Event::waiting).await?;
    let mut ingester = Ingester::start(stack, topic, "", None)?;
    // From the first half on, so that starting is over.
    let half = BACKLOG as i64 / 2;
    ingester.drain(stack, &[topic], 0, half).await?;
    let (before, busy_before) = (processor_time()?, busy()?);
    let sample = ingester
        .drain(stack, &[topic], half, BACKLOG as i64)
        .await?;
    let (after, busy_after) = (processor_time()?, busy()?);
    ingester.stop();
    let each = |ticks: u64| ticks as f64 * 1e6 / TICKS / sample.events as f64;
    let times = after.into_iter().map(|(process, ticks)| {
        let spent = ticks.saturating_sub(before.get(process).copied().unwrap_or_default());
        (process.to_owned(), each(spent))
    });
    Ok((times.collect(), each(busy_after - busy_before)))
}

fn side_by_side(columns: &[(String, (Times, f64))]) -> Result<String> {
    let mut shown = table(&["step"]);
    shown.set_header(std::iter::once("step").chain(columns.iter().map(|(name, _)| name.as_str())));
    let (_, (first, _)) = &columns[0];
    for (step, _) in first {
        let times = columns.iter().map(|(_, (times, _))| {
            let found = times.iter().find(|(name, _)| name == step);
            found.map_or(String::new(), |(_, us)| format!("{us:.2}"))
        });
        shown.add_row(std::iter::once(step.clone()).chain(times));
    }
    let mut last = vec!["the total, measured separately".to_owned()];
    for (_, (times, whole)) in columns {
        last.push(share(times, *whole)?);
    }
    shown.add_row(last);
    Ok(right_aligned(shown).to_string())
}

fn alone(what: &str, times: &Times, whole: f64, measured: &str) -> Result<String> {
    let mut shown = table(&[what, "µs"]);
    for (name, us) in times {
        shown.add_row([name.clone(), format!("{us:.2}")]);
    }
    let measured = format!("the total, measured separately: {measured}");
    shown.add_row([measured, share(times, whole)?]);
    Ok(right_aligned(shown).to_string())
}

/// The whole, and how much of it the steps explain.
fn share(times: &Times, whole: f64) -> Result<String> {
    let sum: f64 = times.iter().map(|(_, us)| us).sum();
    if (sum / whole - 1.0).abs() > TOLERANCE {
        return Err(format!(
            "the steps take {sum:.2} µs, the whole {whole:.2} µs: a step is missing"
        )
        .into());
    }
    Ok(format!(
        "{whole:.2} (the steps: {:.0} %)",
        sum / whole * 100.0
    ))
}
