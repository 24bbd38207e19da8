//! What the page shows of the database: looked up while somebody looks at the page, kept in memory,
//! so that it is told at once also when PostgreSQL hangs.

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_postgres::Client;

use crate::commands::{output, partitions};
use crate::error::{chain, describe};
use crate::pool::{Object, Pool};

/// How often at most.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long PostgreSQL may take for a look.
const LIMIT: Duration = Duration::from_secs(2);
/// How long PostgreSQL may take for what an operator asks for, before it undoes it.
pub const ACTION_LIMIT: Duration = Duration::from_secs(8);
/// How long it may take to get a connection.
const CONNECTION_LIMIT: Duration = Duration::from_secs(2);
/// How long whoever comes first waits for a look.
const PATIENCE: Duration = Duration::from_millis(300);

const PARKED: &str = "SELECT topic, error_code AS code, letters FROM sluice.parked_dead_letters() ORDER BY letters DESC, 1, 2";

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
    let client = connected.map_err(|error| Trouble::Away(chain(&error)))?;
    let done = tokio::time::timeout(limit, work(&client)).await;
    if done.is_err() {
        // Nobody is to wait behind what it still works on, nor on what was opened by the same way.
        drop(Object::take(client));
        pool.retain(|_, _| false);
    }
    done.map_or(Err(Trouble::Late), |done| done.map_err(Trouble::Refused))
}

/// What was seen last.
#[derive(Clone, Default)]
pub struct Seen {
    /// Rows of `ledger.partition_status`.
    pub partitions: Vec<Value>,
    /// Parked dead letters by topic and code.
    pub parked: Vec<Value>,
    /// When; `None` before the first time.
    pub at: Option<Instant>,
    /// Why not later.
    pub trouble: Option<String>,
}

impl Seen {
    fn is_older_than(&self, age: Duration) -> bool {
        self.at.is_none_or(|at| at.elapsed() > age)
    }

    pub fn is_stale(&self) -> bool {
        self.is_older_than(INTERVAL + LIMIT + INTERVAL)
    }
}

pub struct Look {
    pool: Pool,
    seen: RwLock<Arc<Seen>>,
    wanted: Notify,
    looked: watch::Sender<()>,
}

impl Look {
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            seen: RwLock::default(),
            wanted: Notify::new(),
            looked: watch::Sender::new(()),
        }
    }

    /// What was seen last; waits a moment for a look where nobody has looked for a while.
    pub async fn seen(&self) -> Arc<Seen> {
        let mut looked = self.looked.subscribe();
        self.wanted.notify_one();
        if self.last().is_older_than(2 * INTERVAL) {
            let _ = tokio::time::timeout(PATIENCE, looked.changed()).await;
        }
        self.last()
    }

    fn last(&self) -> Arc<Seen> {
        self.seen.read().expect("no panic while held").clone()
    }

    /// Looks as long as somebody wants to know, at rest otherwise.
    pub async fn run(&self) {
        loop {
            self.wanted.notified().await;
            let began = Instant::now();
            let seen = match within(&self.pool, LIMIT, look).await {
                Ok(seen) => seen,
                Err(trouble) => Seen {
                    trouble: Some(trouble.describe()),
                    ..Seen::clone(&self.last())
                },
            };
            *self.seen.write().expect("no panic while held") = Arc::new(seen);
            self.looked.send_replace(());
            // A slow database is not asked all the time.
            tokio::time::sleep(INTERVAL.max(2 * began.elapsed())).await;
        }
    }
}

async fn look(client: &Client) -> Result<Seen, tokio_postgres::Error> {
    Ok(Seen {
        partitions: partitions::all(client, None).await?,
        parked: output::rows(client, PARKED, &[]).await?,
        at: Some(Instant::now()),
        trouble: None,
    })
}
