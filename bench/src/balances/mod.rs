//! Balances: the apply against its floor (a bare COPY of the same log rows), against the
//! same job in plain SQL, and with events that are unlike ordinary ones; the whole way from
//! Kafka against the apply alone; and transfers from Kafka against the floor.

mod accounts;
pub mod contenders;
mod copy;
pub mod steps;
mod tables;
mod transfer;
pub mod whole_way;
pub mod workload;

use crate::Measured;
use crate::kafka::Kafka;
use crate::measure::sample::Sample;
use crate::stack::{Result, Stack};

use self::contenders::{Apply, Floor, SingleStatement};
use self::tables::{Cell, Drained, Report, Unlike, best};
use self::transfer::Transfers;
use self::workload::{Event, Skew, Stream, with_duplicates, with_rejects};

pub const DEFAULT_ROUNDS: usize = 4;
/// Events that a contender is given per round; one that is slow does not finish them.
const EVENTS_PER_ROUND: usize = 100_000;
/// Rounds before the first that counts: most pages are changed, and logged as a whole.
const FIRST_TOUCH_ROUNDS: usize = 4;
/// The ingester's default batch size, at which the whole way is compared with the apply alone.
const DEFAULT_BATCH: usize = 10_000;
/// Most rounds of what comes from Kafka.
const KAFKA_ROUNDS: usize = 3;
/// Events that wait in Kafka when the ingester starts, and transfers.
const BACKLOG: usize = 400_000;
const TRANSFERS: usize = 200_000;
const SEED: u64 = 20_261_121;

/// Measures all, and answers with the tables.
pub async fn run(stack: &Stack, rounds: usize) -> Result<Measured> {
    let machine = stack.machine().await?;
    accounts::open(stack).await?;
    let mut bench = Bench {
        stack,
        rounds,
        kafka: Kafka::connect(stack)?,
        apply: Apply::connect(stack).await?,
        floor: Floor::connect(stack).await?,
        plain: SingleStatement::connect(stack).await?,
    };
    bench.touch_pages().await?;
    let cells = bench.cells().await?;
    let best_batch = best(&cells, Skew::Zipf).batch_size;
    // Gives back the disk that the write-ahead log took; rounds to warm up come next.
    stack.admin().await?.batch_execute("CHECKPOINT").await?;
    let report = Report {
        machine,
        unlike: bench.unlike(best_batch).await?,
        whole_way: bench.whole_way().await?,
        transfers: bench.transfers().await?,
        cells,
    };
    accounts::empty_logs(stack).await?;
    Ok(report.measured())
}

struct Bench<'a> {
    stack: &'a Stack,
    rounds: usize,
    kafka: Kafka,
    apply: Apply,
    floor: Floor,
    plain: SingleStatement,
}

