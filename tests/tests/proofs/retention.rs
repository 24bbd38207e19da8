//! Pruning under load: batches are not delayed, audits stay valid, and exactly the right rows remain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proofs::compare::{Accounts, Source};
use proofs::rng::seed;
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::stack::{sluice_command, unique};
use proofs::wait::wait_until;
use proofs::workload::{Workload, credit};
use serde_json::Value;
use tokio_postgres::Client;

/// Far more than the distance at which a forgetting workload repeats itself.
const MARGIN: i64 = 1_000;
/// How long nobody may have to wait for a lock while a chunk is pruned.
const LONG: Duration = Duration::from_secs(1);

/// What `sluice prune` says on stdout, and its exit status.
fn prune(scene: &Scene, arguments: &[&str]) -> (Option<i32>, String, String) {
    let environment = [
        ("ADMIN_DATABASE_URL", scene.database.admin_url.as_str()),
        ("KAFKA_BROKERS", &scene.kafka().brokers),
    ];
    let arguments = [&["prune"][..], arguments].concat();
    let output = sluice_command(&arguments, &environment).output();
    let output = output.expect("sluice runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn pruned(scene: &Scene, arguments: &[&str]) -> Vec<Value> {
    let json = ["--topic", &scene.topic, "--output", "json"];
    let (status, stdout, stderr) = prune(scene, &[&json[..], arguments].concat());
    assert_eq!(status, Some(0), "{stderr}");
    serde_json::from_str(&stdout).expect("JSON")
}

/// The longest wait for a lock in this database, looked at again and again until told to stop.
async fn longest_wait(watch: Client, stop: Arc<AtomicBool>) -> Duration {
    let query = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)), 0)::float8
        FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.datname = current_database()";
    let mut longest = 0.0_f64;
    while !stop.load(Ordering::Relaxed) {
        let row = watch.query_one(query, &[]).await.expect("pg_locks");
        longest = longest.max(row.get(0));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Duration::from_secs_f64(longest.max(0.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_under_load_holds_nobody_up_and_breaks_no_audit() {
    let scene = Scene::new(2).await;
    let workload = Workload::forgetting(seed());
    let mut ingester = scene.ingester();
    let feed = scene.feed(&workload, 3_000);
    let stop = Arc::new(AtomicBool::new(false));
    let watch = scene.database.session().await;
    let watching = tokio::spawn(longest_wait(watch, stop.clone()));

    let mut removed = 0;
    for round in 0..6 {
        scene
            .committed_beyond(scene.committed().await + 6_000)
            .await;
        let mut begins = BTreeMap::new();
        for (partition, progress) in scene.database.progress(&scene.topic).await {
            let begin = progress.commit_offset - MARGIN;
            scene
                .kafka()
                .delete_records(&scene.topic, partition, begin)
                .await;
            begins.insert(format!("{}/{partition}", scene.topic), begin);
        }
        if round == 0 {
            // A chunk whose transaction stays open: batches do not wait for its end.
            let slow = scene.database.session().await;
            slow.batch_execute("BEGIN").await.expect("a transaction");
            let begin = begins[&format!("{}/0", scene.topic)];
            let chunk = "SELECT (sluice.prune($1, 0, $2, '0', 700, false)).records";
            let row = slow.query_one(chunk, &[&scene.topic, &begin]).await;
            assert!(row.expect("pruned").get::<_, i64>(0) > 600);
            scene
                .committed_beyond(scene.committed().await + 6_000)
                .await;
            slow.batch_execute("COMMIT").await.expect("committed");
        }
        let arguments = ["--older-than", "0s", "--max-records", "500"];
        let dry = pruned(&scene, &arguments);
        let done = pruned(&scene, &[&arguments[..], &["--apply"]].concat());
        assert_eq!(dry, done, "what was told is what was removed");
        assert_eq!(done.len(), 2);
        for partition in &done {
            let name = partition["partition"].as_str().expect("a name");
            assert_eq!(partition["log_start_offset"], begins[name]);
            assert_eq!(partition["pruned_below"], begins[name]);
            assert_eq!(partition["more"], false);
            removed += partition["records"].as_i64().expect("a number");
        }
        scene.database.audit(&scene.topic).await;
    }
    stop.store(true, Ordering::Relaxed);
    let waited = watching.await.expect("no panic");
    feed.stop().await;
    assert_mixed(
        &scene
            .verify_from(Source::Sent(workload), Accounts::OfOnePartition)
            .await,
    );
    assert!(removed > 20_000, "{removed}");
    println!("{removed} records pruned, longest wait for a lock {waited:?}");
    assert!(waited < LONG, "somebody waited {waited:?} for a lock");
    assert!(!ingester.log().contains("still in the database"));
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_still_holds_or_is_young_is_not_pruned() {
    let scene = Scene::new(1).await;
    let kafka = scene.kafka();
    let sent = |range: std::ops::Range<i64>| {
        let credits = range.map(|number| credit(&format!("e{number}"), number % 7, "1"));
        kafka.produce(&scene.topic, 0, credits);
    };
    sent(0..100);
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    let all = pruned(&scene, &["--older-than", "0s", "--apply"]);
    assert_eq!(all[0]["records"], 0, "Kafka holds them all");
    assert_eq!(all[0]["pruned_below"], 0);
    kafka.delete_records(&scene.topic, 0, 60).await;
    let young = pruned(&scene, &["--apply"]);
    assert_eq!(young[0]["records"], 0, "30 days are not over");
    let age = "UPDATE ledger.balance_log SET created_at = created_at - interval '31 days' WHERE kafka_offset < 40";
    scene.database.client.execute(age, &[]).await.expect("aged");
    assert_eq!(pruned(&scene, &["--dry-run"])[0]["records"], 40);
    // A dry run unless it is told to.
    assert_eq!(pruned(&scene, &["--partition", "0"])[0]["records"], 40);
    let applied = pruned(&scene, &["--partition", "0", "--apply"]);
    assert_eq!(applied[0]["records"], 40);
    assert_eq!(pruned(&scene, &["--older-than", "1 h"])[0]["records"], 0);

    // Kafka has lost what was not read yet: there is nothing to prune of that.
    ingester.stop().await;
    sent(100..200);
    kafka.delete_records(&scene.topic, 0, 150).await;
    let to_the_end = pruned(&scene, &["--older-than", "0s", "--apply"]);
    assert_eq!(to_the_end[0]["pruned_below"], 100);
    assert_eq!(to_the_end[0]["identities"], 60);
    scene.database.audit(&scene.topic).await;
    scene.verify_invariants().await;
}

/// What the documents say of a producer that repeats itself too late.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_sent_again_after_its_identity_was_pruned_is_a_new_one() {
    let scene = Scene::new(1).await;
    let again = || [credit("again", 1, "5")];
    scene.kafka().produce(&scene.topic, 0, again());
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    scene.kafka().produce(&scene.topic, 0, again());
    scene.caught_up().await;
    scene.kafka().delete_records(&scene.topic, 0, 2).await;
    let at_once = pruned(&scene, &["--older-than", "0s", "--apply"]);
    assert_eq!(at_once[0]["identities"], 1);
    scene.kafka().produce(&scene.topic, 0, again());
    scene.caught_up().await;
    let balance = "SELECT available::bigint FROM ledger.account_balances";
    assert_eq!(scene.database.count(balance).await, 10);
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pruned_is_said_in_one_line() {
    let scene = Scene::new(1).await;
    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("e", 1, "5")]);
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    let topic = scene.topic.as_str();
    for (arguments, status, told) in [
        (
            vec!["--topic", "nowhere"],
            1,
            "no partition of \"nowhere\" has been read; topics that were: ",
        ),
        (
            vec!["--topic", topic, "--partition", "7"],
            1,
            "/7 has not been read",
        ),
        (
            vec!["--topic", topic, "--apply", "--dry-run"],
            2,
            "cannot be used with",
        ),
        (
            vec!["--topic", topic, "--older-than", "soon"],
            1,
            "invalid input syntax for type interval",
        ),
        (
            vec!["--topic", topic, "--older-than=-1 day"],
            1,
            "must not be negative",
        ),
        (
            vec!["--topic", topic, "--max-records", "0"],
            2,
            "MAX_RECORDS",
        ),
        (vec![], 2, "--topic"),
    ] {
        let (found, stdout, stderr) = prune(&scene, &arguments);
        assert_eq!(found, Some(status), "{arguments:?}: {stderr}");
        assert!(stdout.is_empty() && stderr.contains(told), "{stderr}");
    }
    ingester.stop().await;
    scene.kafka().delete_topic(&scene.topic).await;
    let (status, _, stderr) = prune(&scene, &["--topic", topic]);
    assert_eq!(status, Some(1));
    assert!(stderr.contains("does not exist in Kafka"), "{stderr}");
    scene.kafka().create_topic(&scene.topic, 1, &[]).await;
}

/// Before its first mark the database did not know that anybody was to be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_prune_before_the_first_result_was_produced_keeps_what_is_to_be_told() {
    let scene = Scene::new(1).await;
    let told = unique("results");
    let mut ingester = scene.ingester_with(&[("RESULTS_TOPIC", &told)]);
    scene.fill(&Workload::forgetting(seed()), 3_000).await;
    scene.caught_up().await;
    // Its topic does not exist, so nothing was told yet.
    ingester.logs("results wait", STALL).await;
    let statement = format!(
        "SELECT (sluice.prune('{}', 0, 2000, interval '0', 5000, false)).pruned_below",
        scene.topic
    );
    assert_eq!(
        scene.database.count(&statement).await,
        0,
        "all is to be told"
    );
    scene.kafka().create_topic(&told, 1, &[]).await;
    let waiting = "SELECT count(*) FROM sluice.partitions_with_results()";
    wait_until("every result to be produced", STALL, async || {
        scene.database.count(waiting).await == 0
    })
    .await;
    let records = scene.kafka().read(&told, 0);
    let offsets: std::collections::BTreeSet<i64> = records
        .iter()
        .map(|record| {
            let payload = record.message.payload.as_deref().expect("a result");
            let result: Value = serde_json::from_slice(payload).expect("JSON");
            result["offset"].as_i64().expect("an offset")
        })
        .collect();
    assert_eq!(offsets, (0..3_000).collect(), "each record is told");
    ingester.stop().await;
}
