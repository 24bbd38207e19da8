//! The tables that the balances' part ends with.

use comfy_table::Table;

use crate::report::{grouped, ratio, right_aligned, table};
use crate::sample::Spread;
use crate::stack::Machine;

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
        format!(
            "Measured on {}; minimum / median / maximum of {} rounds after one to warm up (whole way: {}).\n\n{}\n\n\
             Ratios of events per second, each of one and the same round\n\n{}\n\n\
             Events per second behind them\n\n{}\n\n\
             The whole way, from a backlog in Kafka to COMMIT, against the apply alone\n\n{}",
            self.machine.date,
            self.rounds,
            super::WHOLE_WAY_ROUNDS,
            self.machine.list(),
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
}
