//! The statements of a batch, prepared once for each session.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use deadpool::managed::Timeouts;
use ledger::contract::STAGING_TABLE;
use tokio_postgres::Statement;
use tracing::debug;

use crate::postgres::pool::{Connection, Pool};

// Values of the session are read after the batch: a function in FROM has ended before its row is computed.
const APPLY: &str = "SELECT outcome, applied, rejected, duplicates, dead, sluice.last_batch_rejections() AS rejections
    FROM sluice.apply_balance_batch($1, $2, $3, $4, $5, $6, $7, $8, $9)";

const APPLY_EVENTS: &str = "SELECT outcome, applied, rejected, duplicates, dead, sluice.last_batch_rejections() AS rejections
    FROM sluice.apply_event_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

static INSERT: LazyLock<String> =
    LazyLock::new(|| format!("INSERT INTO {STAGING_TABLE} VALUES ($1)"));

static COPY: LazyLock<String> =
    LazyLock::new(|| format!("COPY {STAGING_TABLE} FROM STDIN (FORMAT binary)"));

/// The statements of a batch.
pub struct Statements {
    pub apply_balances: Statement,
    pub apply_events: Statement,
    pub insert: Statement,
    pub copy: Statement,
}

impl Statements {
    pub async fn prepare(client: &Connection) -> Result<Self, tokio_postgres::Error> {
        let (apply_balances, apply_events, insert, copy) = tokio::try_join!(
            client.prepare_cached(APPLY),
            client.prepare_cached(APPLY_EVENTS),
            client.prepare_cached(&INSERT),
            client.prepare_cached(&COPY),
        )?;
        Ok(Self {
            apply_balances,
            apply_events,
            insert,
            copy,
        })
    }
}

/// Opens connections up to `wanted`, as far as the pool has room, and prepares their statements.
pub async fn warm_up(pool: Pool, wanted: usize) {
    let at_once = Timeouts {
        wait: Some(Duration::ZERO),
        ..pool.timeouts()
    };
    // Kept until all are open, because the pool would hand out the same one again.
    let opened = (0..wanted.min(pool.status().max_size)).map(|_| async {
        let client = pool.timeout_get(&at_once).await.ok()?;
        client.answer(Statements::prepare(&client)).await.ok()?;
        Some(client)
    });
    let opened = futures_util::future::join_all(opened).await;
    debug!(connections = opened.iter().flatten().count(), "warmed up");
}

/// The end of the work, and its result.
pub async fn timed<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<(Instant, T), E> {
    let done = work.await?;
    Ok((Instant::now(), done))
}
