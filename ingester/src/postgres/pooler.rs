//! Whether a connection has a session of its own. A pooler in transaction mode gives each transaction any free
//! session: prepared statements, settings, leases and notifications then belong to another client.

use tokio_postgres::{Client, Error, SimpleQueryMessage};

use crate::postgres::database::Database;

/// Another client may take the session that we test for; then the next attempt finds it.
const LOOKS: usize = 3;

/// What to change, in one line.
pub const ADVICE: &str = "sessions are shared: a pooler in transaction or statement mode stands between (pgbouncer, for example); \
     connect to PostgreSQL itself, or let the pooler use session mode";

/// Whether `client` and a second connection get each other's sessions. PostgreSQL never moves a connection to another
/// process; a pooler gives the second the session that the first has just left, and the first another or none.
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
        // Asked only when it needs another session.
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

/// The server process of a connection, queried without a prepared statement.
async fn process(client: &Client) -> Result<Option<String>, Error> {
    let answer = client.simple_query("SELECT pg_backend_pid()").await?;
    Ok(answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
