//! What Sluice is to reach, and what it was last measured at.
//!
//! Parts are measured one at a time, so the figures are kept in `bench/figures.json`, each with
//! its date, and the table is made of them.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde_json::{Value, json};

use crate::Measured;
use crate::measure::report::{grouped, ratio, right_aligned, table};
use crate::measure::sample::Spread;
use crate::stack::Result;

const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/figures.json");

/// How a figure is written, and whether more of it is better.
#[derive(Clone, Copy)]
enum Unit {
    Ratio,
    Milliseconds,
    Megabytes,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{} ×", ratio(value)),
            Self::Milliseconds if value < 10.0 => format!("{value:.2} ms"),
            Self::Milliseconds => format!("{} ms", grouped(value)),
            Self::Megabytes => format!("{} MB", grouped(value)),
        }
    }

    fn reached(self, measured: f64, wanted: f64) -> bool {
        match self {
            Self::Ratio => measured >= wanted,
            Self::Milliseconds | Self::Megabytes => measured <= wanted,
        }
    }
}

struct Target {
    /// By which a part reports its figure.
    id: &'static str,
    what: &'static str,
    unit: Unit,
    at_least: f64,
    aim: f64,
}

const fn target(
    id: &'static str,
    what: &'static str,
    unit: Unit,
    at_least: f64,
    aim: f64,
) -> Target {
    Target {
        id,
        what,
        unit,
        at_least,
        aim,
    }
}

const TARGETS: [Target; 22] = {
    use Unit::{Megabytes, Milliseconds, Ratio};
    [
        target(
            "zipf",
            "apply ÷ floor, zipf 1.1 over 10,000 accounts, best batch",
            Ratio,
            0.25,
            0.4,
        ),
        target(
            "uniform",
            "apply ÷ floor, uniform over 1,000,000 accounts, best batch",
            Ratio,
            0.12,
            0.25,
        ),
        target(
            "zipf-plain",
            "apply ÷ plain SQL, zipf 1.1, best batch",
            Ratio,
            3.0,
            6.0,
        ),
        target(
            "uniform-plain",
            "apply ÷ plain SQL, uniform, best batch",
            Ratio,
            2.0,
            4.0,
        ),
        target(
            "hot",
            "one hot account ÷ uniform over 10,000",
            Ratio,
            1.0,
            1.5,
        ),
        target("rejects", "10 % rejects ÷ none", Ratio, 0.9, 1.0),
        target("duplicates", "10 % duplicates ÷ none", Ratio, 0.9, 1.0),
        target(
            "batch-200",
            "batch of 200 ÷ best batch, zipf 1.1",
            Ratio,
            0.4,
            0.6,
        ),
        target(
            "whole-way",
            "Kafka to COMMIT, 8 partitions with backlog ÷ apply by itself",
            Ratio,
            0.5,
            0.8,
        ),
        target(
            "p99-delay-30",
            "send to committed row, 2,000 events/s, delay 30 ms: p99",
            Milliseconds,
            50.0,
            40.0,
        ),
        target(
            "p99-delay-0",
            "send to committed row, 2,000 events/s, delay 0 ms: p99",
            Milliseconds,
            20.0,
            10.0,
        ),
        target(
            "p999",
            "the same over 10 minutes, autovacuum and checkpoints: p99.9",
            Milliseconds,
            250.0,
            100.0,
        ),
        target(
            "open-transaction",
            "a transaction open for 10 minutes, and pg_dump ÷ without",
            Ratio,
            0.7,
            0.9,
        ),
        target(
            "log-rows",
            "a full log ÷ 1,000,000 rows, uniform random ids",
            Ratio,
            0.6,
            0.9,
        ),
        target(
            "memory-1m",
            "ingester's peak memory, draining 1,000,000 events",
            Megabytes,
            256.0,
            128.0,
        ),
        target(
            "memory-4m",
            "ingester's peak memory, draining 4,000,000 events",
            Megabytes,
            256.0,
            128.0,
        ),
        target(
            "domain",
            "domain events, mixed types ÷ the plain consumer",
            Ratio,
            10.0,
            25.0,
        ),
        target(
            "debezium",
            "`user.updated` ÷ Debezium JDBC sink",
            Ratio,
            1.0,
            2.0,
        ),
        target(
            "transfers",
            "two-legged transfers/s, 8 partitions, 10,000 accounts ÷ floor's rows/s",
            Ratio,
            0.12,
            0.33,
        ),
        target(
            "history",
            "the last 100 changes of an account, 10,000,000 log rows",
            Milliseconds,
            10.0,
            2.0,
        ),
        target(
            "find-event",
            "what became of an event, 10,000,000 log rows",
            Milliseconds,
            5.0,
            1.0,
        ),
        target(
            "balance-as-of",
            "`balance_as_of`, 10,000,000 log rows",
            Milliseconds,
            10.0,
            2.0,
        ),
    ]
};

/// Figures by the id of their target.
pub type Figures = Vec<(&'static str, Spread)>;

/// Curves by their name, each as points.
pub type Curves = Vec<(&'static str, Vec<[f64; 2]>)>;

type Known = BTreeMap<String, Value>;

/// All that was ever measured and written.
fn known() -> Result<Known> {
    match std::fs::read_to_string(FIGURES) {
        Ok(text) => Ok(serde_json::from_str(&text)?),
        Err(_) => Ok(BTreeMap::new()),
    }
}

/// What is known of all targets, this part's figures included; kept, and its curves with them, when `write` says so.
pub fn update(date: &str, measured: &Measured, write: bool) -> Result<Table> {
    let mut known = known()?;
    for (id, spread) in &measured.figures {
        if !TARGETS.iter().any(|target| target.id == *id) {
            return Err(format!("no target is called {id}").into());
        }
        let figure =
            json!({ "min": spread.min, "median": spread.median, "max": spread.max, "date": date });
        known.insert((*id).to_owned(), figure);
    }
    for (name, points) in &measured.curves {
        known.insert((*name).to_owned(), json!(points));
    }
    if write {
        std::fs::write(FIGURES, serde_json::to_string_pretty(&known)? + "\n")?;
    }
    Ok(show(&known))
}

/// The points of a curve that was written, if it ever was.
pub fn curve(name: &str) -> Result<Option<Vec<(f64, f64)>>> {
    match known()?.remove(name) {
        Some(points) => Ok(Some(serde_json::from_value(points)?)),
        None => Ok(None),
    }
}

fn show(known: &Known) -> Table {
    let mut table = table(&["what", "at least", "aim", "measured", "reached", "on"]);
    for target in &TARGETS {
        let figure = known.get(target.id);
        let number = |name: &str| figure?.get(name)?.as_f64();
        let median = number("median");
        let measured = match (number("min"), median, number("max")) {
            (Some(min), Some(median), Some(max)) if min < max => [min, median, max]
                .map(|value| target.unit.show(value))
                .join(" / "),
            (_, Some(median), _) => target.unit.show(median),
            _ => String::new(),
        };
        let reached = match median {
            None => "not measured",
            Some(median) if target.unit.reached(median, target.aim) => "aim",
            Some(median) if target.unit.reached(median, target.at_least) => "at least",
            Some(_) => "no",
        };
        let date = figure.and_then(|figure| figure.get("date")?.as_str());
        table.add_row([
            target.what,
            &target.unit.show(target.at_least),
            &target.unit.show(target.aim),
            &measured,
            reached,
            date.unwrap_or_default(),
        ]);
    }
    right_aligned(table)
}
