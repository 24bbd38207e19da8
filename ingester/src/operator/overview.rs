//! What the page shows of the database: looked up while somebody looks at the page, kept in memory,
//! so that it is told at once also when PostgreSQL hangs.

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_postgres::Client;

use crate::operator::partitions;
use crate::operator::rows::rows;
use crate::operator::session::within;
use crate::postgres::pool::Pool;

/// How often at most.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long PostgreSQL may take for a look.
const LIMIT: Duration = Duration::from_secs(2);
/// How long whoever comes first waits for a look.
const PATIENCE: Duration = Duration::from_millis(300);

const PARKED: &str = "SELECT topic, error_code AS code, letters FROM sluice.parked_dead_letters() ORDER BY letters DESC, 1, 2";

// A reader also sees those whose heartbeat has ended, which the table keeps for an hour.
const MAY_SEE_ALL: &str =
    "SELECT pg_catalog.has_table_privilege('ledger.ingester_instances', 'SELECT')";
const ALL_INSTANCES: &str = "
    SELECT i.service_id, i.topics, l.service_id IS NOT NULL AS is_live,
        extract(epoch FROM greatest(clock_timestamp() - i.expires_at, interval '0'))::float8 AS overdue_s,
        (SELECT a.application_name FROM pg_catalog.pg_stat_activity a WHERE a.pid = i.session_pid) AS session
    FROM ledger.ingester_instances i LEFT JOIN ledger.live_instances l USING (service_id) ORDER BY 1";
const LIVE_INSTANCES: &str = "SELECT service_id, topics, true AS is_live, 0 AS overdue_s FROM ledger.live_instances ORDER BY 1";

/// What was seen last.
#[derive(Clone, Default)]
pub struct Seen {
    /// Rows of `ledger.partition_status`.
    pub partitions: Vec<Value>,
    /// Parked dead letters by topic and code.
    pub parked: Vec<Value>,
    /// Instances, those that were there within the last hour included where the login may see them.
    pub instances: Vec<Value>,
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

pub struct Overview {
    pool: Pool,
    seen: RwLock<Arc<Seen>>,
    wanted: Notify,
    looked: watch::Sender<()>,
}

impl Overview {
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
    pub async fn keep_looking(&self) {
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
    let may_see_all: bool = client.query_one(MAY_SEE_ALL, &[]).await?.get(0);
    let instances = match may_see_all {
        true => ALL_INSTANCES,
        false => LIVE_INSTANCES,
    };
    Ok(Seen {
        partitions: partitions::all(client, None).await?,
        parked: rows(client, PARKED, &[]).await?,
        instances: rows(client, instances, &[]).await?,
        at: Some(Instant::now()),
        trouble: None,
    })
}
