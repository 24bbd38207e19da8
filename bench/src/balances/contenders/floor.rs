//! What no apply can be faster than.

use std::time::Instant;

use bytes::Bytes;
use tokio_postgres::{Client, Statement};

use super::batch::{PARTITION_ID, begin_copy};
use crate::balances::copy::Copy;
use crate::balances::workload::Event;
use crate::measure::sample::Sample;
use crate::stack::{Result, Stack};

/// The floor: the same log rows, copied into a table without an index, and committed.
pub struct Floor {
    client: Client,
    copy: Statement,
}

impl Floor {
    pub async fn connect(stack: &Stack) -> Result<Self> {
        let client = stack.admin().await?;
        let copy = client
            .prepare("COPY baseline.bare_log FROM STDIN (FORMAT binary)")
            .await?;
        Ok(Self { client, copy })
    }

    pub async fn measure(&mut self, events: &[Event], batch_size: usize) -> Result<Sample> {
        let batches: Vec<Bytes> = events.chunks(batch_size).map(log_rows).collect();
        self.client
            .batch_execute("TRUNCATE baseline.bare_log")
            .await?;
        let clock = Instant::now();
        for rows in &batches {
            let mut copying = begin_copy(&self.client, &self.copy, rows).await?;
            tokio::try_join!(
                copying.as_mut().finish(),
                self.client.batch_execute("COMMIT")
            )?;
        }
        Ok(Sample {
            events: events.len(),
            batches: batches.len(),
            seconds: clock.elapsed().as_secs_f64(),
        })
    }
}

fn log_rows(events: &[Event]) -> Bytes {
    const NOW_US: i64 = 1_795_237_200_000_000;
    let mut copy = Copy::new();
    for (kafka_offset, event) in (0..).zip(events) {
        copy.row(18);
        copy.int8(kafka_offset);
        copy.int8(event.change.key.account_id);
        copy.time(NOW_US);
        copy.int4(PARTITION_ID);
        copy.int4(event.change.key.shard_id);
        copy.int2(0);
        copy.bytes(event.id.as_bytes());
        copy.bytes(event.change.key.currency.as_bytes());
        copy.amount(event.change.available_delta);
        copy.amount(event.change.frozen_delta);
        copy.amount(event.after.available);
        copy.amount(event.after.frozen);
        copy.null(); // reject_reason
        copy.null(); // source
        // The change before it: of the same width, whichever it is.
        copy.int8(kafka_offset);
        copy.int4(PARTITION_ID);
        copy.int2(0);
        copy.null(); // event_time
    }
    copy.finish()
}
