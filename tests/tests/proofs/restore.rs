//! A backup made under load, restored while the original continued: the ingester continues from the older offset, and
//! nothing that the original did later counts as done.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use proofs::compare::{Accounts, compare};
use proofs::database::Database;
use proofs::ingester::Ingester;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::stack::postgres_program;
use proofs::wait::wait_until;
use proofs::workload::{Workload, credit};

fn done(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("PostgreSQL's programs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

async fn tokens(database: &Database, topic: &str) -> BTreeSet<i64> {
    let progress = database.progress(topic).await.into_values();
    progress.map(|progress| progress.fencing_token).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_goes_on_from_its_older_offset_with_tokens_of_its_own() {
    let scene = Scene::new(4).await;
    let redis = [("REDIS_URL", scene.stack.redis_url.as_str())];
    let mut original = scene.ingester_with(&redis);
    let feed = scene.feed(&Workload::new(seed()), 3_000);
    scene.committed_beyond(6_000).await;
    let pause = "SELECT sluice.pause_handler('user.created', 'a new version comes')";
    let paused = scene.database.client.execute(pause, &[]).await;
    paused.expect("paused");

    let dump = scene.stack.dir.join("sluice.dump");
    let (file, url) = (dump.clone(), scene.database.admin_url.clone());
    let dumping = tokio::task::spawn_blocking(move || {
        done(
            Command::new(postgres_program("pg_dump"))
                .args(["-Fc", "--no-unlogged-table-data", "-f"])
                .args([file.as_os_str(), url.as_ref()]),
        );
    });
    let before = scene.committed().await;
    scene.committed_beyond(before + 1_000).await;
    dumping.await.expect("dumped");

    // The original goes on, under further tokens, and Redis hears of all of it.
    original.kill9();
    original.start_again();
    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("the future", 1, "1")]);
    scene
        .committed_beyond(scene.committed().await + 6_000)
        .await;
    feed.stop().await;
    scene.caught_up().await;
    wait_until("the last mark", STALL, async || {
        scene.stack.redis(&["EXISTS", "processed:the future"]) == "1"
    })
    .await;
    let given = tokens(&scene.database, &scene.topic).await;
    let held = "SELECT p.fencing_token, p.lease_id::text FROM ledger.partition_progress p
        JOIN ledger.partition_leases l USING (partition_id) WHERE l.topic = $1 AND l.partition = 0";
    let held = scene.database.client.query_one(held, &[&scene.topic]).await;
    let held = held.expect("a leader");
    let held: (i64, String) = (held.get(0), held.get(1));
    original.kill9();

    let restored = Database::create_empty(&scene.stack).await;
    done(
        Command::new(postgres_program("pg_restore"))
            .args(["--exit-on-error", "-d", &restored.admin_url])
            .arg(&dump),
    );
    for table in [
        "ingester_instances",
        "partition_reports",
        "staging_balance_changes",
    ] {
        let rows = format!("SELECT count(*) FROM ledger.{table}");
        assert_eq!(restored.count(&rows).await, 0, "{table}");
    }
    let (older, newer) = (
        restored.committed(&scene.topic).await,
        scene.committed().await,
    );
    assert!(
        (6_000..newer - 6_000).contains(&older),
        "{older} of {newer}"
    );
    restored.audit(&scene.topic).await;
    // As docs/operations.md says.
    let again = "SELECT sluice.pause_handler(event_type, pause_reason) FROM ledger.event_handlers WHERE paused_at IS NOT NULL";
    restored.client.execute(again, &[]).await.expect("paused");
    let still = "SELECT count(*) FROM ledger.event_handlers h JOIN pg_proc f ON f.oid = to_regprocedure(h.handler || '(domain.event[])')
        WHERE h.paused_version = f.xmin::text AND h.pause_reason = 'a new version comes'";
    assert_eq!(restored.count(still).await, 1);

    let mut successor = Ingester::start(&scene.stack, &restored.url, &scene.topic, &redis);
    let (kafka, topic) = (scene.kafka(), &scene.topic);
    restored
        .caught_up(kafka, topic, scene.partitions, STALL)
        .await;
    let fresh = tokens(&restored, topic).await;
    assert!(fresh.first() > given.last(), "{fresh:?} after {given:?}");
    // What the original's leader held means nothing here.
    let renewed = "SELECT sluice.renew_partition_lock($1, 0, $2, $3::text::uuid, '3 s') IS NULL";
    let writer = restored.writer().await;
    let refused = writer.query_one(renewed, &[topic, &held.0, &held.1]).await;
    assert!(refused.expect("an answer").get::<_, bool>(0));
    wait_until("reports of the successor", STALL, async || {
        let running = "SELECT count(*) FROM ledger.partition_status WHERE state = 'running' AND reported_at IS NOT NULL";
        restored.count(running).await == 4
    })
    .await;

    let report = compare(&scene.stack, &restored, topic, 4, Accounts::OfOnePartition).await;
    report.assert_none();
    assert_mixed(&report);
    for (check, found) in restored.run_checks().await {
        assert_eq!(found, None, "{check} found something");
    }
    restored.audit(topic).await;
    println!("restored at {older} of {newer} records, 0 differences");
    successor.stop().await;
}
