//! What the database is asked to apply: behind which fence, over which offsets, and what is promised of what was staged.

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

/// What the fence checks, and how far the batch goes.
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
    /// Applies what is staged, in whatever transaction there is; without one it is a transaction of its own.
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

/// The answers and when each came, and when all was committed.
pub struct Together {
    pub applied: Vec<(Instant, Row)>,
    pub committed: Instant,
}

/// Small batches in one transaction, which `begin` opens and `commit` commits. All is sent before the first answer: behind
/// an error, PostgreSQL refuses what follows and rolls back at COMMIT.
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
