//! A batch that is small enough to travel with others: what is staged, and what is promised of it.

use futures_util::future::try_join;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::commit::statements::Statements;
use crate::postgres::pool::Connection;

/// What is staged of a partition, and the arguments of its call.
#[derive(Clone)]
pub struct Call {
    pub topic: String,
    pub partition: i32,
    pub fencing_token: i64,
    pub lease_id: Uuid,
    pub from_offset: i64,
    pub next_offset: i64,
    pub rows: i64,
    pub checksum: i64,
    pub last_record: Option<Uuid>,
    pub piece: Vec<u8>,
}

impl Call {
    /// Stages and applies, in whatever transaction there is.
    pub async fn apply(&self, client: &Connection, statements: &Statements) -> Result<Row, Error> {
        let args: [&(dyn ToSql + Sync); 9] = [
            &self.topic,
            &self.partition,
            &self.fencing_token,
            &self.lease_id,
            &self.from_offset,
            &self.next_offset,
            &self.rows,
            &self.checksum,
            &self.last_record,
        ];
        let insert = async {
            client
                .execute(&statements.insert, &[&self.piece])
                .await
                .map(drop)
        };
        let apply = client.query_one(&statements.apply_balances, &args);
        let ((), row) = try_join(insert, apply).await?;
        Ok(row)
    }
}
