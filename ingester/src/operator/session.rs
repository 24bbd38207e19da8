//! What an operator asks for by the page is done within bounds, whatever hangs behind.

use std::time::Duration;

use tokio_postgres::Client;

use crate::postgres::error::describe;
use crate::postgres::pool::{AskError, Object, Pool};

/// How long PostgreSQL may take for what an operator asks for, before it undoes it.
pub const ACTION_LIMIT: Duration = Duration::from_secs(8);
/// How long it may take to get a connection.
const CONNECTION_LIMIT: Duration = Duration::from_secs(2);

/// Why the database did not do what was asked.
pub enum Trouble {
    Refused(tokio_postgres::Error),
    /// No connection, or none in time.
    Away(String),
    /// Asked, and no answer: it may be done or not.
    Late,
}

impl Trouble {
    pub fn describe(&self) -> String {
        match self {
            Self::Refused(error) => describe(error),
            Self::Away(reason) => format!("no connection to PostgreSQL: {reason}"),
            Self::Late => "PostgreSQL does not answer".to_owned(),
        }
    }
}

/// Work on a connection, for so long and no longer.
pub async fn within<T>(
    pool: &Pool,
    limit: Duration,
    work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T, Trouble> {
    let connected = tokio::time::timeout(CONNECTION_LIMIT, pool.get()).await;
    let connected = connected.map_err(|_| Trouble::Away("none in time".to_owned()))?;
    let client = connected.map_err(|error| match AskError::of_pool(error) {
        AskError::Refused(error) => Trouble::Away(describe(&error)),
        AskError::Silent(why) | AskError::Away(why) => Trouble::Away(why),
    })?;
    let done = tokio::time::timeout(limit, work(&client)).await;
    if done.is_err() {
        // Nobody is to wait behind what it still works on, nor on what was opened by the same way.
        drop(Object::take(client));
        pool.retain(|_, _| false);
    }
    done.map_or(Err(Trouble::Late), |done| done.map_err(Trouble::Refused))
}
