//! Faults of processes, connections and services under load: afterwards every record has exactly one verdict, and the
//! ledger equals the reference.

use std::time::Duration;

use proofs::compare::Accounts;
use proofs::proxy::Proxy;
use proofs::rng::{Rng, seed};
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::wait::wait_until;
use proofs::watch::led_by;
use proofs::workload::Workload;

/// Small batches, so that a fault finds the protocol in every one of its steps.
const SMALL_BATCHES: &[(&str, &str)] = &[("BATCH_SIZE", "150"), ("BATCHING_DELAY_MS", "2")];

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_of_the_leader_at_random_moments_change_nothing() {
    const KILLS: i64 = 20;
    let seed = seed();
    let mut rng = Rng::new(seed);
    let scene = Scene::new(4).await;
    let feed = scene.feed(&Workload::new(seed), 4_000);
    let mut instances = [
        scene.ingester_with(SMALL_BATCHES),
        scene.ingester_with(SMALL_BATCHES),
    ];
    for _ in 0..KILLS {
        let committed = scene.committed().await;
        scene
            .committed_beyond(committed + rng.between(50, 1_500) as i64)
            .await;
        tokio::time::sleep(Duration::from_micros(rng.below(30_000))).await; // a random moment, not a wait
        let first = led_by(&scene.database, &scene.topic, &instances[0].service_id)
            .await
            .len();
        let second = led_by(&scene.database, &scene.topic, &instances[1].service_id)
            .await
            .len();
        let victim =
            &mut instances[usize::from(second > first || (second == first && rng.chance(500)))];
        victim.kill9();
        victim.start_again();
    }
    feed.stop().await;
    let report = scene.verify(Accounts::OfOnePartition).await;
    assert_mixed(&report);
    println!("{KILLS} kills, {} records, 0 differences", report.records);
    for instance in &mut instances {
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_backends_are_replaced_and_nothing_is_lost() {
    let seed = seed();
    let mut rng = Rng::new(seed);
    let scene = Scene::new(4).await;
    let feed = scene.feed(&Workload::new(seed), 4_000);
    let mut ingester = scene.ingester_with(SMALL_BATCHES);
    let mut terminated = 0;
    while terminated < 30 {
        let committed = scene.committed().await;
        scene
            .committed_beyond(committed + rng.between(10, 400) as i64)
            .await;
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM (
            SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = 'sluice_ingester' ORDER BY random() LIMIT 1) one";
        terminated += scene.database.count(kill).await;
    }
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_stopped_in_immediate_mode_recovers_and_the_ingester_goes_on() {
    let seed = seed();
    let mut scene = Scene::new(4).await;
    let feed = scene.feed(&Workload::new(seed), 4_000);
    let mut ingester = scene.ingester_with(SMALL_BATCHES);
    for _ in 0..2 {
        let committed = scene.committed().await;
        scene.committed_beyond(committed + 3_000).await;
        scene.stack.control(&["postgres-stop", "immediate"]).await;
        scene.stack.control(&["postgres-start"]).await;
        scene.database.reconnect().await;
    }
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    assert_eq!(
        scene
            .database
            .count("SELECT count(*) FROM ledger.dead_letters WHERE error_code = 'APPLY_FAILED'")
            .await,
        0
    );
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_commit_is_asked_for_again_and_never_applied_twice() {
    let seed = seed();
    let scene = Scene::new(2).await;
    let proxy = Proxy::start(scene.stack.postgres_port).await;
    let feed = scene.feed(&Workload::new(seed), 2_000);
    let url = scene.database.url_through(&scene.stack, proxy.port);
    let mut ingester =
        scene.ingester_with(&[&[("DATABASE_URL", url.as_str())], SMALL_BATCHES].concat());
    for round in 1..=10 {
        proxy.cut_commit_answers(2);
        wait_until("answers to be cut", STALL, async || {
            proxy.cuts() == round * 2
        })
        .await;
        let commits = proxy.commits();
        wait_until("commits after the cut", STALL, async || {
            proxy.commits() > commits + 3
        })
        .await;
    }
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    // A batch whose answer was lost is in the metrics like any other.
    let committed = scene.committed().await;
    wait_until("each record to be counted once", STALL, async || {
        let (_, scrape) = ingester.get("/metrics").await;
        let counts = scrape
            .lines()
            .filter(|line| line.starts_with("sluice_records_total{"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<i64>().ok());
        counts.sum::<i64>() == committed
    })
    .await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_kafka_broker_comes_back_and_reading_goes_on() {
    let seed = seed();
    let scene = Scene::new(4).await;
    let feed = scene.feed(&Workload::new(seed), 1_000);
    let mut ingester = scene.ingester_with(SMALL_BATCHES);
    scene.committed_beyond(3_000).await;
    scene.stack.control(&["kafka-kill"]).await;
    scene.stack.control(&["kafka-start"]).await;
    let sent = feed.sent();
    wait_until("the load to go on", STALL, async || {
        feed.sent() > sent + 1_000
    })
    .await;
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_postgres_dead_letters_nothing() {
    let seed = seed();
    let mut scene = Scene::new(2).await;
    // Far fewer and faster attempts than the outage is long: were they counted, records would die of it.
    let mut ingester = scene.ingester_with(&[
        ("MAX_RETRY_ATTEMPTS", "1"),
        ("RETRY_DELAY_MS", "10"),
        ("BATCH_SIZE", "100"),
    ]);
    scene.fill(&Workload::new(seed), 2_000).await;
    scene.committed_beyond(0).await;
    scene.stack.control(&["postgres-stop", "fast"]).await;
    scene.fill(&Workload::new(seed + 1), 2_000).await;
    ingester.logs("WARN", Duration::from_secs(10)).await;
    scene.stack.control(&["postgres-start"]).await;
    scene.database.reconnect().await;
    // The second workload repeats ids of the first one: more duplicates and conflicts.
    let report = scene.verify(Accounts::OfOnePartition).await;
    assert_mixed(&report);
    assert_eq!(report.count("DEAD APPLY_FAILED"), 0);
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_breaks_the_apply_dies_alone() {
    use proofs::workload::credit;
    let scene = Scene::new(1).await;
    // An owner's own constraint, which the ledger's rules know nothing of.
    let forbid =
        "ALTER TABLE ledger.account_balances ADD CONSTRAINT house_rule CHECK (account_id <> 666)";
    scene
        .database
        .client
        .batch_execute(forbid)
        .await
        .expect("owners may add constraints");
    let message = |number: i64| {
        credit(
            &format!("e{number}"),
            if number % 100 == 50 { 666 } else { number % 7 },
            "1",
        )
    };
    scene
        .kafka()
        .produce(&scene.topic, 0, (0..400).map(message));
    let mut ingester =
        scene.ingester_with(&[("MAX_RETRY_ATTEMPTS", "2"), ("RETRY_DELAY_MS", "10")]);
    scene.caught_up().await;
    scene.verify_invariants().await;
    let buried = "SELECT count(*) FROM ledger.dead_letters WHERE error_code = 'APPLY_FAILED' AND kafka_offset % 100 = 50
        AND attempts = 2 AND convert_from(payload, 'UTF8') LIKE '%666%'";
    assert_eq!(scene.database.count(buried).await, 4);
    assert_eq!(
        scene
            .database
            .count("SELECT count(*) FROM ledger.event_verdicts WHERE verdict = 'APPLIED'")
            .await,
        396
    );
    assert_eq!(
        scene
            .database
            .count("SELECT count(*) FROM ledger.event_verdicts WHERE verdict = 'DEAD'")
            .await,
        4
    );
    ingester.stop().await;
}
