//! Domain events: the whole way from Kafka into the tables of `domain`, for each type and
//! for all at once, against a plain consumer; and what poison records and Redis cost.

mod backlog;
pub mod event;
mod plain_consumer;
mod redis_server;
mod sluice;
mod tables;

use std::ops::Range;

use crate::kafka::Kafka;
use crate::measure::sample::{Sample, Spread};
use crate::stack::{Result, Stack};
use crate::{Form, Measured};

use self::backlog::Backlog;
use self::event::{Poison, Stream, TYPES};
use self::plain_consumer::{PlainConsumer, Steps};
use self::sluice::{Drained, Marks, drain};
use self::tables::{ByType, PoisonCost, Rates, RedisCost, Report};

pub const DEFAULT_ROUNDS: usize = 3;
/// Events of one type that wait for Sluice. The plain consumer is slower and gets the first of them.
const EVENTS: usize = 30_000;
const EVENTS_PLAIN: usize = 1_500;
/// Of all types at once: of each type, and of all together for the plain consumer.
const MIXED_EVENTS_EACH: usize = 4_000;
const MIXED_EVENTS_PLAIN: usize = 3_000;

/// Types that the short form measures alone.
const SHORT_TYPES: [&str; 3] = ["user.updated", "payment.tip.created", "message.created"];

/// Measures all, or in the short form only some of the types alone, and answers with the tables.
pub async fn run(stack: &Stack, form: Form, rounds: usize) -> Result<Measured> {
    let machine = stack.machine().await?;
    let mut bench = Bench::new(stack, rounds).await?;
    let (mut by_type, mut steps) = (Vec::new(), Steps::default());
    for (place, event_type) in TYPES.iter().enumerate() {
        if form == Form::Full || SHORT_TYPES.contains(&event_type.name) {
            by_type.push(bench.by_type(place, &mut steps).await?);
        }
    }
    let (mixed, redis) = bench.mixed().await?;
    let report = Report {
        machine,
        rounds,
        by_type,
        steps,
        mixed,
        poison: bench.poison().await?,
        redis,
    };
    Ok(Measured::of(
        report.text(),
        vec![("domain", report.mixed.ratio)],
    ))
}

struct Bench<'a> {
    stack: &'a Stack,
    rounds: usize,
    kafka: Kafka,
    plain: PlainConsumer,
    streams: Vec<Stream>,
}

impl<'a> Bench<'a> {
    async fn new(stack: &'a Stack, rounds: usize) -> Result<Self> {
        let kafka = Kafka::connect(stack)?;
        let topics = TYPES.iter().map(|event_type| event_type.name);
        let admin = stack.admin().await?;
        let handlers = "SELECT event_type FROM ledger.event_handlers WHERE event_type <> ALL ($1)";
        let names: Vec<&str> = topics.clone().collect();
        if let Some(row) = admin.query_opt(handlers, &[&names]).await? {
            let name: String = row.get(0);
            return Err(format!("{name} has a handler and is not measured").into());
        }
        kafka
            .create_topics(topics.chain(["db-writer.dlq"]), 1)
            .await?;
        Ok(Self {
            stack,
            rounds,
            plain: PlainConsumer::connect(stack).await?,
            streams: Stream::all(stack)?,
            kafka,
        })
    }

    /// One type, against the plain consumer on the same records.
    async fn by_type(&mut self, place: usize, steps: &mut Steps) -> Result<ByType> {
        let name = TYPES[place].name;
        let (mut sluice, mut plain) = (Vec::new(), Vec::new());
        for round in 0..=self.rounds {
            // To warm up, a part of them will do; more than one batch, or there is nothing to measure.
            let part = if round == 0 { 2 } else { 1 };
            let backlog = self.fill(place..place + 1, EVENTS / part, None)?;
            let (ours, (theirs, went_to)) =
                self.turns(round, &backlog, EVENTS_PLAIN / part).await?;
            say(round, name, &ours.sample);
            say(round, "the plain consumer", &theirs);
            if round > 0 {
                sluice.push(ours.sample);
                plain.push(theirs);
                *steps += went_to;
            }
        }
        Ok(ByType {
            name,
            rates: Rates::of(&sluice, &plain),
        })
    }

