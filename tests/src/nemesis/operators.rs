//! What operators do: pause, step down, prune, correct.

use super::arena::Arena;
use super::processes::last;
use crate::compare::Accounts;
use crate::deeds::Correction;
use crate::event::Account;
use crate::reference::parse_numeric;
use crate::rng::Rng;

/// Offsets behind the committed one that no prune touches: an id may come again so much later.
const KEPT: i64 = 1_000;

fn partition(arena: &Arena, rng: &mut Rng) -> (String, i32) {
    let topics = arena.topics();
    let (topic, partitions) = rng.pick(&topics).clone();
    (topic, rng.below(partitions as u64) as i32)
}

pub async fn pause(arena: &Arena, rng: &mut Rng) {
    let (topic, partition) = partition(arena, rng);
    arena.say(format!("  {topic}/{partition} paused"));
    arena
        .operate(&format!(
            "SELECT sluice.pause_partition('{topic}', {partition}, 'nemesis')"
        ))
        .await;
    last(rng, 200, 4_000).await;
    arena
        .operate(&format!(
            "SELECT sluice.resume_partition('{topic}', {partition})"
        ))
        .await;
}

pub async fn step_down(arena: &Arena, rng: &mut Rng) {
    let (topic, partition) = partition(arena, rng);
    arena
        .operate(&format!("SELECT sluice.step_down('{topic}', {partition})"))
        .await;
}

/// Only where no id comes again long after it came first: what is pruned is forgotten.
pub async fn prune(arena: &Arena, rng: &mut Rng) {
    let topics = arena.balances.iter();
    let mut forgetting = topics.filter(|topic| topic.accounts == Accounts::OfOnePartition);
    let topic = forgetting.next().expect("a topic with accounts of its own");
    let (name, partition) = (&topic.name, rng.below(topic.count() as u64));
    let chunk = rng.between(20, 2_000);
    let statement = format!(
        "SELECT sluice.prune('{name}', {partition}, greatest(p.commit_offset - {KEPT}, 0), interval '0', {chunk}, false)
         FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
         WHERE l.topic = '{name}' AND l.partition = {partition}"
    );
    for _ in 0..rng.between(1, 4) {
        arena.operate(&statement).await;
    }
}

pub async fn correct(arena: &Arena, rng: &mut Rng) {
    for _ in 0..rng.between(1, 5) {
        let (account, amount) = (arena.account(), format!("{}.25", rng.between(1, 900)));
        let dry_run = rng.chance(200);
        let statement = format!(
            r#"SELECT sluice.apply_balance_changes('[{{"accountId": {account}, "currencyCode": "USD", "availableDelta": "{amount}"}}]', 'nemesis', {dry_run})"#
        );
        let answer = arena.operate(&statement).await;
        if !dry_run {
            let correction = Correction {
                account: Account::new(account, 0, "USD").expect("a currency code"),
                available: parse_numeric(&amount).expect("an amount"),
                answer,
            };
            arena
                .deeds
                .lock()
                .expect("no panic while held")
                .corrections
                .push(correction);
        }
    }
}
