//! Whether a connection has a session of its own. A pooler in transaction mode gives each transaction whatever
//! session is free: prepared statements, settings, leases and notifications are then somebody else's.

use tokio_postgres::{Client, Error, SimpleQueryMessage};

use crate::postgres::database::Database;

/// Others may take the session that we look for: then the next look finds out.
const LOOKS: usize = 3;

/// What to change, in one line.
pub const ADVICE: &str = "sessions are shared: a pooler in transaction or statement mode stands between (pgbouncer, for example); \
     connect to PostgreSQL itself, or let the pooler use session mode";

/// Whether `client` and a second connection are given each other's sessions. PostgreSQL never moves a connection to
/// another process; a pooler gives the second what the first has just left, and the first another one or none.
pub async fn is_between(client: &Client, database: &Database) -> Result<bool, Error> {
    let second = database.connect(|_| ()).await?;
    for _ in 0..LOOKS {
        let before = process(client).await?;
        if let Err(error) = second.batch_execute("BEGIN").await {
            // In statement mode there are no transactions at all.
            return match error.as_db_error() {
                Some(answer) if answer.message().contains("statement pooling") => Ok(true),
                _ => Err(error),
            };
        }
        let taken = process(&second).await?;
        // Asked only where there must be another session for it.
        let after = match taken == before {
            true => None,
            false => process(client).await?,
        };
        second.batch_execute("ROLLBACK").await?;
        if taken == before || after != before {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The server process of a connection, asked without a prepared statement.
async fn process(client: &Client) -> Result<Option<String>, Error> {
    let answer = client.simple_query("SELECT pg_backend_pid()").await?;
    Ok(answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
