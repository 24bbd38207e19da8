//! This instance's report in the database about the partitions that it leads, for
//! `ledger.partition_status`. No decision depends on it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use crate::leases::lease::Session;
use crate::observe::status::Status;
use crate::partition::Partition;

/// How often it is written.
pub const INTERVAL: Duration = Duration::from_secs(2);

const REPORT: &str =
    "SELECT sluice.report_partitions($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

/// Keeps the last report, to compute rates.
#[derive(Default)]
pub struct Report {
    last: HashMap<Partition, (Instant, i64)>,
}

impl Report {
    pub async fn send(
        &mut self,
        session: &Session,
        service_id: &str,
        status: &Status,
    ) -> Result<(), tokio_postgres::Error> {
        let now = Instant::now();
        let (mut topics, mut numbers) = (Vec::new(), Vec::new());
        let (mut states, mut reasons, mut lags) = (Vec::new(), Vec::new(), Vec::new());
        let (mut rates, mut rows) = (Vec::new(), Vec::new());
        let mut phases: [Vec<Option<i64>>; 3] = Default::default();
        let mut seen = HashMap::new();
        for (partition, led) in status.snapshot().partitions {
            let Some(led) = led else { continue };
            let before = self.last.get(&partition);
            rates.push(before.map(|(at, offset)| {
                (led.commit_offset - offset) as f64 / (now - *at).as_secs_f64()
            }));
            let took = led.last_batch;
            rows.push(took.map(|batch| batch.rows));
            let micros = |took: Duration| took.as_micros() as i64;
            phases[0].push(took.map(|batch| micros(batch.copy)));
            phases[1].push(took.map(|batch| micros(batch.apply)));
            phases[2].push(took.map(|batch| micros(batch.commit)));
            topics.push(partition.topic.clone());
            numbers.push(partition.number);
            states.push(led.state.as_str());
            reasons.push(led.reason);
            lags.push(led.lag);
            seen.insert(partition, (now, led.commit_offset));
        }
        self.last = seen;
        if topics.is_empty() {
            return Ok(());
        }
        let [copy, apply, commit] = &phases;
        session
            .client()
            .query_typed(
                REPORT,
                &[
                    (&service_id, Type::TEXT),
                    (&topics, Type::TEXT_ARRAY),
                    (&numbers, Type::INT4_ARRAY),
                    (&states, Type::TEXT_ARRAY),
                    (&reasons, Type::TEXT_ARRAY),
                    (&lags, Type::INT8_ARRAY),
                    (&rates, Type::FLOAT8_ARRAY),
                    (&rows, Type::INT8_ARRAY),
                    (copy, Type::INT8_ARRAY),
                    (apply, Type::INT8_ARRAY),
                    (commit, Type::INT8_ARRAY),
                ],
            )
            .await
            .map(drop)
    }
}
