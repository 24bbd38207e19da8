//! A batch of any contender, and how it is sent.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::SinkExt;
use ledger::verdict::Verdict;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, CopyInSink, Row, Statement};

use crate::balances::workload::Event;
use crate::stack::Result;

/// Bytes in one message of a COPY.
const MESSAGE: usize = 64 << 10;
pub const PARTITION_ID: i32 = 1;

/// A batch, ready to be sent.
pub struct Batch {
    pub rows: Rows,
    pub events: usize,
    pub staged: i64,
    pub applied: i64,
    pub rejected: i64,
    pub duplicates: i64,
    pub from_offset: i64,
    pub next_offset: i64,
    pub checksum: i64,
}

/// The COPY of a transaction, all sent but its end.
pub type Copying = Pin<Box<CopyInSink<Bytes>>>;

/// How rows get to the server.
pub enum Rows {
    /// By a COPY.
    Copy(Bytes),
    /// By an INSERT of one row, as the ingester stages what is little.
    Piece(Vec<u8>),
}

/// Sends BEGIN and the COPY without waiting in between, as the ingester does.
pub async fn begin_copy(client: &Client, copy: &Statement, rows: &Bytes) -> Result<Copying> {
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
pub async fn call_and_commit(
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

pub fn expect(answer: &Row, column: &str, wanted: i64) -> Result<()> {
    let found: i64 = answer.get(column);
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{column} is {found}, expected {wanted}: the workload is wrong").into())
    }
}

pub fn batch(rows: Rows, events: &[Event], from_offset: i64, checksum: i64) -> Batch {
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
