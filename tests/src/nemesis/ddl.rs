//! What a database administrator does to the tables meanwhile.

use super::arena::Arena;
use crate::rng::Rng;

const TABLES: [&str; 6] = [
    "ledger.account_balances",
    "ledger.balance_log",
    "ledger.event_identities",
    "ledger.verdicts",
    "ledger.dead_letters",
    "ledger.partition_progress",
];

/// Those that take further columns: log, verdicts and identities refuse them by name.
const GROWING: [&str; 3] = [
    "ledger.account_balances",
    "ledger.dead_letters",
    "ledger.partition_progress",
];

/// Without waiting for a lock for ever: a fault under way may hold it.
async fn run(arena: &Arena, statement: String) {
    arena.say(format!("  {statement}"));
    let Some(session) = arena.session().await else {
        return;
    };
    // A statement of its own each: CONCURRENTLY wants no transaction around it.
    for statement in ["SET lock_timeout = '10s'", &statement] {
        if session.simple_query(statement).await.is_err() {
            return;
        }
    }
}

pub async fn reindex(arena: &Arena, rng: &mut Rng) {
    let table = *rng.pick(&TABLES);
    let how = if rng.chance(700) { "CONCURRENTLY " } else { "" };
    run(arena, format!("REINDEX TABLE {how}{table}")).await;
}

pub async fn vacuum_full(arena: &Arena, rng: &mut Rng) {
    let table = *rng.pick(&TABLES);
    run(arena, format!("VACUUM FULL {table}")).await;
}

/// One that may stay NULL, or one with a default; some of them go again.
pub async fn add_column(arena: &Arena, rng: &mut Rng) {
    let (table, name) = (*rng.pick(&GROWING), format!("nemesis_{}", arena.next()));
    let default = if rng.chance(500) { " DEFAULT 'x'" } else { "" };
    run(
        arena,
        format!("ALTER TABLE {table} ADD COLUMN {name} text{default}"),
    )
    .await;
    if rng.chance(500) {
        run(
            arena,
            format!("ALTER TABLE {table} DROP COLUMN IF EXISTS {name}"),
        )
        .await;
    }
}

/// On columns that change, too: then no update is heap-only. Some of them go again.
pub async fn add_index(arena: &Arena, rng: &mut Rng) {
    let (table, columns) = *rng.pick(&[
        ("ledger.account_balances", "available"),
        ("ledger.account_balances", "updated_msec"),
        ("ledger.balance_log", "account_id, kafka_offset"),
        ("ledger.dead_letters", "updated_at"),
        ("ledger.partition_progress", "commit_offset"),
    ]);
    let name = format!("nemesis_{}", arena.next());
    let how = if rng.chance(500) { "CONCURRENTLY " } else { "" };
    run(
        arena,
        format!("CREATE INDEX {how}{name} ON {table} ({columns})"),
    )
    .await;
    if rng.chance(600) {
        run(arena, format!("DROP INDEX IF EXISTS ledger.{name}")).await;
    }
}
