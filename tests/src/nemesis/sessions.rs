//! Sessions and their settings: a long snapshot, another isolation by default, short time-outs.

use super::arena::Arena;
use super::processes::last;
use crate::rng::Rng;

pub async fn long_snapshot(arena: &Arena, rng: &mut Rng) {
    let Some(session) = arena.session().await else {
        return;
    };
    let begin =
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ledger.account_balances";
    if session.batch_execute(begin).await.is_ok() {
        last(rng, 1_000, 15_000).await;
        let _ = session.batch_execute("COMMIT").await;
    }
}

/// For sessions that begin meanwhile; those that are there are ended.
async fn by_default(arena: &Arena, rng: &mut Rng, setting: &str, value: &str) {
    let (database, user) = (&arena.database, &arena.stack.ingester.user);
    let scope = match rng.below(2) {
        0 => format!("DATABASE {database}"),
        _ => format!("ROLE {user} IN DATABASE {database}"),
    };
    arena.say(format!("  {scope}: {setting} = {value}"));
    arena
        .operate(&format!("ALTER {scope} SET {setting} = '{value}'"))
        .await;
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{user}'"
    );
    arena.operate(&end).await;
    last(rng, 1_000, 6_000).await;
    arena
        .operate(&format!("ALTER {scope} RESET {setting}"))
        .await;
    arena.operate(&end).await;
}

pub async fn isolation(arena: &Arena, rng: &mut Rng) {
    let level = *rng.pick(&["repeatable read", "serializable"]);
    by_default(arena, rng, "default_transaction_isolation", level).await;
}

pub async fn timeouts(arena: &Arena, rng: &mut Rng) {
    let setting = *rng.pick(&[
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "transaction_deferrable",
    ]);
    match setting {
        "transaction_deferrable" => {
            by_default(arena, rng, "default_transaction_deferrable", "on").await
        }
        setting => by_default(arena, rng, setting, "30ms").await,
    }
}
