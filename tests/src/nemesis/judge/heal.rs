//! All is well again: nothing that a fault did outlives this.

use rustix::process::{Pid, Signal, kill_process};

use super::super::arena::Arena;
use super::super::handlers;
use super::super::servers;
use crate::deeds::Answer;

pub async fn heal(arena: &Arena) {
    {
        let _services = arena.services.lock().await;
        for service in ["kafka", "redis"] {
            if let Some(pid) = servers::process(arena, service) {
                let _ = kill_process(pid, Signal::CONT);
            }
        }
        go_on(arena).await;
        for start in ["postgres-start", "kafka-start", "redis-start"] {
            arena.stack.control(&[start]).await;
        }
        servers::answers_again(arena).await;
        go_on(arena).await;
    }
    for member in &arena.members {
        let mut member = member.lock().await;
        member.proxy.pass_on();
        member.proxy.delay(0);
        member.proxy.cut_commit_answers(0);
        if member.ingester.has_ended() {
            member.ingester.start_again();
        } else {
            member.ingester.unfreeze();
        }
    }
    database(arena).await;
}

/// Backends that a fault has frozen.
async fn go_on(arena: &Arena) {
    let Some(session) = arena.session().await else {
        return;
    };
    let query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()";
    for row in session.query(query, &[]).await.unwrap_or_default() {
        if let Some(pid) = Pid::from_raw(row.get(0)) {
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}

async fn database(arena: &Arena) {
    let (database, user) = (&arena.database, &arena.stack.ingester.user);
    for statement in [
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name = 'nemesis' AND datname = current_database() AND pid <> pg_backend_pid()",
        &format!("ALTER DATABASE {database} RESET ALL"),
        &format!("ALTER ROLE {user} IN DATABASE {database} RESET ALL"),
        &format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{user}'"),
        "SELECT sluice.resume_partition(l.topic, l.partition) FROM ledger.partition_leases l",
    ] {
        arena.operate(statement).await;
    }
    for family in &arena.families {
        handlers::restore(arena, &family.name).await;
    }
    for newcomer in arena.newcomers() {
        if newcomer.register(arena).await != Answer::Done {
            arena.finding(format!("{} cannot be registered", newcomer.topic));
        }
    }
}
