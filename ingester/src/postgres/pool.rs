//! The connections that batches and all other work share. The [`Watcher`] watches each one that waits
//! for an answer: a session whose answer will not come is given up.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, QueueMode, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use tokio_postgres::Error;

use crate::postgres::database::Database;
use crate::postgres::error::{Consequence, consequence, describe};
use crate::postgres::life::{Backend, Life};
use crate::postgres::watcher::Watcher;

pub type Pool = managed::Pool<Manager>;
pub type Object = managed::Object<Manager>;
pub type PoolError = managed::PoolError<Error>;

/// A session that was idle for so long is ended; the next request opens another.
const IDLE: Duration = Duration::from_secs(30);
/// How often the pool is searched for idle sessions.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// Bytes a second that the network is assumed to transfer.
const SLOWEST: f64 = 1_048_576.0;

/// Why a request has no successful answer.
#[derive(Debug)]
pub enum AskError {
    Refused(Error),
    /// No answer will come, and the outcome is unknown.
    Silent(String),
    /// No connection for the request.
    Away(String),
}

impl AskError {
    pub fn of_pool(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::Refused(error),
            PoolError::Timeout(_) => Self::Away("none in time".to_owned()),
            _ => Self::Away("the pool of connections is closed".to_owned()),
        }
    }

    /// The error that PostgreSQL itself has answered.
    pub fn answer(&self) -> Option<&Error> {
        match self {
            Self::Refused(error) => error.as_db_error().map(|_| error),
            Self::Silent(_) | Self::Away(_) => None,
        }
    }

    pub fn consequence(&self) -> Consequence {
        match self {
            Self::Refused(error) => consequence(error),
            Self::Silent(_) | Self::Away(_) => Consequence::Retry,
        }
    }

    pub fn describe(&self) -> String {
        match self {
            Self::Refused(error) => describe(error),
            Self::Silent(why) => format!("no answer from PostgreSQL: {why}"),
            Self::Away(why) => format!("no connection to PostgreSQL: {why}"),
        }
    }
}

/// A session of the pool.
pub struct Connection {
    client: ClientWrapper,
    life: Arc<Life>,
    watcher: Arc<Watcher>,
}

impl Connection {
    /// Waits for the answer to `work`, which uses this connection, for as long as its backend
    /// works on it, and no longer.
    pub async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, AskError> {
        self.answer_over(0, work).await
    }

    /// The same for so many bytes in either direction: a backend that waits for them looks like one
    /// that waits for nothing.
    pub async fn answer_over<T>(
        &self,
        bytes: usize,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, AskError> {
        self.life
            .begins(Duration::from_secs_f64(bytes as f64 / SLOWEST));
        tokio::select! {
            biased;
            done = work => {
                self.life.rests();
                done.map_err(AskError::Refused)
            }
            why = self.life.given_up() => Err(AskError::Silent(why)),
        }
    }

    /// Which session's lock its backend waits for, as far as the watcher has seen.
    pub fn behind(&self) -> Option<String> {
        self.life.behind()
    }
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Nobody waits for it any more: its transaction is rolled back, and its locks are released.
        if self.life.is_at_work() {
            self.watcher.end(self.life.backend);
        }
    }
}

/// Opens connections for the pool.
pub struct Manager {
    database: Database,
    watcher: Arc<Watcher>,
    /// Whether other sessions come first.
    follows: bool,
}

impl Manager {
    /// For batches and the work after them.
    pub fn of(database: &Database, watcher: &Arc<Watcher>) -> Self {
        Self {
            database: database.clone(),
            watcher: watcher.clone(),
            follows: true,
        }
    }

    /// For people, with bounds of their own: the watcher cannot see sessions of another login.
    pub fn of_operator(database: &Database, watcher: &Arc<Watcher>) -> Self {
        Self {
            follows: false,
            ..Self::of(database, watcher)
        }
    }

    /// A pool of `size` connections; one may take `wait` to open.
    pub fn pool(self, size: usize, wait: Duration) -> Result<Pool, String> {
        let pool = Pool::builder(self)
            .max_size(size)
            // The one that was used last: its plans and caches are still in the processor's cache.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(wait))
            .wait_timeout(None)
            .build()
            .map_err(|_| "the pool of connections has no runtime".to_owned())?;
        tokio::spawn(end_idle(pool.clone()));
        Ok(pool)
    }
}

/// Runs for as long as the process.
async fn end_idle(pool: Pool) {
    loop {
        tokio::time::sleep(IDLE_LOOK).await;
        drop(pool.retain(|_, metrics| metrics.last_used() < IDLE));
    }
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = Error;

    /// The pool bounds all of it.
    async fn create(&self) -> Result<Connection, Error> {
        if self.follows {
            self.watcher.precedence.wait().await;
        }
        let (client, task) = self.database.open(|_| ()).await?;
        let client = ClientWrapper::new(client, task);
        let backend = Backend::of(&client).await?;
        let life = Arc::new(Life::new(backend));
        self.watcher.watch(&life);
        Ok(Connection {
            client,
            life,
            watcher: self.watcher.clone(),
        })
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Error> {
        let life = &connection.life;
        let refused = if connection.client.is_closed() {
            "closed"
        } else if life.is_at_work() {
            "left at work"
        // Whatever lost an answer may have broken all connections that were idle then.
        } else if self.watcher.fell_silent_after(life.answered_us()) {
            "older than a silence"
        } else {
            return Ok(());
        };
        Err(RecycleError::message(refused))
    }
}
