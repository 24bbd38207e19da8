//! Several partitions that change the same accounts at the same time.

use proofs::compare::Accounts;
use proofs::rng::seed;
use proofs::scene::{Scene, assert_mixed};
use proofs::workload::{Workload, credit};

#[tokio::test(flavor = "multi_thread")]
async fn partitions_on_the_same_hot_accounts_lose_no_update_and_never_deadlock() {
    let seed = seed();
    let scene = Scene::new(4).await;
    scene
        .fill(&Workload::shared_by_partitions(seed, 12), 40_000)
        .await;
    let settings = [("BATCH_SIZE", "200"), ("BATCHING_DELAY_MS", "0")];
    let mut instances = [
        scene.ingester_with(&settings),
        scene.ingester_with(&settings),
    ];
    assert_mixed(&scene.verify(Accounts::Shared).await);
    assert_eq!(deadlocks(&scene).await, 0);
    for instance in &mut instances {
        let log = instance.log().to_lowercase();
        assert!(
            !log.contains("deadlock") && !log.contains("40p01"),
            "a deadlock surfaced:\n{}",
            instance.log_tail()
        );
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_opened_by_two_partitions_at_once_are_opened_once() {
    let scene = Scene::new(4).await;
    let settings = [("BATCH_SIZE", "500"), ("BATCHING_DELAY_MS", "0")];
    for partition in 0..4 {
        // All partitions open the same accounts in opposite orders.
        let account = |number: i64| {
            if partition % 2 == 0 {
                number
            } else {
                4_999 - number
            }
        };
        let credits =
            (0..5_000).map(|number| credit(&format!("{partition}-{number}"), account(number), "1"));
        scene.kafka().produce(&scene.topic, partition, credits);
    }
    let mut instances = [
        scene.ingester_with(&settings),
        scene.ingester_with(&settings),
    ];
    let report = scene.verify(Accounts::Shared).await;
    assert_eq!((report.count("APPLIED"), report.accounts), (20_000, 5_000));
    assert_eq!(deadlocks(&scene).await, 0);
    for instance in &mut instances {
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_on_several_partitions_is_applied_by_one() {
    let scene = Scene::new(4).await;
    for partition in 0..4i64 {
        let events = (0..3_000i64).map(|number| {
            // Every third event differs in its bytes from partition to partition.
            let amount = if number % 3 == 0 { partition + 1 } else { 1 };
            let order = (number * 7 + partition * 13) % 3_000;
            credit(
                &format!("event {order}"),
                order % 50,
                &if order % 3 == 0 {
                    amount.to_string()
                } else {
                    "1".into()
                },
            )
        });
        scene
            .kafka()
            .produce(&scene.topic, partition as i32, events);
    }
    let settings = [("BATCH_SIZE", "300"), ("BATCHING_DELAY_MS", "0")];
    let mut instances = [
        scene.ingester_with(&settings),
        scene.ingester_with(&settings),
    ];
    scene.caught_up().await;
    scene.verify_invariants().await;
    let owners = "SELECT count(*) FROM (SELECT event_id FROM ledger.event_verdicts GROUP BY event_id
        HAVING count(*) = 4 AND count(*) FILTER (WHERE verdict = 'APPLIED') = 1
            AND count(*) FILTER (WHERE verdict = 'APPLIED' OR verdict = 'DUPLICATE' OR reason = 'EVENT_ID_CONFLICT') = 4) one";
    assert_eq!(scene.database.count(owners).await, 3_000);
    assert_eq!(
        scene
            .database
            .count("SELECT count(*) FROM ledger.event_identities")
            .await,
        3_000
    );
    assert_eq!(deadlocks(&scene).await, 0);
    for instance in &mut instances {
        instance.stop().await;
    }
}

async fn deadlocks(scene: &Scene) -> i64 {
    scene
        .database
        .count("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        .await
}