    /// All types at once, against the plain consumer on the same records, and against Sluice
    /// without Redis and with one that hangs.
    async fn mixed(&mut self) -> Result<(Rates, RedisCost)> {
        let (mut with, mut without, mut hangs) = (Vec::new(), Vec::new(), Vec::new());
        let (mut plain, mut marked) = (Vec::new(), Vec::new());
        for round in 0..=self.rounds {
            for marks in rotated([Marks::Set, Marks::NoRedis, Marks::RedisHangs], round) {
                let backlog = self.fill(0..TYPES.len(), MIXED_EVENTS_EACH, None)?;
                let (drained, side) = match marks {
                    Marks::Set => {
                        let (drained, (theirs, _)) =
                            self.turns(round, &backlog, MIXED_EVENTS_PLAIN).await?;
                        say(round, "mixed, the plain consumer", &theirs);
                        if round > 0 {
                            plain.push(theirs);
                            marked.push(drained.marked);
                        }
                        (drained, &mut with)
                    }
                    Marks::NoRedis => (drain(self.stack, &backlog, marks).await?, &mut without),
                    Marks::RedisHangs => (drain(self.stack, &backlog, marks).await?, &mut hangs),
                };
                say(round, &format!("mixed, {marks:?}"), &drained.sample);
                if round > 0 {
                    side.push(drained.sample);
                }
            }
        }
        let redis = RedisCost {
            with_to_without: Spread::of_ratios(&with, &without),
            hangs_to_without: Spread::of_ratios(&hangs, &without),
            marked: Spread::of(marked.into_iter()),
            with: Spread::of_rates(&with),
            without: Spread::of_rates(&without),
            hangs: Spread::of_rates(&hangs),
        };
        Ok((Rates::of(&with, &plain), redis))
    }

    /// One type with poison among its records, against the same without.
    async fn poison(&mut self) -> Result<PoisonCost> {
        let place = TYPES
            .iter()
            .position(|found| found.name == tables::POISONED);
        let place = place.ok_or("the poisoned type is none")?;
        let (mut clean, mut breaks, mut malformed) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=self.rounds {
            let sides = [None, Some(Poison::BreaksHandler), Some(Poison::Malformed)];
            for poison in rotated(sides, round) {
                let backlog = self.fill(place..place + 1, EVENTS, poison)?;
                let drained = drain(self.stack, &backlog, Marks::Set).await?;
                say(round, &format!("poison: {poison:?}"), &drained.sample);
                if round > 0 {
                    match poison {
                        None => clean.push(drained.sample),
                        Some(Poison::BreaksHandler) => breaks.push(drained.sample),
                        Some(Poison::Malformed) => malformed.push(drained.sample),
                    }
                }
            }
        }
        Ok(PoisonCost {
            breaks_to_clean: Spread::of_ratios(&breaks, &clean),
            malformed_to_clean: Spread::of_ratios(&malformed, &clean),
            clean: Spread::of_rates(&clean),
            breaks: Spread::of_rates(&breaks),
            malformed: Spread::of_rates(&malformed),
        })
    }

    fn fill(
        &mut self,
        places: Range<usize>,
        events_each: usize,
        poison: Option<Poison>,
    ) -> Result<Backlog> {
        let (kafka, streams) = (&self.kafka, &mut self.streams[places]);
        tokio::task::block_in_place(|| Backlog::fill(kafka, streams, events_each, poison))
    }

    /// Both on the same records. Whoever comes first meets a quieter disk, so they take turns at that.
    async fn turns(
        &self,
        round: usize,
        backlog: &Backlog,
        events_plain: usize,
    ) -> Result<(Drained, (Sample, Steps))> {
        let (drained, theirs);
        if round.is_multiple_of(2) {
            drained = drain(self.stack, backlog, Marks::Set).await?;
            theirs = self.plain.measure(backlog, events_plain).await?;
        } else {
            theirs = self.plain.measure(backlog, events_plain).await?;
            drained = drain(self.stack, backlog, Marks::Set).await?;
        }
        Ok((drained, theirs))
    }
}

/// The sides of a round, another one first in each.
fn rotated<T, const N: usize>(mut sides: [T; N], round: usize) -> [T; N] {
    sides.rotate_left(round % N);
    sides
}

fn say(round: usize, what: &str, sample: &Sample) {
    eprintln!("round {round}: {what}: {:.0}/s", sample.rate());
}
