//! The same job in one statement of plain SQL.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ledger::account::AccountKey;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::batch::{Batch, PARTITION_ID, Rows, batch, begin_copy, call_and_commit, expect};
use crate::balances::copy::Copy;
use crate::balances::workload::Event;
use crate::measure::sample::Sample;
use crate::stack::{Result, Stack};

/// Plain SQL's batches are small, so that in less time it does enough of them.
const ROUND_LIMIT: Duration = Duration::from_secs(1);

/// The single-statement baseline: `sql/baseline_apply.sql`.
pub struct SingleStatement {
    client: Client,
    copy: Statement,
    apply: Statement,
    offset: i64,
    /// Rows that the statement has deleted from the staging table since it was last emptied.
    dead_rows: usize,
}

const FENCING_TOKEN: i64 = 1;

impl SingleStatement {
    pub async fn connect(stack: &Stack) -> Result<Self> {
        let client = stack.admin().await?;
        // It has no statistics on staged rows, and must not scan a million accounts for them.
        client
            .batch_execute("SET enable_seqscan = off; SET random_page_cost = 1.1; SET jit = off")
            .await?;
        let copy = client
            .prepare(
                "COPY baseline.staging (kafka_offset, event_id, identity, payload_hash, account_id, shard_id, \
                 currency_code, available_delta, frozen_delta) FROM STDIN (FORMAT binary)",
            )
            .await?;
        let apply = client
            .prepare(include_str!("../../../../sql/baseline_apply.sql"))
            .await?;
        Ok(Self {
            client,
            copy,
            apply,
            offset: 0,
            dead_rows: 0,
        })
    }

    pub async fn measure(&mut self, events: &[Event], batch_size: usize) -> Result<Sample> {
        let batches = self.cut(events, batch_size);
        let largest = batches
            .iter()
            .map(|batch| batch.events)
            .max()
            .unwrap_or_default();
        // Scanning dead rows costs, and so does TRUNCATE: this many batches between two of
        // them were the cheapest for small and for large ones.
        let most_dead_rows = (25 * largest).clamp(500, 20_000);
        let clock = Instant::now();
        let mut sample = Sample::default();
        for batch in &batches {
            if self.dead_rows > most_dead_rows {
                self.client
                    .batch_execute("TRUNCATE baseline.staging")
                    .await?;
                self.dead_rows = 0;
            }
            self.apply(batch).await?;
            sample.events += batch.events;
            sample.batches += 1;
            self.dead_rows += batch.events;
            if clock.elapsed() > ROUND_LIMIT {
                break;
            }
        }
        sample.seconds = clock.elapsed().as_secs_f64();
        self.offset += sample.events as i64;
        Ok(sample)
    }

    /// Cuts where an account would come a second time: beyond it the statement is wrong.
    fn cut(&self, events: &[Event], batch_size: usize) -> Vec<Batch> {
        let mut batches = Vec::new();
        let mut accounts: HashSet<AccountKey> = HashSet::new();
        let mut first = 0;
        for (index, event) in events.iter().enumerate() {
            if index - first == batch_size || accounts.contains(&event.change.key) {
                batches.push(plain_batch(
                    &events[first..index],
                    self.offset + first as i64,
                ));
                accounts.clear();
                first = index;
            }
            accounts.insert(event.change.key);
        }
        batches.push(plain_batch(&events[first..], self.offset + first as i64));
        batches
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        let Rows::Copy(rows) = &batch.rows else {
            return Err("plain SQL stages by COPY".into());
        };
        let copying = begin_copy(&self.client, &self.copy, rows).await?;
        let args: [&(dyn ToSql + Sync); 4] = [
            &PARTITION_ID,
            &FENCING_TOKEN,
            &batch.from_offset,
            &batch.next_offset,
        ];
        let answer = call_and_commit(&self.client, copying, &self.apply, &args).await?;
        expect(&answer, "fenced", 1)?;
        expect(&answer, "updated_rows", batch.events as i64)
    }
}

fn plain_batch(events: &[Event], from_offset: i64) -> Batch {
    let mut copy = Copy::new();
    for (kafka_offset, event) in (from_offset..).zip(events) {
        copy.row(9);
        copy.int8(kafka_offset);
        staged_event(&mut copy, event);
    }
    batch(Rows::Copy(copy.finish()), events, from_offset, 0)
}

fn staged_event(copy: &mut Copy, event: &Event) {
    copy.bytes(event.id.as_bytes());
    copy.bytes(event.identity.as_bytes());
    copy.bytes(event.payload_hash.as_bytes());
    copy.key(&event.change.key);
    copy.amount(event.change.available_delta);
    copy.amount(event.change.frozen_delta);
}
