//! What the database is asked to apply: behind which fence, over which offsets, and what is promised of what was staged.

use std::time::Instant;

use futures_util::future::{try_join, try_join_all};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::commit::statements::{Statements, timed};
use crate::leases::token::{FencingToken, LeaseId};
use crate::postgres::pool::Connection;

/// What the fence checks, and how far the batch goes.
#[derive(Clone)]
pub struct Fence {
    pub topic: String,
    pub partition: i32,
    pub fencing_token: FencingToken,
    pub lease_id: LeaseId,
    pub from_offset: i64,
    pub next_offset: i64,
    pub last_record: Option<Uuid>,
}

/// A batch of balance events.
#[derive(Clone)]
pub struct Call {
    pub fence: Fence,
    pub rows: i64,
    pub checksum: i64,
}

impl Call {
    /// Applies what is staged, in whatever transaction there is; without one it is a transaction of its own.
    pub async fn apply(&self, client: &Connection, statements: &Statements) -> Result<Row, Error> {
        let fence = &self.fence;
        let arguments: [&(dyn ToSql + Sync); 9] = [
            &fence.topic,
            &fence.partition,
            &fence.fencing_token,
            &fence.lease_id,
            &fence.from_offset,
            &fence.next_offset,
            &self.rows,
            &self.checksum,
            &fence.last_record,
        ];
        client
            .query_one(&statements.apply_balances, &arguments)
            .await
    }
}

/// A batch that is small enough to be staged by one row, and so to travel with others.
#[derive(Clone)]
pub struct Parcel {
    pub call: Call,
    pub piece: Vec<u8>,
}

impl Parcel {
    async fn apply(&self, client: &Connection, statements: &Statements) -> Result<Row, Error> {
        let insert = async {
            client
                .execute(&statements.insert, &[&self.piece])
                .await
                .map(drop)
        };
        let ((), row) = try_join(insert, self.call.apply(client, statements)).await?;
        Ok(row)
    }
}

/// The answers and when each came, and when all was committed.
pub struct Together {
    pub applied: Vec<(Instant, Row)>,
    pub committed: Instant,
}

/// All parcels in one transaction, which `begin` opens and `commit` commits. All is sent before the first answer: behind
/// an error, PostgreSQL refuses what follows and rolls back at COMMIT.
pub async fn in_one_transaction(
    client: &Connection,
    statements: &Statements,
    begin: &str,
    parcels: &[&Parcel],
    commit: impl Future<Output = Result<(), Error>>,
) -> Result<Together, Error> {
    let applied = parcels
        .iter()
        .map(|parcel| timed(parcel.apply(client, statements)));
    let ((), applied, (committed, ())) = tokio::try_join!(
        client.batch_execute(begin),
        try_join_all(applied),
        timed(commit),
    )?;
    Ok(Together { applied, committed })
}
