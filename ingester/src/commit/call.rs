//! The call of the apply: its fence, its offsets, and the promise about the staged bytes.

use std::time::Instant;

use futures_util::future::{try_join, try_join_all};
use ledger::span::Span;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::batch::slice::Staged;
use crate::commit::statements::{Statements, timed};
use crate::leases::token::{FencingToken, LeaseId};
use crate::partition::Partition;
use crate::postgres::pool::Connection;

/// The values that the fence checks, and the end of the batch.
#[derive(Clone)]
pub struct Fence {
    pub partition: Partition,
    pub fencing_token: FencingToken,
    pub lease_id: LeaseId,
    pub span: Span,
    pub last_record: Option<Uuid>,
}

/// A batch of balance events.
#[derive(Clone)]
pub struct Call {
    pub fence: Fence,
    pub staged: Staged,
}

impl Call {
    /// Applies the staged bytes in the current transaction; without one it is a transaction of its own.
    pub async fn apply(&self, client: &Connection, statements: &Statements) -> Result<Row, Error> {
        let (fence, promise) = (&self.fence, &self.staged.promise);
        let arguments: [&(dyn ToSql + Sync); 9] = [
            &fence.partition.topic,
            &fence.partition.number,
            &fence.fencing_token,
            &fence.lease_id,
            &fence.span.from(),
            &fence.span.next(),
            &promise.rows,
            &promise.checksum,
            &fence.last_record,
        ];
        client
            .query_one(&statements.apply_balances, &arguments)
            .await
    }

    /// Stages by one row, and applies.
    async fn insert(&self, client: &Connection, statements: &Statements) -> Result<Row, Error> {
        let piece = &self.staged.bytes[..];
        let arguments: [&(dyn ToSql + Sync); 1] = [&piece];
        let insert = async {
            let inserted = client.execute(&statements.insert, &arguments).await;
            inserted.map(drop)
        };
        let ((), row) = try_join(insert, self.apply(client, statements)).await?;
        Ok(row)
    }
}

/// The answers with the time of each, and the time of the COMMIT.
pub struct Together {
    pub applied: Vec<(Instant, Row)>,
    pub committed: Instant,
}

/// Small batches in one transaction, which `begin` opens and `commit` commits. Everything is sent before the first
/// answer: after an error PostgreSQL refuses the rest and rolls back at COMMIT.
pub async fn in_one_transaction(
    client: &Connection,
    statements: &Statements,
    begin: &str,
    calls: &[&Call],
    commit: impl Future<Output = Result<(), Error>>,
) -> Result<Together, Error> {
    let applied = calls
        .iter()
        .map(|call| timed(call.insert(client, statements)));
    let ((), applied, (committed, ())) = tokio::try_join!(
        client.batch_execute(begin),
        try_join_all(applied),
        timed(commit),
    )?;
    Ok(Together { applied, committed })
}
