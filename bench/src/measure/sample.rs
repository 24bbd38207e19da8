//! What a contender did in one round, and what several rounds come to.

use std::time::Instant;

use crate::stack::Result;

/// What a contender did in one round.
#[derive(Default)]
pub struct Sample {
    pub events: usize,
    pub batches: usize,
    pub seconds: f64,
}

impl Sample {
    /// Events per second.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    pub fn events_per_batch(&self) -> f64 {
        self.events as f64 / self.batches as f64
    }
}

/// The clock of a backlog: from the first progress that is seen to the end.
pub struct Clock {
    from: i64,
    to: i64,
    first: Option<(Instant, i64)>,
}

impl Clock {
    pub fn new(from: i64, to: i64) -> Self {
        let first = None;
        Self { from, to, first }
    }

    /// Where the progress is by now; the sample where that is the end.
    pub fn see(&mut self, progress: i64) -> Result<Option<Sample>> {
        if progress <= self.from {
            return Ok(None);
        }
        let (since, before) = *self.first.get_or_insert_with(|| (Instant::now(), progress));
        if progress < self.to {
            return Ok(None);
        }
        if before >= self.to {
            return Err("all events came in one COMMIT: too few to be measured".into());
        }
        Ok(Some(Sample {
            events: (self.to - before) as usize,
            batches: 1,
            seconds: since.elapsed().as_secs_f64(),
        }))
    }
}

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

    /// Of what was measured once.
    pub fn once(value: f64) -> Self {
        Self::of(std::iter::once(value))
    }

    /// Events per second of each round.
    pub fn of_rates(samples: &[Sample]) -> Self {
        Self::of(samples.iter().map(Sample::rate))
    }

    /// Of rates of one and the same round.
    pub fn of_ratios(above: &[Sample], below: &[Sample]) -> Self {
        let pairs = above.iter().zip(below);
        Self::of(pairs.map(|(above, below)| above.rate() / below.rate()))
    }

    pub fn show(self, value: impl Fn(f64) -> String) -> String {
        format!(
            "{} / {} / {}",
            value(self.min),
            value(self.median),
            value(self.max)
        )
    }
}