impl Bench<'_> {
    async fn touch_pages(&mut self) -> Result<()> {
        eprintln!("touching every page once after the checkpoint");
        let mut stream = Stream::new(Skew::Uniform, "first-touch".into(), SEED);
        for _ in 0..FIRST_TOUCH_ROUNDS {
            let events = stream.take(EVENTS_PER_ROUND);
            self.apply.measure(&events, DEFAULT_BATCH).await?;
            self.plain.measure(&events, DEFAULT_BATCH).await?;
        }
        Ok(())
    }

    /// Every workload at every batch size: all take turns within a round, the first one to warm up.
    async fn cells(&mut self) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for skew in [Skew::Uniform, Skew::Zipf, Skew::Hot] {
            for batch_size in tables::BATCH_SIZES {
                let stream = Stream::new(skew, format!("{skew:?}-{batch_size}"), SEED);
                cells.push((Cell::new(skew, batch_size), stream));
            }
        }
        for round in 0..=self.rounds {
            for place in turns(round, cells.len()) {
                let (cell, stream) = &mut cells[place];
                accounts::empty_logs(self.stack).await?;
                let events = stream.take(EVENTS_PER_ROUND);
                self.cell(round, cell, &events).await?;
            }
        }
        Ok(cells.into_iter().map(|(cell, _)| cell).collect())
    }

    async fn cell(&mut self, round: usize, cell: &mut Cell, events: &[Event]) -> Result<()> {
        let batch_size = cell.batch_size;
        let what = format!("round {round}: {}, batch {batch_size}", cell.skew.name());
        // Whoever comes first meets a quieter disk, so they take turns at that, too.
        for contender in turns(round, 3) {
            let (name, sample, samples) = match contender {
                0 => (
                    "apply",
                    self.apply.measure(events, batch_size).await?,
                    &mut cell.apply,
                ),
                1 => (
                    "floor",
                    self.floor.measure(events, batch_size).await?,
                    &mut cell.floor,
                ),
                _ if cell.skew == Skew::Hot => continue,
                _ => (
                    "plain SQL",
                    self.plain.measure(events, batch_size).await?,
                    &mut cell.plain,
                ),
            };
            keep(round, &format!("{what}: {name}"), sample, samples);
        }
        Ok(())
    }

    /// A hot account, rejects and duplicates against ordinary events.
    async fn unlike(&mut self, batch_size: usize) -> Result<Unlike> {
        let mut few = Stream::new(Skew::UniformFew, "UniformFew".into(), SEED);
        let mut hot = Stream::new(Skew::Hot, "Hot".into(), SEED);
        let mut unlike = Unlike {
            batch_size,
            ordinary: Vec::new(),
            hot: Vec::new(),
            rejects: Vec::new(),
            duplicates: Vec::new(),
        };
        let mut applied: Vec<Event> = Vec::new();
        for round in 0..=self.rounds {
            for side in turns(round, 4) {
                let (what, events, samples) = match side {
                    0 => ("ordinary", few.take(EVENTS_PER_ROUND), &mut unlike.ordinary),
                    1 => ("hot", hot.take(EVENTS_PER_ROUND), &mut unlike.hot),
                    2 => (
                        "rejects",
                        with_rejects(few.take(EVENTS_PER_ROUND)),
                        &mut unlike.rejects,
                    ),
                    _ => (
                        "duplicates",
                        with_duplicates(few.take(EVENTS_PER_ROUND), batch_size, &applied),
                        &mut unlike.duplicates,
                    ),
                };
                accounts::empty_logs(self.stack).await?;
                let sample = self.apply.measure(&events, batch_size).await?;
                if side == 0 {
                    applied = events;
                    applied.truncate(sample.events);
                }
                keep(round, &format!("round {round}: {what}"), sample, samples);
            }
        }
        Ok(unlike)
    }

    /// From a backlog in Kafka to the last COMMIT, against the apply alone.
    async fn whole_way(&mut self) -> Result<Drained> {
        let mut stream = Stream::new(Skew::Uniform, "whole".into(), SEED + 1);
        let record = Event::waiting;
        let (mut drained, mut beside) = (Vec::new(), Vec::new());
        for round in 0..=self.rounds.min(KAFKA_ROUNDS) {
            let topic = format!("bench.whole.{round}");
            let backlog = stream.take(BACKLOG);
            let sample =
                whole_way::measure(self.stack, &self.kafka, &topic, &backlog, record, 1).await?;
            keep(
                round,
                &format!("round {round}: whole way"),
                sample,
                &mut drained,
            );
            let events = stream.take(EVENTS_PER_ROUND);
            let sample = self.apply.measure(&events, DEFAULT_BATCH).await?;
            keep(
                round,
                &format!("round {round}: apply alone"),
                sample,
                &mut beside,
            );
        }
        Ok(Drained {
            batch_size: DEFAULT_BATCH,
            drained,
            beside,
        })
    }

    /// Transfers from a backlog in Kafka to the last COMMIT, against the floor.
    async fn transfers(&mut self) -> Result<Drained> {
        let mut transfers = Transfers::new("transfer", SEED);
        let mut rows = Stream::new(Skew::UniformFew, "rows".into(), SEED);
        let (mut drained, mut beside) = (Vec::new(), Vec::new());
        for round in 0..=self.rounds.min(KAFKA_ROUNDS) {
            let topic = format!("bench.transfers.{round}");
            let backlog = transfers.take(TRANSFERS);
            let record = transfer::record;
            let sample =
                whole_way::measure(self.stack, &self.kafka, &topic, &backlog, record, 2).await?;
            keep(
                round,
                &format!("round {round}: transfers"),
                sample,
                &mut drained,
            );
            let events = rows.take(EVENTS_PER_ROUND);
            let sample = self.floor.measure(&events, DEFAULT_BATCH).await?;
            keep(round, &format!("round {round}: floor"), sample, &mut beside);
        }
        Ok(Drained {
            batch_size: DEFAULT_BATCH,
            drained,
            beside,
        })
    }
}

/// `0..count` and, every other round, backwards.
fn turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| {
        if round.is_multiple_of(2) {
            place
        } else {
            count - 1 - place
        }
    })
}

/// The first round is one to warm up.
fn keep(round: usize, what: &str, sample: Sample, samples: &mut Vec<Sample>) {
    eprintln!("{what} {:.0}/s", sample.rate());
    if round > 0 {
        samples.push(sample);
    }
}
