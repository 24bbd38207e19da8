//! Who is measured: the native apply, its floor, and the same job in plain SQL.
//!
//! All three use one connection, and wait for no answer that they can do without. Batches are
//! prepared in memory; the clock runs from the first BEGIN to the last COMMIT's answer.

use std::collections::HashSet;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::SinkExt;
use ledger::account::AccountKey;
use ledger::contract::STAGING_TABLE;
use ledger::staging;
use ledger::verdict::Verdict;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, CopyInSink, Row, Statement};
use uuid::Uuid;

use crate::sample::Sample;
use crate::stack::{Result, Stack};

use super::copy::Copy;
use super::workload::Event;

/// A contender that has not finished by then is stopped after its batch.
const ROUND_LIMIT: Duration = Duration::from_secs(2);
/// Plain SQL's batches are small, so that in less time it does enough of them.
const PLAIN_ROUND_LIMIT: Duration = Duration::from_secs(1);
const TOPIC: &str = "bench.apply";
/// Bytes in one row of the staging COPY, and in one message of any COPY: as the ingester sends them.
const PIECE: usize = 32 << 10;
const MESSAGE: usize = 64 << 10;
const PARTITION_ID: i32 = 1;
/// 2026-11-21T05:00:00Z, as in the payloads of other parts.
const EVENT_TIME_US: i64 = 1_795_237_200_000_000;

/// A batch, ready to be sent.
struct Batch {
    rows: Rows,
    events: usize,
    staged: i64,
    applied: i64,
    rejected: i64,
    duplicates: i64,
    from_offset: i64,
    next_offset: i64,
    checksum: i64,
}

/// The COPY of a transaction, all sent but its end.
type Copying = Pin<Box<CopyInSink<Bytes>>>;

/// How rows get to the server.
enum Rows {
    /// By a COPY.
    Copy(Bytes),
    /// By an INSERT of one row, as the ingester stages what is little.
    Piece(Vec<u8>),
}

/// Sends BEGIN and the COPY without waiting in between, as the ingester does.
async fn begin_copy(client: &Client, copy: &Statement, rows: &Bytes) -> Result<Copying> {
    let (begun, sink) = tokio::join!(
        client.batch_execute("BEGIN"),
        client.copy_in::<_, Bytes>(copy)
    );
    begun?;
    let mut sink = Box::pin(sink?);
    for start in (0..rows.len()).step_by(MESSAGE) {
        let end = rows.len().min(start + MESSAGE);
        sink.feed(rows.slice(start..end)).await?;
    }
    Ok(sink)
}

/// Sends the end of the COPY, the statement and COMMIT without waiting in between, as the ingester does.
async fn call_and_commit(
    client: &Client,
    mut copying: Copying,
    statement: &Statement,
    args: &[&(dyn ToSql + Sync)],
) -> Result<Row> {
    let (_, answer, ()) = tokio::try_join!(
        copying.as_mut().finish(),
        client.query_one(statement, args),
        client.batch_execute("COMMIT"),
    )?;
    Ok(answer)
}

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

fn expect(answer: &Row, column: &str, wanted: i64) -> Result<()> {
    let found: i64 = answer.get(column);
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{column} is {found}, expected {wanted}: the workload is wrong").into())
    }
}

/// A batch for the staging table of the extension.
fn staged(events: &[Event], from_offset: i64) -> Batch {
    let mut bytes = Vec::new();
    for (kafka_offset, event) in (from_offset..).zip(events) {
        let staged = staging::Event {
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

fn staged_event(copy: &mut Copy, event: &Event) {
    copy.bytes(event.id.as_bytes());
    copy.bytes(event.identity.as_bytes());
    copy.bytes(event.payload_hash.as_bytes());
    copy.key(&event.change.key);
    copy.amount(event.change.available_delta);
    copy.amount(event.change.frozen_delta);
}

fn batch(rows: Rows, events: &[Event], from_offset: i64, checksum: i64) -> Batch {
    let next_offset = from_offset + events.len() as i64;
    let count = |verdict| {
        let found = events.iter().filter(|event| event.verdict == verdict);
        found.count() as i64
    };
    Batch {
        rows,
        events: events.len(),
        staged: events.len() as i64,
        applied: count(Verdict::Applied),
        rejected: count(Verdict::Rejected),
        duplicates: count(Verdict::Duplicate),
        from_offset,
        next_offset,
        checksum,
    }
}

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

/// The plain-SQL apply: `sql/baseline_apply.sql`.
pub struct Baseline {
    client: Client,
    copy: Statement,
    apply: Statement,
    offset: i64,
    /// Rows that the statement has deleted from the staging table since it was last emptied.
    dead_rows: usize,
}

const FENCING_TOKEN: i64 = 1;

impl Baseline {
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
            .prepare(include_str!("../../../sql/baseline_apply.sql"))
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
            if clock.elapsed() > PLAIN_ROUND_LIMIT {
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
