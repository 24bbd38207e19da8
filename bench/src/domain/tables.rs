//! The tables that the domain's part ends with.

use comfy_table::Table;

use crate::measure::report::{grouped, ratio, right_aligned, table};
use crate::measure::sample::{Sample, Spread};
use crate::stack::Machine;

use super::plain_consumer::Steps;

/// The type that is poisoned: its handler checks an amount.
pub const POISONED: &str = "payment.completed";

/// Sluice against the plain consumer.
pub struct Rates {
    sluice: Spread,
    plain: Spread,
    pub ratio: Spread,
}

impl Rates {
    pub fn of(sluice: &[Sample], plain: &[Sample]) -> Self {
        Self {
            sluice: Spread::of_rates(sluice),
            plain: Spread::of_rates(plain),
            ratio: Spread::of_ratios(sluice, plain),
        }
    }

    fn columns(&self) -> [String; 3] {
        [
            self.sluice.show(grouped),
            self.plain.show(grouped),
            self.ratio.show(ratio),
        ]
    }
}

pub struct ByType {
    pub name: &'static str,
    pub rates: Rates,
}

/// Records per second with poison among them, and without.
pub struct PoisonCost {
    pub clean: Spread,
    pub breaks: Spread,
    pub malformed: Spread,
    pub breaks_to_clean: Spread,
    pub malformed_to_clean: Spread,
}

/// Events per second with a Redis, without one, and with one that hangs.
pub struct RedisCost {
    pub with: Spread,
    pub without: Spread,
    pub hangs: Spread,
    pub with_to_without: Spread,
    pub hangs_to_without: Spread,
    /// The share of events that were marked.
    pub marked: Spread,
}

pub struct Report {
    pub machine: Machine,
    pub rounds: usize,
    pub by_type: Vec<ByType>,
    /// Of the plain consumer, type by type.
    pub steps: Steps,
    pub mixed: Rates,
    pub poison: PoisonCost,
    pub redis: RedisCost,
}

impl Report {
    pub fn text(&self) -> String {
        format!(
            "Measured on {}; minimum / median / maximum of {} rounds after one to warm up.\n\n{}\n\n\
             Kafka to COMMIT against the plain consumer, by event type\n\n{}\n\n{}\n\n\
             Every tenth record is a poison record, `{}`\n\n{}\n\n\
             Cost of Redis, all types at once\n\n{}",
            self.machine.date,
            self.rounds,
            self.machine.list(),
            self.types(),
            self.steps(),
            POISONED,
            self.poison(),
            self.redis(),
        )
    }

    fn types(&self) -> Table {
        let mut table = table(&[
            "event type",
            "Sluice (events/s)",
            "the plain consumer (events/s)",
            "Sluice ÷ the plain consumer",
        ]);
        let mixed = ("all types at once", &self.mixed);
        let types = self.by_type.iter().map(|row| (row.name, &row.rates));
        for (name, rates) in types.chain([mixed]) {
            let [sluice, plain, ratio] = rates.columns();
            table.add_row([name.to_owned(), sluice, plain, ratio]);
        }
        right_aligned(table)
    }

    fn steps(&self) -> String {
        let steps = &self.steps;
        let parts = [
            ("looking up in Redis", steps.look_ups),
            ("writing to PostgreSQL", steps.writes),
            ("marking in Redis", steps.marks),
            ("committing to Kafka", steps.commits),
            ("reading", steps.reading),
        ];
        let total: f64 = parts.iter().map(|(_, time)| time.as_secs_f64()).sum();
        let shares = parts.map(|(what, time)| {
            let percent = 100.0 * time.as_secs_f64() / total;
            format!("{percent:.0} % {what}")
        });
        format!("The plain consumer spent {}.", shares.join(", "))
    }

    fn poison(&self) -> Table {
        let poison = &self.poison;
        let mut table = table(&["records", "records/s", "÷ clean"]);
        let row = |what: &str, rate: Spread, to_clean: Option<Spread>| {
            let to_clean = to_clean.map_or_else(String::new, |spread| spread.show(ratio));
            [what.to_owned(), rate.show(grouped), to_clean]
        };
        table.add_row(row("clean", poison.clean, None));
        table.add_row(row(
            "10 % make the handler fail",
            poison.breaks,
            Some(poison.breaks_to_clean),
        ));
        table.add_row(row(
            "10 % are not JSON",
            poison.malformed,
            Some(poison.malformed_to_clean),
        ));
        right_aligned(table)
    }

    fn redis(&self) -> Table {
        let redis = &self.redis;
        let mut table = table(&["Redis", "events/s", "÷ without", "events marked"]);
        let row = |what: &str, rate: Spread, to_without: Option<Spread>, marked: Option<Spread>| {
            let to_without = to_without.map_or_else(String::new, |spread| spread.show(ratio));
            let marked = marked.map_or_else(String::new, |spread| spread.show(ratio));
            [what.to_owned(), rate.show(grouped), to_without, marked]
        };
        table.add_row(row("none", redis.without, None, None));
        table.add_row(row(
            "there",
            redis.with,
            Some(redis.with_to_without),
            Some(redis.marked),
        ));
        table.add_row(row(
            "hangs",
            redis.hangs,
            Some(redis.hangs_to_without),
            None,
        ));
        right_aligned(table)
    }
}
