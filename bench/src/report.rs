//! The table that a run ends with, on stdout and in `bench/README.md`.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::stack::{Machine, Result};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str = "<!-- figures: written by `make bench` -->\n";
const END: &str = "<!-- end of figures -->";

/// Minimum, median and maximum over the rounds.
#[derive(Clone, Copy)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            (values[middle - 1] + values[middle]) / 2.0
        } else {
            values[middle]
        };
        Self {
            min: values[0],
            median,
            max: values[values.len() - 1],
        }
    }

    fn show(self, value: impl Fn(f64) -> String) -> String {
        format!(
            "{} / {} / {}",
            value(self.min),
            value(self.median),
            value(self.max)
        )
    }
}

/// One workload at one batch size.
pub struct Cell {
    pub workload: &'static str,
    pub batch_size: usize,
    /// Events per batch that plain SQL could take without being wrong.
    pub plain_batch: f64,
    pub apply: Spread,
    pub floor: Spread,
    pub plain: Spread,
    pub apply_to_floor: Spread,
    pub apply_to_plain: Spread,
}

/// The whole way against the apply alone.
pub struct WholeWay {
    pub batch_size: usize,
    pub whole: Spread,
    pub apply: Spread,
    pub ratio: Spread,
}

pub struct Report {
    pub machine: Machine,
    pub rounds: usize,
    pub cells: Vec<Cell>,
    pub whole_way: WholeWay,
}

impl Report {
    pub fn text(&self) -> String {
        let machine: Vec<String> = self
            .machine
            .lines
            .iter()
            .map(|line| format!("- {line}"))
            .collect();
        format!(
            "Measured on {}; minimum / median / maximum of {} rounds after one to warm up (whole way: {}).\n\n{}\n\n\
             Ratios of events per second, each of one and the same round\n\n{}\n\n\
             Events per second behind them\n\n{}\n\n\
             The whole way, from a backlog in Kafka to COMMIT, against the apply alone\n\n{}",
            self.machine.date,
            self.rounds,
            crate::WHOLE_WAY_ROUNDS,
            machine.join("\n"),
            self.ratios(),
            self.rates(),
            self.whole_way()
        )
    }

    fn ratios(&self) -> Table {
        let mut table = table(&[
            "workload",
            "batch (events)",
            "apply ÷ floor",
            "apply ÷ plain SQL",
        ]);
        for cell in &self.cells {
            table.add_row([
                cell.workload.to_owned(),
                grouped(cell.batch_size as f64),
                cell.apply_to_floor.show(ratio),
                cell.apply_to_plain.show(ratio),
            ]);
        }
        right_aligned(table)
    }

    fn rates(&self) -> Table {
        let mut table = table(&[
            "workload",
            "batch (events)",
            "apply (events/s)",
            "floor: bare COPY (rows/s)",
            "plain SQL (events/s)",
            "plain SQL's batch (events)",
        ]);
        for cell in &self.cells {
            table.add_row([
                cell.workload.to_owned(),
                grouped(cell.batch_size as f64),
                cell.apply.show(grouped),
                cell.floor.show(grouped),
                cell.plain.show(grouped),
                grouped(cell.plain_batch),
            ]);
        }
        right_aligned(table)
    }

    fn whole_way(&self) -> Table {
        let WholeWay {
            batch_size,
            whole,
            apply,
            ratio: whole_to_apply,
        } = &self.whole_way;
        let alone = format!(
            "apply alone, 1 connection, batch {} (events/s)",
            grouped(*batch_size as f64)
        );
        let mut table = table(&[
            "whole way, 8 partitions (events/s)",
            &alone,
            "whole way ÷ apply",
        ]);
        table.add_row([
            whole.show(grouped),
            apply.show(grouped),
            whole_to_apply.show(ratio),
        ]);
        right_aligned(table)
    }

    /// Puts the text between the markers of `bench/README.md`.
    pub fn write(&self) -> Result<()> {
        let readme = std::fs::read_to_string(README)?;
        let (before, rest) = readme
            .split_once(BEGIN)
            .ok_or_else(|| format!("{README} has lost its marker {BEGIN}"))?;
        let (_, after) = rest
            .split_once(END)
            .ok_or_else(|| format!("{README} has lost its marker {END}"))?;
        std::fs::write(
            README,
            format!("{before}{BEGIN}\n{}\n\n{END}{after}", self.text()),
        )?;
        Ok(())
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(header);
    table
}

fn right_aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A ratio with three digits that mean something.
fn ratio(value: f64) -> String {
    match value {
        ..1.0 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A whole number with commas.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
