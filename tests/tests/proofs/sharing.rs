//! Which instance leads which partition: even shares, joins, leaves, deaths, and partitions that are added.

use std::time::Duration;

use proofs::compare::{Accounts, compare};
use proofs::load::fill;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::wait::{holds_for, wait_until};
use proofs::watch::settled;
use proofs::workload::{Workload, credit};

/// The contract's promise.
const SETTLED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_partitions_evenly_within_ten_seconds_of_a_join_or_a_leave() {
    let seed = seed();
    let scene = Scene::new(8).await;
    let feed = scene.feed(&Workload::new(seed), 2_000);
    let share = async |instances: &[&str], what: &str| {
        let took = settled(&scene.database, &scene.topic, 8, instances, SETTLED).await;
        println!("{what}: settled after {took:?}");
    };
    let mut a = scene.ingester();
    share(&[&a.service_id], "one starts").await;
    let mut b = scene.ingester();
    share(&[&a.service_id, &b.service_id], "a second joins").await;
    let mut c = scene.ingester();
    share(
        &[&a.service_id, &b.service_id, &c.service_id],
        "a third joins",
    )
    .await;
    a.stop().await;
    share(&[&b.service_id, &c.service_id], "the first leaves").await;
    b.kill9();
    share(&[&c.service_id], "the second is killed").await;
    b.start_again();
    share(&[&b.service_id, &c.service_id], "the second comes back").await;
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    b.stop().await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_share_stays_as_it_is() {
    let scene = Scene::new(5).await;
    let mut instances = [scene.ingester(), scene.ingester(), scene.ingester()];
    let names = instances
        .each_ref()
        .map(|instance| instance.service_id.clone());
    settled(
        &scene.database,
        &scene.topic,
        5,
        &names.each_ref().map(String::as_str),
        SETTLED,
    )
    .await;
    let before = scene.database.progress(&scene.topic).await;
    holds_for(
        "no partition changes hands",
        Duration::from_secs(4),
        async || {
            let now = scene.database.progress(&scene.topic).await;
            now.iter()
                .all(|(partition, now)| now.fencing_token == before[partition].fencing_token)
        },
    )
    .await;
    for instance in &mut instances {
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_added_to_a_topic_is_found_and_read() {
    let seed = seed();
    let scene = Scene::new(2).await;
    let mut instances = [scene.ingester(), scene.ingester()];
    scene.fill(&Workload::new(seed), 2_000).await;
    scene.caught_up().await;
    scene.kafka().grow_topic(&scene.topic, 4).await;
    wait_until("Kafka to know the new partitions", STALL, async || {
        scene.kafka().partitions(&scene.topic) == 4
    })
    .await;
    // Partitions 0 and 1 get the same messages once more: the new ones come beside a run of duplicates.
    fill(scene.kafka(), &scene.topic, 4, &Workload::new(seed), 8_000);
    scene
        .database
        .caught_up(scene.kafka(), &scene.topic, 4, STALL)
        .await;
    let report = compare(
        &scene.stack,
        &scene.database,
        &scene.topic,
        4,
        Accounts::OfOnePartition,
    )
    .await;
    report.assert_none();
    assert_mixed(&report);
    scene.verify_invariants().await;
    let names = instances
        .each_ref()
        .map(|instance| instance.service_id.clone());
    settled(
        &scene.database,
        &scene.topic,
        4,
        &names.each_ref().map(String::as_str),
        SETTLED,
    )
    .await;
    for instance in &mut instances {
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_hands_over_at_once_and_loses_nothing() {
    let seed = seed();
    let scene = Scene::new(4).await;
    let feed = scene.feed(&Workload::new(seed), 2_000);
    let mut instances = [scene.ingester(), scene.ingester()];
    for round in 0..4 {
        let names = instances
            .each_ref()
            .map(|instance| instance.service_id.clone());
        settled(
            &scene.database,
            &scene.topic,
            4,
            &names.each_ref().map(String::as_str),
            Duration::from_secs(15),
        )
        .await;
        let leaving = &mut instances[round % 2];
        leaving.terminate();
        let took = settled(
            &scene.database,
            &scene.topic,
            4,
            &[&names[(round + 1) % 2]],
            SETTLED,
        )
        .await;
        println!("all partitions handed over {took:?} after SIGTERM");
        assert!(leaving.ended(Duration::from_secs(5)).await.success());
        leaving.start_again();
    }
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    for instance in &mut instances {
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_of_one_name_do_not_write_against_each_other() {
    let scene = Scene::new(2).await;
    let mut first = scene.ingester_with(&[("SERVICE_ID", "twin")]);
    scene.kafka().produce(
        &scene.topic,
        0,
        (0..10).map(|number| credit(&format!("a{number}"), 1, "1")),
    );
    scene.committed_beyond(9).await;
    let mut second = scene.ingester_with(&[("SERVICE_ID", "twin")]);
    second.logs("SERVICE_ID", Duration::from_secs(15)).await;
    scene.kafka().produce(
        &scene.topic,
        1,
        (0..10).map(|number| credit(&format!("b{number}"), 2, "1")),
    );
    scene.verify(Accounts::OfOnePartition).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_nothing_is_asked_of_are_ended() {
    let scene = Scene::new(8).await;
    let mut ingester = scene.ingester();
    let sessions = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sluice/{}'",
        ingester.service_id
    );
    // Three for leases and watcher, and one of the pool for each partition.
    wait_until("sessions for the first batches", STALL, async || {
        scene.database.count(&sessions).await > 8
    })
    .await;
    wait_until("the idle ones to end", STALL, async || {
        scene.database.count(&sessions).await <= 5
    })
    .await;
    let event = credit("after a rest", 1, "1");
    scene.kafka().produce(&scene.topic, 0, [event]);
    scene.caught_up().await;
    ingester.stop().await;
}
