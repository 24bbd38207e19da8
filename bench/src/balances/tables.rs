//! What the balances' part ends with: its tables, figures and curves.

use comfy_table::Table;

use crate::Measured;
use crate::measure::report::{grouped, ratio, right_aligned, table};
use crate::measure::sample::{Sample, Spread};
use crate::stack::Machine;

use super::workload::Skew;

/// Most events in a batch.
pub const BATCH_SIZES: [usize; 4] = [200, 2_000, 10_000, 50_000];

/// One workload at one batch size, round by round.
pub struct Cell {
    pub skew: Skew,
    pub batch_size: usize,
    pub apply: Vec<Sample>,
    pub floor: Vec<Sample>,
    /// None where its batches would be of one event each.
    pub plain: Vec<Sample>,
}

impl Cell {
    pub fn new(skew: Skew, batch_size: usize) -> Self {
        Self {
            skew,
            batch_size,
            apply: Vec::new(),
            floor: Vec::new(),
            plain: Vec::new(),
        }
    }

    fn median_rate(&self) -> f64 {
        Spread::of_rates(&self.apply).median
    }

    fn to_floor(&self) -> Spread {
        Spread::of_ratios(&self.apply, &self.floor)
    }

    fn to_plain(&self) -> Spread {
        Spread::of_ratios(&self.apply, &self.plain)
    }
}

/// The one at whose batch size the apply's own median is highest.
pub fn best(cells: &[Cell], skew: Skew) -> &Cell {
    let cells = cells.iter().filter(|cell| cell.skew == skew);
    cells
        .max_by(|one, other| one.median_rate().total_cmp(&other.median_rate()))
        .expect("every workload has cells")
}

/// What is unlike ordinary events, against these, all at one batch size.
pub struct Unlike {
    pub batch_size: usize,
    pub ordinary: Vec<Sample>,
    pub hot: Vec<Sample>,
    pub rejects: Vec<Sample>,
    pub duplicates: Vec<Sample>,
}

/// A backlog in Kafka, drained, against what was measured beside it at one batch size.
pub struct Drained {
    pub batch_size: usize,
    pub drained: Vec<Sample>,
    pub beside: Vec<Sample>,
}

impl Drained {
    fn ratio(&self) -> Spread {
        Spread::of_ratios(&self.drained, &self.beside)
    }

    fn table(&self, drained: &str, beside: &str, ratio_of: &str) -> Table {
        let beside = format!("{beside}, batch {}", grouped(self.batch_size as f64));
        let mut table = table(&[drained, &beside, ratio_of]);
        table.add_row([
            Spread::of_rates(&self.drained).show(grouped),
            Spread::of_rates(&self.beside).show(grouped),
            self.ratio().show(ratio),
        ]);
        right_aligned(table)
    }
}

pub struct Report {
    pub machine: Machine,
    pub cells: Vec<Cell>,
    pub unlike: Unlike,
    pub whole_way: Drained,
    pub transfers: Drained,
}

impl Report {
    pub fn measured(&self) -> Measured {
        let (uniform, zipf) = (
            best(&self.cells, Skew::Uniform),
            best(&self.cells, Skew::Zipf),
        );
        let small = self
            .cells
            .iter()
            .find(|cell| cell.skew == Skew::Zipf && cell.batch_size == BATCH_SIZES[0]);
        let small = small.expect("zipf is measured at every batch size");
        let unlike = &self.unlike;
        let to_ordinary = |samples| Spread::of_ratios(samples, &unlike.ordinary);
        Measured {
            text: self.text(),
            figures: vec![
                ("zipf", zipf.to_floor()),
                ("uniform", uniform.to_floor()),
                ("zipf-plain", zipf.to_plain()),
                ("uniform-plain", uniform.to_plain()),
                ("hot", to_ordinary(&unlike.hot)),
                ("rejects", to_ordinary(&unlike.rejects)),
                ("duplicates", to_ordinary(&unlike.duplicates)),
                ("batch-200", Spread::of_ratios(&small.apply, &zipf.apply)),
                ("whole-way", self.whole_way.ratio()),
                ("transfers", self.transfers.ratio()),
            ],
            curves: vec![
                (
                    "batch-curve-uniform",
                    self.curve(Skew::Uniform, |cell| &cell.apply),
                ),
                (
                    "batch-curve-zipf",
                    self.curve(Skew::Zipf, |cell| &cell.apply),
                ),
                ("batch-curve-hot", self.curve(Skew::Hot, |cell| &cell.apply)),
                (
                    "batch-curve-floor",
                    self.curve(Skew::Zipf, |cell| &cell.floor),
                ),
            ],
        }
    }

