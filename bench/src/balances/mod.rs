//! Balances: the apply against its floor (a bare COPY of the same log rows), against the
//! same job in plain SQL, and the whole way from Kafka against the apply alone.

mod accounts;
pub mod contender;
mod copy;
mod tables;
pub mod whole_way;
pub mod workload;

use crate::Measured;
use crate::kafka::Kafka;
use crate::sample::{Sample, Spread};
use crate::stack::{Result, Stack};

use self::contender::{Apply, Baseline, Floor};
use self::tables::{Cell, Report, WholeWay};
use self::workload::{Skew, Stream};

pub const DEFAULT_ROUNDS: usize = 5;
/// Most events in a batch.
const BATCH_SIZES: [usize; 3] = [200, 2_000, 10_000];
/// Events that a contender is given per round; one that is slow does not finish them.
const EVENTS_PER_ROUND: usize = 100_000;
/// Rounds before the first that counts: most pages are changed, and logged as a whole.
const FIRST_TOUCH_ROUNDS: usize = 4;
/// The batch size at which the whole way is compared with the apply alone.
const WHOLE_WAY_BATCH: usize = 2_000;
const WHOLE_WAY_ROUNDS: usize = 3;
const SEED: u64 = 20_261_121;

/// Measures all, and answers with the tables.
pub async fn run(stack: &Stack, rounds: usize) -> Result<Measured> {
    let machine = stack.machine().await?;
    accounts::open(stack).await?;
    let mut apply = Apply::connect(stack).await?;
    let mut baseline = Baseline::connect(stack).await?;
    let mut floor = Floor::connect(stack).await?;

    eprintln!("touching every page once after the checkpoint");
    let mut stream = Stream::new(Skew::Uniform, "first-touch".into(), SEED);
    for _ in 0..FIRST_TOUCH_ROUNDS {
        let events = stream.take(EVENTS_PER_ROUND);
        apply.measure(&events, WHOLE_WAY_BATCH).await?;
        baseline.measure(&events, WHOLE_WAY_BATCH).await?;
    }

    let mut cells = Vec::new();
    for skew in Skew::ALL {
        for batch_size in BATCH_SIZES {
            accounts::empty_logs(stack).await?;
            cells.push(
                cell(
                    skew,
                    batch_size,
                    rounds,
                    &mut apply,
                    &mut baseline,
                    &mut floor,
                )
                .await?,
            );
        }
    }
    let whole_way = whole_way(stack, &mut apply).await?;
    let report = Report {
        machine,
        rounds,
        cells,
        whole_way,
    };
    accounts::empty_logs(stack).await?;
    let figures = vec![("whole-way", report.whole_way.ratio)];
    Ok(Measured {
        text: report.text(),
        figures,
        ..Measured::default()
    })
}

/// All rounds of one workload at one batch size, the first one to warm up.
async fn cell(
    skew: Skew,
    batch_size: usize,
    rounds: usize,
    apply: &mut Apply,
    baseline: &mut Baseline,
    floor: &mut Floor,
) -> Result<Cell> {
    let label = format!("{skew:?}-{batch_size}");
    let mut stream = Stream::new(skew, label.clone(), SEED);
    let (mut applied, mut plain, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let events = stream.take(EVENTS_PER_ROUND);
        // Whoever comes first meets a quieter disk, so they take turns at that, too.
        let (a, p, f): (Sample, Sample, Sample);
        if round % 2 == 0 {
            a = apply.measure(&events, batch_size).await?;
            f = floor.measure(&events, batch_size).await?;
            p = baseline.measure(&events, batch_size).await?;
        } else {
            p = baseline.measure(&events, batch_size).await?;
            f = floor.measure(&events, batch_size).await?;
            a = apply.measure(&events, batch_size).await?;
        }
        if round == 0 {
            continue;
        }
        eprintln!(
            "{label} round {round}: apply {:.0}/s, floor {:.0}/s, plain SQL {:.0}/s in batches of {:.1}",
            a.rate(),
            f.rate(),
            p.rate(),
            p.events_per_batch()
        );
        applied.push(a);
        bare.push(f);
        plain.push(p);
    }
    Ok(Cell {
        workload: skew.name(),
        batch_size,
        plain_batch: Spread::of(plain.iter().map(Sample::events_per_batch)).median,
        apply_to_floor: Spread::of_ratios(&applied, &bare),
        apply_to_plain: Spread::of_ratios(&applied, &plain),
        apply: Spread::of_rates(&applied),
        floor: Spread::of_rates(&bare),
        plain: Spread::of_rates(&plain),
    })
}

/// From a backlog in Kafka to the last COMMIT, against the apply alone in the same round.
async fn whole_way(stack: &Stack, apply: &mut Apply) -> Result<WholeWay> {
    let kafka = Kafka::connect(stack)?;
    let mut stream = Stream::new(Skew::Uniform, "whole".into(), SEED + 1);
    let (mut alone, mut whole) = (Vec::new(), Vec::new());
    for round in 0..=WHOLE_WAY_ROUNDS {
        accounts::empty_logs(stack).await?;
        let backlog = stream.take(whole_way::BACKLOG);
        whole.push(whole_way::measure(stack, &kafka, round, &backlog).await?);
        alone.push(
            apply
                .measure(&stream.take(EVENTS_PER_ROUND), WHOLE_WAY_BATCH)
                .await?,
        );
        let (whole, alone) = (&whole[round], &alone[round]);
        eprintln!(
            "whole way round {round}: {:.0}/s, apply alone {:.0}/s",
            whole.rate(),
            alone.rate()
        );
    }
    let (whole, alone) = (&whole[1..], &alone[1..]);
    Ok(WholeWay {
        batch_size: WHOLE_WAY_BATCH,
        whole: Spread::of_rates(whole),
        apply: Spread::of_rates(alone),
        ratio: Spread::of_ratios(whole, alone),
    })
}
