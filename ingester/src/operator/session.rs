//! What an operator asks for by the page is done within bounds, whatever hangs behind.

use std::time::Duration;

use tokio_postgres::Client;

use crate::postgres::error::describe;
use crate::postgres::pool::{AskError, Object, Pool};

/// How long PostgreSQL may take for what an operator asks for, before it undoes it.
pub const ACTION_LIMIT: Duration = Duration::from_secs(8);
/// Longer than PostgreSQL's own limit, so that it can say that nothing is changed.
pub const ANSWER_LIMIT: Duration = ACTION_LIMIT.saturating_add(Duration::from_secs(1));
/// How long it may take to get a connection.
const CONNECTION_LIMIT: Duration = Duration::from_secs(2);

/// Why the database did not do what was asked.
pub enum OperatorError {
    Refused(tokio_postgres::Error),
    /// No connection, or none in time.
    Away(String),
    /// Asked, and no answer: it may be done or not.
    Late,
}

impl OperatorError {
    pub fn describe(&self) -> String {
        match self {
            Self::Refused(error) => describe(error),
            Self::Away(reason) => format!("no connection to PostgreSQL: {reason}"),
            Self::Late => "PostgreSQL does not answer".to_owned(),
        }
    }
}

/// A connection that is lent. What was begun on it and not brought to an end, because whoever asked has gone or
/// PostgreSQL is late, must not reach the next who gets it: it is closed then, which undoes its transaction.
struct Lent(Option<Object>);

impl Lent {
    fn client(&self) -> &Client {
        self.0.as_ref().expect("lent until it is given back")
    }

    fn give_back(mut self) {
        self.0.take();
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}

/// Work on a connection, for so long and no longer.
pub async fn within<T>(
    pool: &Pool,
    limit: Duration,
    work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T, OperatorError> {
    let connected = tokio::time::timeout(CONNECTION_LIMIT, pool.get()).await;
    let connected = connected.map_err(|_| OperatorError::Away("none in time".to_owned()))?;
    let client = connected.map_err(|error| match AskError::of_pool(error) {
        AskError::Refused(error) => OperatorError::Away(describe(&error)),
        AskError::Silent(why) | AskError::Away(why) => OperatorError::Away(why),
    })?;
    let lent = Lent(Some(client));
    let done = tokio::time::timeout(limit, work(lent.client())).await;
    match done {
        Ok(Ok(done)) => {
            lent.give_back();
            Ok(done)
        }
        Ok(Err(error)) => Err(OperatorError::Refused(error)),
        Err(_) => {
            // Nobody is to wait behind what it still works on, nor on what was opened by the same way.
            drop(lent);
            pool.retain(|_, _| false);
            Err(OperatorError::Late)
        }
    }
}
