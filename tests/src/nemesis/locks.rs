//! Locks that somebody takes by hand and holds for a while.

use super::arena::Arena;
use super::processes::last;
use crate::rng::Rng;

const TABLES: [&str; 8] = [
    "ledger.account_balances",
    "ledger.balance_log",
    "ledger.event_identities",
    "ledger.verdicts",
    "ledger.dead_letters",
    "ledger.partition_leases",
    "ledger.partition_progress",
    "domain.users",
];
const MODES: [&str; 4] = [
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
];

async fn hold(arena: &Arena, rng: &mut Rng, statement: &str, longest_ms: u64) {
    let Some(session) = arena.session().await else {
        return;
    };
    arena.say(format!("  {statement}"));
    let lock = format!("BEGIN; SET LOCAL lock_timeout = '5s'; {statement}");
    if session.batch_execute(&lock).await.is_ok() {
        last(rng, 50, longest_ms).await;
        let end = if rng.chance(500) {
            "COMMIT"
        } else {
            "ROLLBACK"
        };
        let _ = session.batch_execute(end).await;
    }
}

pub async fn table(arena: &Arena, rng: &mut Rng) {
    let (table, mode) = (*rng.pick(&TABLES), *rng.pick(&MODES));
    hold(
        arena,
        rng,
        &format!("LOCK TABLE {table} IN {mode} MODE"),
        2_500,
    )
    .await;
}

/// A lease, a progress row, some balances, or a letter.
pub async fn row(arena: &Arena, rng: &mut Rng) {
    let (table, order) = *rng.pick(&[
        ("ledger.partition_leases", "partition_id"),
        ("ledger.partition_progress", "partition_id"),
        ("ledger.account_balances", "account_id"),
        ("ledger.dead_letters", "id DESC"),
    ]);
    let count = rng.between(1, 4);
    let statement = format!("SELECT FROM {table} ORDER BY {order} LIMIT {count} FOR UPDATE");
    hold(arena, rng, &statement, 5_000).await;
}