    /// Median rates by batch size.
    fn curve(&self, skew: Skew, samples: impl Fn(&Cell) -> &[Sample]) -> Vec<[f64; 2]> {
        let cells = self.cells.iter().filter(|cell| cell.skew == skew);
        let point = |cell: &Cell| {
            let rate = Spread::of_rates(samples(cell)).median;
            [cell.batch_size as f64, rate]
        };
        cells.map(point).collect()
    }

    fn text(&self) -> String {
        format!(
            "Measured on {}; minimum / median / maximum of {} rounds after one to warm up (from Kafka: {}).\n\n{}\n\n\
             Ratios of events per second, each within one round\n\n{}\n\n\
             The events per second of these ratios\n\n{}\n\n\
             Special events, in batches of {}\n\n{}\n\n\
             From a backlog in Kafka to COMMIT, against the apply by itself\n\n{}\n\n\
             Transfers between any two of 10,000 accounts, from a backlog in Kafka to COMMIT, against the floor\n\n{}",
            self.machine.date,
            self.unlike.ordinary.len(),
            self.whole_way.drained.len(),
            self.machine.list(),
            self.ratios(),
            self.rates(),
            grouped(self.unlike.batch_size as f64),
            self.unlike(),
            self.whole_way.table(
                "Kafka to COMMIT, 8 partitions (events/s)",
                "apply by itself (events/s), 1 connection",
                "Kafka to COMMIT ÷ apply"
            ),
            self.transfers.table(
                "transfers, 8 partitions (events/s)",
                "floor (rows/s)",
                "transfers ÷ floor"
            ),
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
                cell.skew.name().to_owned(),
                grouped(cell.batch_size as f64),
                cell.to_floor().show(ratio),
                where_measured(&cell.plain, |_| cell.to_plain().show(ratio)),
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
            let plain_batch = |plain: &[Sample]| {
                let sizes = plain.iter().map(Sample::events_per_batch);
                grouped(Spread::of(sizes).median)
            };
            table.add_row([
                cell.skew.name().to_owned(),
                grouped(cell.batch_size as f64),
                Spread::of_rates(&cell.apply).show(grouped),
                Spread::of_rates(&cell.floor).show(grouped),
                where_measured(&cell.plain, |plain| Spread::of_rates(plain).show(grouped)),
                where_measured(&cell.plain, plain_batch),
            ]);
        }
        right_aligned(table)
    }

    fn unlike(&self) -> Table {
        let Unlike {
            ordinary,
            hot,
            rejects,
            duplicates,
            ..
        } = &self.unlike;
        let mut table = table(&["events", "apply (events/s)", "÷ ordinary"]);
        table.add_row([
            "ordinary: uniform, 10,000 accounts",
            &Spread::of_rates(ordinary).show(grouped),
        ]);
        for (what, samples) in [
            ("one hot account", hot),
            ("10 % are rejected", rejects),
            ("10 % are duplicates", duplicates),
        ] {
            table.add_row([
                what,
                &Spread::of_rates(samples).show(grouped),
                &Spread::of_ratios(samples, ordinary).show(ratio),
            ]);
        }
        right_aligned(table)
    }
}

fn where_measured(samples: &[Sample], text: impl FnOnce(&[Sample]) -> String) -> String {
    if samples.is_empty() {
        String::new()
    } else {
        text(samples)
    }
}
