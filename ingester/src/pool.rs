//! The connections that batches and all other work share. Each one waits for its answers under the
//! eyes of the [`Watcher`]: a session whose answer will not come is given up.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, QueueMode, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use tokio::sync::watch;
use tokio_postgres::{Client, Error};
use tokio_util::sync::CancellationToken;

use crate::db::Database;
use crate::error::{Consequence, chain, consequence, describe};
use crate::watcher::Watcher;

pub type Pool = managed::Pool<Manager>;
pub type Object = managed::Object<Manager>;
pub type PoolError = managed::PoolError<Error>;

/// A session that nothing was asked of for so long is ended: the next one to ask opens another.
const IDLE: Duration = Duration::from_secs(30);
/// How often it is looked for such.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// Bytes a second that the network is trusted with.
const SLOWEST: f64 = 1_048_576.0;

/// Times are kept as microseconds since then, so that they fit into atomics; 0 stands for never.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

pub fn now_us() -> u64 {
    BEGINNING.elapsed().as_micros() as u64 + 1
}

fn since(at_us: u64) -> Duration {
    Duration::from_micros(now_us().saturating_sub(at_us))
}

/// A process of PostgreSQL that serves one session. Process ids are used again, so its beginning and
/// that of its server belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    pub pid: i32,
    pub began_us: i64,
    pub server_began_us: i64,
}

const BACKEND: &str = "
    SELECT a.pid, (extract(epoch FROM a.backend_start) * 1000000)::bigint,
        (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint
    FROM pg_stat_get_activity(pg_backend_pid()) a";

impl Backend {
    pub async fn of(client: &Client) -> Result<Self, Error> {
        let row = client.query_typed_one(BACKEND, &[]).await?;
        Ok(Self {
            pid: row.get(0),
            began_us: row.get(1),
            server_began_us: row.get(2),
        })
    }
}

/// What the watcher knows of a session, and the session of the watcher's verdict.
pub struct Life {
    pub backend: Backend,
    /// When it was last known to work for us; 0 while nothing is asked of it.
    seen_us: AtomicU64,
    /// When its last answer came.
    answered_us: AtomicU64,
    given_up: CancellationToken,
    why: Mutex<String>,
    /// Whose lock it waits for.
    behind: Mutex<Option<String>>,
}

impl Life {
    fn new(backend: Backend) -> Self {
        Self {
            backend,
            seen_us: AtomicU64::new(0),
            answered_us: AtomicU64::new(now_us()),
            given_up: CancellationToken::new(),
            why: Mutex::default(),
            behind: Mutex::default(),
        }
    }

    /// How long it was not seen at work, if it should be.
    pub fn unseen(&self) -> Option<Duration> {
        let seen_us = self.seen_us.load(Ordering::Relaxed);
        (seen_us > 0 && !self.given_up.is_cancelled()).then(|| since(seen_us))
    }

    /// Was seen at work at `at_us`, unless it has answered since.
    pub fn seen(&self, at_us: u64, behind: Option<String>) {
        let seen = |seen_us| (0 < seen_us && seen_us < at_us).then_some(at_us);
        let _ = self
            .seen_us
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, seen);
        *self.behind.lock().expect("no panic while held") = behind;
    }

    pub fn give_up(&self, why: &str) {
        why.clone_into(&mut self.why.lock().expect("no panic while held"));
        self.given_up.cancel();
    }

    fn begins(&self, allowance: Duration) {
        let seen_us = now_us() + allowance.as_micros() as u64;
        self.seen_us.store(seen_us, Ordering::Relaxed);
    }

    fn rests(&self) {
        self.seen_us.store(0, Ordering::Relaxed);
        self.answered_us.store(now_us(), Ordering::Relaxed);
    }

    fn is_at_work(&self) -> bool {
        self.seen_us.load(Ordering::Relaxed) > 0
    }
}

/// Why there is no answer of the kind that was hoped for.
#[derive(Debug)]
pub enum AskError {
    Refused(Error),
    /// No answer will come, and nobody knows what was done.
    Silent(String),
    /// No connection to ask by.
    Away(String),
}

impl AskError {
    pub fn of_pool(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::Refused(error),
            error => Self::Away(chain(&error)),
        }
    }

    /// What PostgreSQL itself has answered.
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
            Self::Silent(why) => format!("no answer of PostgreSQL: {why}"),
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
    /// Waits for the answer to `work`, which asks by this connection, for as long as its backend
    /// works on it, and no longer.
    pub async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, AskError> {
        self.answer_over(0, work).await
    }

    /// The same, where so many bytes are on their way in either direction: a backend that waits for
    /// them cannot be told from one that waits for nothing.
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
            () = self.life.given_up.cancelled() => {
                let why = self.life.why.lock().expect("no panic while held");
                Err(AskError::Silent(why.clone()))
            }
        }
    }

    /// Whose lock its backend waits for, as far as the watcher has seen.
    pub fn behind(&self) -> Option<String> {
        self.life
            .behind
            .lock()
            .expect("no panic while held")
            .clone()
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
        // Nobody waits for it any more: what it still works on is undone, and its locks are free.
        if self.life.is_at_work() {
            self.watcher.end(self.life.backend);
        }
    }
}

/// Sessions that come before those of the pool: without them a lease does not last, and an answer is
/// not watched for.
#[derive(Clone, Copy, Debug)]
pub enum First {
    Renewals,
    Standby,
    Watcher,
}

/// Which of them are open.
pub struct Precedence(watch::Sender<[bool; 3]>);

impl Default for Precedence {
    fn default() -> Self {
        Self(watch::Sender::new([false; 3]))
    }
}

impl Precedence {
    pub fn is(&self, session: First, open: bool) {
        self.0.send_if_modified(|all| {
            let before = std::mem::replace(&mut all[session as usize], open);
            before != open
        });
    }

    pub fn all_are_open(&self) -> bool {
        *self.0.borrow() == [true; 3]
    }

    async fn wait(&self) {
        let _ = self.0.subscribe().wait_for(|all| *all == [true; 3]).await;
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
    /// For batches and what follows them.
    pub fn of(database: &Database, watcher: &Arc<Watcher>) -> Self {
        Self {
            database: database.clone(),
            watcher: watcher.clone(),
            follows: true,
        }
    }

    /// For people, who set bounds of their own: of another login the watcher could see nothing.
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
            // The one that was used last, whose plans and caches the processor still holds.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(wait))
            .wait_timeout(None)
            .build()
            .map_err(|error| error.to_string())?;
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
        // What swallowed an answer may have swallowed all connections that were idle then.
        } else if self
            .watcher
            .fell_silent_after(life.answered_us.load(Ordering::Relaxed))
        {
            "older than a silence"
        } else {
            return Ok(());
        };
        Err(RecycleError::message(refused))
    }
}
