//! After the faults: heal everything, wait until all is drained, and compare it with the reference.

mod families;
mod heal;
mod newcomers;
mod outlets;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Outcome;
use super::arena::Arena;
use crate::compare::{Source, compare_topics};
use crate::database::Database;

/// How long everything may take to drain once all is well again.
const DRAINED: Duration = Duration::from_secs(60);
/// How long what is late may take, so that it can be compared all the same.
const DRAINED_LATE: Duration = Duration::from_secs(600);

pub async fn judge(arena: &Arena, faults: u64) -> Outcome {
    arena.say("healing".to_owned());
    heal::heal(arena).await;
    arena.stop_load().await;
    let began = Instant::now();
    let database = Database::open(&arena.stack, &arena.database).await;
    drain(arena, &database, began).await;
    let drained = began.elapsed();
    arena.say(format!("drained within {:.1} s", drained.as_secs_f64()));

    let deeds = Arc::new(arena.deeds.lock().expect("no panic while held").clone());
    let topics: Vec<_> = arena
        .balances
        .iter()
        .map(|topic| (topic.name.as_str(), topic.count(), topic.accounts))
        .collect();
    let report = compare_topics(Source::Topic, &arena.stack, &database, &topics, &deeds).await;
    for difference in &report.differences {
        arena.finding(difference.clone());
    }
    let domain = families::compare(arena, &database, &deeds).await;
    let newcomers = newcomers::compare(arena, &database).await;
    let told = outlets::compare(arena, &database, &deeds).await;
    for (check, found) in database.run_checks().await {
        if let Some(found) = found {
            arena.finding(format!("{check}: {found}"));
        }
    }
    audit(arena, &database).await;
    logs(arena).await;
    let summary = format!(
        "{} balance records {:?}; {domain} domain records, {newcomers} of new types; {told}; {} letters and {} corrections by hand",
        report.records,
        report.verdicts,
        deeds.letters.len(),
        deeds.corrections.len()
    );
    Outcome {
        faults,
        records: report.records + domain + newcomers,
        drained,
        findings: arena.findings(),
        summary,
    }
}

/// Until every record is committed, every letter that can be applied is, and everybody was told of it.
async fn drain(arena: &Arena, database: &Database, began: Instant) {
    let mut is_replayed = false;
    let mut is_late = false;
    while began.elapsed() < DRAINED_LATE {
        let mut undone = uncommitted(arena, database).await;
        if undone.is_empty() && !is_replayed {
            is_replayed = families::replay(arena, database).await;
        }
        if undone.is_empty() && is_replayed {
            undone = untold(database).await;
            if undone.is_empty() {
                return;
            }
        }
        if began.elapsed() > DRAINED && !is_late {
            is_late = true;
            late(arena, &undone).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    arena.finding(format!("not drained within {DRAINED_LATE:?} either"));
}

/// Says what is missing, and what the ingesters said last.
async fn late(arena: &Arena, undone: &str) {
    arena.finding(format!("not drained within {DRAINED:?}: {undone}"));
    for member in &arena.members {
        let member = member.lock().await;
        let log = member.ingester.log();
        let told = log.lines().rev().filter(|line| !line.contains(" DEBUG "));
        let told: Vec<&str> = told.take(15).collect();
        let told = told.into_iter().rev().collect::<Vec<_>>().join("\n");
        arena.say(format!("--- {} ---\n{told}", member.ingester.service_id));
    }
}

/// Partitions that are not committed to their end.
async fn uncommitted(arena: &Arena, database: &Database) -> String {
    let mut behind = Vec::new();
    for (topic, partitions) in arena.topics() {
        let progress = database.progress(&topic).await;
        let ends = arena.stack.kafka.ends(&topic, partitions);
        for (partition, end) in (0..partitions).zip(ends) {
            let committed = progress.get(&partition);
            let committed = committed.map_or(0, |progress| progress.commit_offset);
            if committed != end {
                behind.push(format!(
                    "{topic}/{partition} is committed to {committed} of {end}"
                ));
            }
        }
    }
    behind.join(", ")
}

/// What is still to be produced.
async fn untold(database: &Database) -> String {
    let mut untold = Vec::new();
    for (what, query) in [
        (
            "dead letters not published",
            "SELECT count(*) FROM ledger.dead_letters WHERE published_at IS NULL AND status IN ('PARKED', 'DISCARDED')",
        ),
        (
            "partitions with results not told",
            "SELECT count(*) FROM sluice.partitions_with_results() WHERE topic <> 'manual corrections'",
        ),
    ] {
        let count = database.count(query).await;
        if count > 0 {
            untold.push(format!("{count} {what}"));
        }
    }
    untold.join(", ")
}

async fn audit(arena: &Arena, database: &Database) {
    let differing = database
        .count("SELECT count(*) FROM sluice.verify_balances()")
        .await;
    if differing > 0 {
        arena.finding(format!("verify_balances: {differing} balances differ"));
    }
    for (topic, _) in arena.topics() {
        let gaps = format!(
            "SELECT count(*) FROM ledger.partition_leases l, sluice.offset_gaps(l.topic, l.partition) WHERE l.topic = '{topic}'"
        );
        let gaps = database.count(&gaps).await;
        if gaps > 0 {
            arena.finding(format!("offset_gaps: {gaps} in {topic}"));
        }
    }
}

/// Lines that no fault excuses.
async fn logs(arena: &Arena) {
    for member in &arena.members {
        let member = member.lock().await;
        let log = member.ingester.log();
        for line in log
            .lines()
            .filter(|line| line.contains("panicked at") || line.contains("of our own failed"))
        {
            arena.finding(format!("{} logged: {line}", member.ingester.service_id));
        }
        let (status, health) = member.ingester.get("/readyz").await;
        if status != 200 {
            arena.finding(format!(
                "{} is not ready: {status} {health}",
                member.ingester.service_id
            ));
        }
    }
}
