//! How all instances together did in the last ten minutes, from what the database knows of each partition: for the page.
//! Nothing is decided by it.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::observe::snapshot::now_ms;
use crate::partition::Partition;
use crate::postgres::pool::{AskError, Pool};

/// Ten minutes of samples, one in about ten seconds.
const SAMPLES: usize = 60;

const STANDING: &str =
    "SELECT topic, partition, commit_offset, lag, records_per_second FROM ledger.partition_status";

/// What the database knows of a partition.
pub(super) struct Standing {
    partition: Partition,
    commit_offset: i64,
    lag: Option<i64>,
    records_per_second: Option<f64>,
}

pub(super) async fn standing(pool: &Pool) -> Result<Vec<Standing>, AskError> {
    let client = pool.get().await.map_err(AskError::of_pool)?;
    let rows = client.answer(client.query(STANDING, &[])).await?;
    let standing = rows.iter().map(|row| Standing {
        partition: Partition {
            topic: row.get(0),
            number: row.get(1),
        },
        commit_offset: row.get(2),
        lag: row.get(3),
        records_per_second: row.get(4),
    });
    Ok(standing.collect())
}

struct Sample {
    at_ms: i64,
    lag: i64,
    records_per_second: f64,
    parked: Option<i64>,
}

/// Where partitions ended at which time: the oldest waiting record was there since the first end beyond it.
#[derive(Default)]
struct Ends(VecDeque<(Instant, i64)>);

impl Ends {
    fn see(&mut self, now: Instant, commit_offset: i64, end: i64) {
        if self.0.back().is_none_or(|(_, last)| *last < end) {
            self.0.push_back((now, end));
        }
        while self.0.front().is_some_and(|(_, end)| *end <= commit_offset) {
            self.0.pop_front();
        }
        // The oldest is what tells the age; those between only where it will be next.
        if self.0.len() > SAMPLES {
            self.0.remove(1);
        }
    }

    fn waiting(&self, now: Instant) -> Option<Duration> {
        self.0.front().map(|(since, _)| now - *since)
    }
}

#[derive(Default)]
struct Inner {
    samples: VecDeque<Sample>,
    ends: HashMap<Partition, Ends>,
}

#[derive(Default)]
pub struct Trend(Mutex<Inner>);

impl Trend {
    pub(super) fn sample(&self, standing: &[Standing], parked: Option<i64>) {
        self.sample_at(now_ms(), Instant::now(), standing, parked);
    }

    fn sample_at(&self, at_ms: i64, now: Instant, standing: &[Standing], parked: Option<i64>) {
        let mut inner = self.0.lock().expect("no panic while held");
        let known: std::collections::HashSet<_> =
            standing.iter().map(|one| &one.partition).collect();
        inner.ends.retain(|partition, _| known.contains(partition));
        for one in standing {
            let ends = inner.ends.entry(one.partition.clone()).or_default();
            // Without a report nobody knows the end, and what was known stays.
            if let Some(lag) = one.lag {
                ends.see(now, one.commit_offset, one.commit_offset + lag);
            }
        }
        inner.samples.push_back(Sample {
            at_ms,
            lag: standing.iter().filter_map(|one| one.lag).sum(),
            records_per_second: standing
                .iter()
                .filter_map(|one| one.records_per_second)
                .sum(),
            parked,
        });
        if inner.samples.len() > SAMPLES {
            inner.samples.pop_front();
        }
    }

    /// For how long the oldest waiting record of a partition has been there, at least; `None` where nothing waits.
    pub fn waiting(&self, partition: &Partition) -> Option<Duration> {
        let inner = self.0.lock().expect("no panic while held");
        inner.ends.get(partition)?.waiting(Instant::now())
    }

    /// Column by column, the oldest sample first.
    pub fn tell(&self) -> Value {
        let inner = self.0.lock().expect("no panic while held");
        let column =
            |of: &dyn Fn(&Sample) -> Value| inner.samples.iter().map(of).collect::<Value>();
        json!({
            "at_ms": column(&|sample| json!(sample.at_ms)),
            "lag": column(&|sample| json!(sample.lag)),
            "records_per_second": column(&|sample| json!(sample.records_per_second)),
            "parked": column(&|sample| json!(sample.parked)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(number: i32, commit_offset: i64, lag: Option<i64>) -> Standing {
        Standing {
            partition: Partition {
                topic: "balance.changed".to_owned(),
                number,
            },
            commit_offset,
            lag,
            records_per_second: Some(2.5),
        }
    }

    #[test]
    fn the_oldest_waiting_record_is_as_old_as_the_first_end_beyond_it() {
        let (trend, start) = (Trend::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let partition = standing(0, 0, None).partition;
        let waiting = |now| {
            let inner = trend.0.lock().expect("whole");
            inner.ends[&partition].waiting(now)
        };
        trend.sample_at(0, at(0), &[standing(0, 10, Some(0))], None);
        assert_eq!(waiting(at(5)), None, "nothing waits");
        trend.sample_at(0, at(10), &[standing(0, 10, Some(5))], None);
        trend.sample_at(0, at(20), &[standing(0, 10, Some(9))], None);
        assert_eq!(waiting(at(25)), Some(Duration::from_secs(15)));
        // Without a report what was known stays.
        trend.sample_at(0, at(30), &[standing(0, 10, None)], None);
        assert_eq!(waiting(at(30)), Some(Duration::from_secs(20)));
        trend.sample_at(0, at(40), &[standing(0, 15, Some(4))], None);
        assert_eq!(
            waiting(at(40)),
            Some(Duration::from_secs(20)),
            "the record at 15"
        );
        trend.sample_at(0, at(50), &[standing(0, 19, Some(0))], None);
        assert_eq!(waiting(at(50)), None);
    }

    #[test]
    fn samples_are_sums_over_all_partitions_and_the_oldest_are_forgotten() {
        let trend = Trend::default();
        for at_ms in 0..100 {
            let all = [standing(0, 10, Some(5)), standing(1, 7, None)];
            trend.sample_at(at_ms, Instant::now(), &all, Some(3));
        }
        let told = trend.tell();
        assert_eq!(told["at_ms"][0], 40);
        assert_eq!(told["lag"], json!(vec![5; SAMPLES]));
        assert_eq!(told["records_per_second"], json!(vec![5.0; SAMPLES]));
        assert_eq!(told["parked"][59], 3);
    }
}
