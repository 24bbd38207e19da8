//! Answers that never come, while the connection stays open and its other end acknowledges every packet: the request is
//! repeated within seconds, and no other one waits for it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proofs::compare::Accounts;
use proofs::ingester::Ingester;
use proofs::proxy::{Lost, Proxy};
use proofs::rng::seed;
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::stack::{command_of, sluice};
use proofs::wait::wait_until;
use proofs::watch::{led_knowingly, settled, takeovers};
use proofs::workload::{Workload, credit};

/// How long an answer that never comes may hold up one partition.
const BOUND: Duration = Duration::from_secs(10);
const GIVEN_UP: &str = "PostgreSQL did not answer";

/// An instance whose sessions go by way of a proxy.
async fn through(scene: &Scene, settings: &[(&str, &str)]) -> (Proxy, Ingester) {
    let proxy = Proxy::start(scene.stack.postgres_port).await;
    let url = scene.database.url_through(&scene.stack, proxy.port);
    let settings = [&[("DATABASE_URL", url.as_str())], settings].concat();
    let ingester = scene.ingester_with(&settings);
    (proxy, ingester)
}

/// The longest time for which each partition stood still, over `time`. Needs load on all of them.
async fn standstills(scene: &Scene, time: Duration) -> BTreeMap<i32, Duration> {
    let began = Instant::now();
    let mut last: BTreeMap<i32, (i64, Instant)> = BTreeMap::new();
    let mut longest = BTreeMap::new();
    while began.elapsed() < time {
        for (partition, now) in scene.database.progress(&scene.topic).await {
            let (offset, since) = last.entry(partition).or_insert((-1, began));
            let stood = longest.entry(partition).or_insert(Duration::ZERO);
            *stood = since.elapsed().max(*stood);
            if now.commit_offset > *offset {
                (*offset, *since) = (now.commit_offset, Instant::now());
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    longest
}

/// Loses answers of batches that the settings make large or small, and what was sent, in turn.
async fn batches_lose(settings: &[(&str, &str)], rate: u64) {
    const PARTITIONS: i32 = 4;
    let scene = Scene::new(PARTITIONS).await;
    let (proxy, mut ingester) = through(&scene, settings).await;
    let feed = scene.feed(&Workload::new(seed()), rate);
    scene.committed_beyond(500).await;
    let before = scene.database.progress(&scene.topic).await;
    for (text, lost) in [
        ("sluice.apply_balance_batch", Lost::Answers),
        ("sluice.apply_balance_batch", Lost::Everything),
        ("COMMIT", Lost::Answers),
        ("COMMIT", Lost::Everything),
    ] {
        let losses = proxy.losses();
        proxy.lose(text, lost);
        let stood = standstills(&scene, BOUND).await;
        println!("{text} loses {lost:?}: stood still for {stood:?}");
        assert_eq!(proxy.losses(), losses + 1, "nothing was lost");
        assert_eq!(stood.len(), PARTITIONS as usize);
        assert!(stood.values().all(|time| *time < BOUND), "{stood:?}");
    }
    let after = scene.database.progress(&scene.topic).await;
    for (partition, before) in &before {
        assert_eq!(after[partition].fencing_token, before.fencing_token);
    }
    assert!(ingester.log().contains(GIVEN_UP), "no line says so");
    let (_, metrics) = ingester.get("/metrics").await;
    assert!(
        metrics.contains("sluice_database_silences_total 4"),
        "{metrics}"
    );
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_answer_never_comes_is_given_up_and_asked_for_again() {
    // Of more than 32 KiB: each has a transaction of its own.
    batches_lose(&[("BATCHING_DELAY_MS", "1000")], 2_400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_share_a_transaction_whose_answer_never_comes_go_on_alone() {
    batches_lose(&[], 400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_without_an_answer_holds_up_no_other() {
    let scene = Scene::new(3).await;
    // Too large for company.
    let (proxy, mut ingester) = through(&scene, &[("BATCHING_DELAY_MS", "1000")]).await;
    let feed = scene.feed(&Workload::new(seed()), 3_000);
    scene.committed_beyond(500).await;
    proxy.lose("COPY", Lost::Everything);
    let mut stood: Vec<_> = standstills(&scene, BOUND).await.into_values().collect();
    stood.sort();
    println!("stood still for {stood:?}");
    assert_eq!(proxy.losses(), 1);
    assert!(stood[2] < BOUND, "{stood:?}");
    assert!(
        stood[1] < Duration::from_secs(2),
        "another one waited: {stood:?}"
    );
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_slow_or_waits_for_a_lock_is_not_given_up() {
    let scene = Scene::new(2).await;
    let mut ingester = scene.ingester();
    scene.fill(&Workload::new(seed()), 500).await;
    scene.caught_up().await;
    let before = scene.database.progress(&scene.topic).await;
    let committed = scene.committed().await;

    let locker = scene.database.session().await;
    locker
        .batch_execute("BEGIN; SELECT FROM ledger.account_balances ORDER BY account_id, shard_id, currency_code FOR UPDATE")
        .await
        .expect("rows can be locked");
    let pid: i32 = locker
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .expect("a pid")
        .get(0);
    scene.fill(&Workload::new(seed() + 1), 500).await;
    // Who holds it up is told, and after much longer than any silence it still is not given up.
    let holder = format!("a lock of process {pid} of");
    ingester.logs(&holder, STALL).await;
    wait_until("/health to name the holder", STALL, async || {
        ingester.get("/health").await.1.contains(&holder)
    })
    .await;
    locker.batch_execute("ROLLBACK").await.expect("given back");
    scene.caught_up().await;

    let client = &scene.database.client;
    client
        .batch_execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(8); RETURN NULL; END';
             CREATE TRIGGER slow AFTER INSERT OR UPDATE ON ledger.account_balances FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        )
        .await
        .expect("an owner may");
    scene.kafka().produce(
        &scene.topic,
        0,
        (0..10).map(|n| credit(&format!("slow-{n}"), 1, "1")),
    );
    scene.caught_up().await;
    client
        .batch_execute("DROP FUNCTION slow() CASCADE")
        .await
        .expect("undone");

    assert!(scene.committed().await > committed + 500);
    let after = scene.database.progress(&scene.topic).await;
    for (partition, before) in &before {
        assert_eq!(after[partition].fencing_token, before.fencing_token);
    }
    assert!(
        !ingester.log().contains(GIVEN_UP),
        "{}",
        ingester.log_tail()
    );
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_successor_of_a_leader_that_no_answer_reaches_commits_a_second_after_its_lease() {
    const LEASE: Duration = Duration::from_millis(3_000);
    const LOST: &str = "leadership lost";
    let scene = Scene::new(2).await;
    let (proxy, mut leader) = through(&scene, &[]).await;
    let mut successor = scene.ingester();
    let feed = scene.feed(&Workload::new(seed()), 2_000);
    let names = [leader.service_id.clone(), successor.service_id.clone()];
    let names = names.each_ref().map(String::as_str);
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        settled(&scene.database, &scene.topic, 2, &names, STALL).await;
        let led = led_knowingly(&scene.database, &scene.topic, &leader).await;
        let lost = leader.log().matches(LOST).count() + led.len();
        proxy.swallow();
        let (database, topic) = (&scene.database, &scene.topic);
        let took = takeovers(database, topic, &led, Instant::now(), STALL).await;
        println!("no answer for the leader: successor committed after {took:?}");
        let last = took.iter().map(|took| took.after).max();
        quickest = quickest.min(last.expect("one partition at least"));
        leader.logs_times(lost, LOST, STALL).await;
        proxy.pass_on();
    }
    // Other tests may keep the machine busy during one of them.
    assert!(quickest < LEASE + Duration::from_secs(1), "{quickest:?}");
    settled(&scene.database, &scene.topic, 2, &names, STALL).await;
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    leader.stop().await;
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_outlast_a_renewal_whose_answer_never_comes() {
    let scene = Scene::new(2).await;
    let (proxy, mut leader) = through(&scene, &[]).await;
    let feed = scene.feed(&Workload::new(seed()), 1_000);
    scene.committed_beyond(200).await;
    // Somebody who would take them.
    let mut standby = scene.ingester();
    let names = [leader.service_id.clone(), standby.service_id.clone()];
    settled(
        &scene.database,
        &scene.topic,
        2,
        &names.each_ref().map(String::as_str),
        STALL,
    )
    .await;
    let before = scene.database.progress(&scene.topic).await;
    for lost in [Lost::Answers, Lost::Everything] {
        proxy.lose("sluice.renew_partition_lock", lost);
        let stood = standstills(&scene, BOUND).await;
        assert!(
            stood.values().all(|time| *time < Duration::from_secs(3)),
            "{stood:?}"
        );
    }
    assert_eq!(proxy.losses(), 2);
    let after = scene.database.progress(&scene.topic).await;
    for (partition, before) in &before {
        assert_eq!(
            after[partition].fencing_token, before.fencing_token,
            "lost its lease"
        );
    }
    feed.stop().await;
    scene.verify(Accounts::OfOnePartition).await;
    leader.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_for_leadership_is_asked_again_when_no_answer_comes() {
    let scene = Scene::new(2).await;
    scene.fill(&Workload::new(seed()), 200).await;
    for text in [
        "SET search_path",
        "pg_postmaster_start_time",
        "LISTEN",
        "sluice.heartbeat",
        "sluice.acquire_partition_lock",
        "sluice.report_partitions",
        "ledger.event_handlers",
        "INSERT INTO ledger.staging",
    ] {
        let proxy = Proxy::start(scene.stack.postgres_port).await;
        let url = scene.database.url_through(&scene.stack, proxy.port);
        proxy.lose(text, Lost::Answers);
        let mut ingester =
            scene.ingester_with(&[("DATABASE_URL", &url), ("DB_CONNECTION_TIMEOUT", "2000")]);
        let credits = (0..20).map(|n| credit(&format!("{text}-{n}"), 1, "1"));
        scene.kafka().produce(&scene.topic, 0, credits);
        let what = format!("{text} to be lost");
        wait_until(&what, STALL, async || proxy.losses() == 1).await;
        let lost = Instant::now();
        scene.caught_up().await;
        println!(
            "{text}: caught up {:?} after its answer was lost",
            lost.elapsed()
        );
        assert!(lost.elapsed() < BOUND, "{text}: {:?}", lost.elapsed());
        // And at the end: the release is not waited for long either.
        proxy.lose("sluice.release_partition_lock", Lost::Answers);
        ingester.stop().await;
    }
    scene.verify_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_and_results_outlast_an_answer_that_never_comes() {
    for text in [
        "sluice.partitions_to_care_for",
        "sluice.retry_dead_letters",
        "sluice.unpublished_dead_letters",
        "sluice.mark_published",
        "sluice.partitions_with_results",
        "sluice.unsent_results",
        "sluice.mark_results",
        "sluice.parked_dead_letters",
    ] {
        let scene = Scene::new(1).await;
        let letters = format!("{}-dlq", scene.topic);
        let results = format!("{}-results", scene.topic);
        for topic in [&letters, &results] {
            scene.kafka().create_topic(topic, 1, &[]).await;
        }
        let settings = [("DLQ_TOPIC", letters.as_str()), ("RESULTS_TOPIC", &results)];
        let (proxy, mut ingester) = through(&scene, &settings).await;
        proxy.lose(text, Lost::Answers);
        let mut sent: Vec<_> = (0..20).map(|n| credit(&format!("e{n}"), 1, "1")).collect();
        sent.push(proofs::workload::Message::of("{"));
        scene.kafka().produce(&scene.topic, 0, sent);
        let what = format!("{text} to be lost");
        wait_until(&what, STALL, async || proxy.losses() == 1).await;
        let lost = Instant::now();
        let unpublished = "SELECT count(*) FROM ledger.dead_letters WHERE published_at IS NULL";
        let published = "SELECT count(*) FROM ledger.dead_letters WHERE published_at IS NOT NULL";
        wait_until("letters and results to be told", STALL, async || {
            scene.database.count(unpublished).await == 0
                && scene.database.count(published).await == 1
                && scene.kafka().ends(&results, 1)[0] >= 21
                && ingester.get("/health").await.1.contains("\"parked\": 1")
        })
        .await;
        println!(
            "{text}: told {:?} after its answer was lost",
            lost.elapsed()
        );
        // Some are looked at every ten seconds only.
        assert!(lost.elapsed() < 2 * BOUND, "{text}: {:?}", lost.elapsed());
        ingester.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_tells_that_postgres_does_not_answer_and_goes_on_when_it_does() {
    let scene = Scene::new(1).await;
    let (proxy, mut ingester) = through(&scene, &[]).await;
    scene.fill(&Workload::new(seed()), 50).await;
    scene.caught_up().await;
    let state = async || -> serde_json::Value {
        let asked = Instant::now();
        let (status, body) = ingester.get("/api/state").await;
        assert!(asked.elapsed() < Duration::from_secs(2), "{status}");
        // Who asks this often is told to wait.
        match status {
            429 => serde_json::Value::Null,
            _ => body.parse().expect("JSON"),
        }
    };
    wait_until("the page to be looked up", STALL, async || {
        let state = state().await;
        state["trouble"].is_null() && state["seen_s_ago"].is_number()
    })
    .await;
    proxy.lose("ledger.partition_status", Lost::Answers);
    wait_until("the answer to be lost", STALL, async || {
        state().await;
        proxy.losses() == 1
    })
    .await;
    let lost = Instant::now();
    wait_until("the page to be looked up again", STALL, async || {
        state().await["seen_s_ago"]
            .as_f64()
            .is_some_and(|age| age < 0.5)
            && lost.elapsed() > Duration::from_secs(1)
    })
    .await;
    assert!(lost.elapsed() < BOUND, "{:?}", lost.elapsed());
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_answer_never_comes_ends_and_says_so() {
    let scene = Scene::new(1).await;
    let proxy = Proxy::start(scene.stack.postgres_port).await;
    let url = scene
        .stack
        .url(&scene.stack.admin, proxy.port, &scene.database.name);
    proxy.lose("ledger.partition_status", Lost::Answers);
    let asked = Instant::now();
    let ended = tokio::task::spawn_blocking(move || {
        let environment = [("ADMIN_DATABASE_URL", url.as_str())];
        let mut status = command_of(&sluice(), &["status"], &environment);
        status.output().expect("sluice can be run")
    });
    let ended = ended.await.expect("no panic");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no answer from PostgreSQL: its session waits for this command"),
        "{said}"
    );
    assert!(asked.elapsed() < 3 * BOUND, "{:?}", asked.elapsed());
}
