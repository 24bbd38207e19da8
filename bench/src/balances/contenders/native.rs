//! The native apply.

use std::time::{Duration, Instant};

use ledger::contract::STAGING_TABLE;
use ledger::staging;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};
use uuid::Uuid;

use super::batch::{Batch, Rows, batch, begin_copy, call_and_commit, expect};
use crate::balances::copy::Copy;
use crate::balances::workload::Event;
use crate::measure::sample::Sample;
use crate::stack::{Result, Stack};

/// A contender that has not finished by then is stopped after its batch.
const ROUND_LIMIT: Duration = Duration::from_secs(2);
const TOPIC: &str = "bench.apply";
/// Bytes in one row of the staging COPY, as the ingester sends them.
const PIECE: usize = 32 << 10;
/// 2026-11-21T05:00:00Z, as in the payloads of other parts.
const EVENT_TIME_US: i64 = 1_795_237_200_000_000;

/// `sluice.apply_balance_batch`, as the ingester calls it.
pub struct Apply {
    client: Client,
    copy: Statement,
    insert: Statement,
    call: Statement,
    fencing_token: i64,
    lease_id: Uuid,
    offset: i64,
}

impl Apply {
    pub async fn connect(stack: &Stack) -> Result<Self> {
        let client = stack.ingester().await?;
        let lock = client
            .query_one(
                "SELECT acquired, fencing_token, lease_id, commit_offset \
                 FROM sluice.acquire_partition_lock($1, 0, 'bench', interval '1 hour')",
                &[&TOPIC],
            )
            .await?;
        let copy = format!("COPY {STAGING_TABLE} FROM STDIN (FORMAT binary)");
        let insert = format!("INSERT INTO {STAGING_TABLE} VALUES ($1)");
        Ok(Self {
            copy: client.prepare(&copy).await?,
            insert: client.prepare(&insert).await?,
            call: client
                .prepare(
                    "SELECT * FROM sluice.apply_balance_batch($1, 0, $2, $3, $4, $5, $6, $7, $8)",
                )
                .await?,
            fencing_token: lock.get("fencing_token"),
            lease_id: lock.get("lease_id"),
            offset: lock.get("commit_offset"),
            client,
        })
    }

    pub async fn measure(&mut self, events: &[Event], batch_size: usize) -> Result<Sample> {
        let batches: Vec<Batch> = events
            .chunks(batch_size)
            .scan(self.offset, |offset, events| {
                let batch = staged(events, *offset);
                *offset = batch.next_offset;
                Some(batch)
            })
            .collect();
        let clock = Instant::now();
        let mut sample = Sample::default();
        for batch in &batches {
            self.apply(batch).await?;
            sample.events += batch.events;
            sample.batches += 1;
            if clock.elapsed() > ROUND_LIMIT {
                break;
            }
        }
        sample.seconds = clock.elapsed().as_secs_f64();
        self.offset += sample.events as i64;
        Ok(sample)
    }

    /// Where the next batch begins.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Applies a batch that is staged already; answers how long the COPY, the call and the COMMIT took.
    pub async fn in_steps(
        &mut self,
        bytes: &[u8],
        [events, changes]: [usize; 2],
        last_record: Option<[u8; 16]>,
    ) -> Result<[Duration; 3]> {
        let batch = Batch {
            rows: staged_rows(bytes),
            events,
            staged: changes as i64,
            applied: events as i64,
            rejected: 0,
            duplicates: 0,
            from_offset: self.offset,
            next_offset: self.offset + events as i64,
            checksum: staging::checksum(bytes),
        };
        let begin = Instant::now();
        match &batch.rows {
            Rows::Copy(rows) => {
                let mut copying = begin_copy(&self.client, &self.copy, rows).await?;
                copying.as_mut().finish().await?;
            }
            Rows::Piece(piece) => {
                let piece: [&(dyn ToSql + Sync); 1] = [piece];
                tokio::try_join!(
                    self.client.batch_execute("BEGIN"),
                    self.client.execute(&self.insert, &piece),
                )?;
            }
        }
        let copied = Instant::now();
        let last_record = last_record.map(Uuid::from_bytes);
        let args = self.args(&batch, &last_record);
        let answer = self.client.query_one(&self.call, &args).await?;
        let called = Instant::now();
        self.client.batch_execute("COMMIT").await?;
        let committed = Instant::now();
        expect(&answer, "applied", batch.applied)?;
        self.offset = batch.next_offset;
        Ok([copied - begin, called - copied, committed - called])
    }

    /// The steps inside the last call.
    pub async fn last_steps(&self) -> Result<Vec<(String, Duration)>> {
        let steps = "SELECT step, microseconds FROM sluice.last_batch_steps()";
        let rows = self.client.query(steps, &[]).await?;
        let took = |row: &Row| Duration::from_micros(row.get::<_, i64>(1) as u64);
        Ok(rows.iter().map(|row| (row.get(0), took(row))).collect())
    }

    fn args<'a>(
        &'a self,
        batch: &'a Batch,
        last_record: &'a Option<Uuid>,
    ) -> [&'a (dyn ToSql + Sync); 8] {
        [
            &TOPIC,
            &self.fencing_token,
            &self.lease_id,
            &batch.from_offset,
            &batch.next_offset,
            &batch.staged,
            &batch.checksum,
            last_record,
        ]
    }

    async fn apply(&self, batch: &Batch) -> Result<()> {
        let last_record = Some(Uuid::from_u128(batch.next_offset as u128));
        let args = self.args(batch, &last_record);
        let answer = match &batch.rows {
            Rows::Copy(rows) => {
                let copying = begin_copy(&self.client, &self.copy, rows).await?;
                call_and_commit(&self.client, copying, &self.call, &args).await?
            }
            Rows::Piece(piece) => {
                let piece: [&(dyn ToSql + Sync); 1] = [piece];
                let ((), _, answer, ()) = tokio::try_join!(
                    self.client.batch_execute("BEGIN"),
                    self.client.execute(&self.insert, &piece),
                    self.client.query_one(&self.call, &args),
                    self.client.batch_execute("COMMIT"),
                )?;
                answer
            }
        };
        expect(&answer, "applied", batch.applied)?;
        expect(&answer, "rejected", batch.rejected)?;
        expect(&answer, "duplicates", batch.duplicates)
    }
}

/// A batch for the staging table of the extension.
fn staged(events: &[Event], from_offset: i64) -> Batch {
    let mut bytes = Vec::new();
    for (kafka_offset, event) in (from_offset..).zip(events) {
        let staged = staging::StagedEvent {
            event_id: &event.id,
            source: None,
            identity: event.identity,
            payload_hash: event.payload_hash,
            time_us: Some(EVENT_TIME_US),
        };
        staging::put_event(&mut bytes, kafka_offset, &staged, &[event.change]);
    }
    let rows = staged_rows(&bytes);
    batch(rows, events, from_offset, staging::checksum(&bytes))
}

fn staged_rows(bytes: &[u8]) -> Rows {
    if bytes.len() <= PIECE {
        return Rows::Piece(bytes.to_vec());
    }
    let mut copy = Copy::new();
    for piece in bytes.chunks(PIECE) {
        copy.row(1);
        copy.bytes(piece);
    }
    Rows::Copy(copy.finish())
}
