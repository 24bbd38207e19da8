//! Small batches of several partitions in one transaction: they share the COMMIT, and nothing else.

use proofs::compare::Accounts;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::wait::wait_until;
use proofs::workload::{Workload, credit};

const PARTITIONS: i32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn small_batches_of_several_partitions_share_transactions() {
    let scene = Scene::new(PARTITIONS).await;
    let mut ingester = scene.ingester_with(&[("BATCHING_DELAY_MS", "0")]);
    let feed = scene.feed(&Workload::new(seed()), 2_000);
    let shared = "SELECT count(*) FROM (
            SELECT FROM ledger.balance_log GROUP BY xmin::text HAVING count(DISTINCT partition_id) > 1
        ) AS shared";
    wait_until("transactions of several partitions", STALL, async || {
        scene.database.count(shared).await > 100
    })
    .await;
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_balance_holds_up_its_own_partition_only() {
    let scene = Scene::new(PARTITIONS).await;
    let send = |partition: i32, round: i64| {
        let event = format!("{partition}-{round}");
        let event = credit(&event, i64::from(partition) + 1, "1");
        scene.kafka().produce(&scene.topic, partition, [event]);
    };
    (0..PARTITIONS).for_each(|partition| send(partition, 0));
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    let other = scene.database.session().await;
    other
        .batch_execute("BEGIN; SELECT FROM ledger.account_balances WHERE account_id = 1 FOR UPDATE")
        .await
        .expect("locked");
    for round in 1..=20 {
        // The locked one first, so that it would be in the others' way.
        (0..PARTITIONS).for_each(|partition| send(partition, round));
        wait_until("the other partitions to go on", STALL, async || {
            let progress = scene.database.progress(&scene.topic).await;
            (1..PARTITIONS).all(|partition| progress[&partition].commit_offset == round + 1)
        })
        .await;
    }
    let progress = scene.database.progress(&scene.topic).await;
    assert_eq!(progress[&0].commit_offset, 1);
    other.batch_execute("ROLLBACK").await.expect("unlocked");
    let report = scene.verify(Accounts::OfOnePartition).await;
    assert_eq!(report.count("APPLIED"), 21 * PARTITIONS as u64);
    ingester.stop().await;
}
