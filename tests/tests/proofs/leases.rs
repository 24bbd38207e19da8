//! Leases without a dead leader: ended by an operator, released while a batch takes long, locked by another
//! transaction, short of connections, or requested under a name that is already used.

use std::collections::BTreeMap;
use std::time::Duration;

use proofs::compare::Accounts;
use proofs::database::{Progress, connect};
use proofs::rng::seed;
use proofs::scene::{STALL, Scene};
use proofs::stack::{Login, unique};
use proofs::wait::{holds_for, wait_until};
use proofs::watch::settled;
use proofs::workload::{Workload, credit};
use tokio_postgres::Client;

const LOCK_BALANCES: &str = "BEGIN; SELECT FROM ledger.account_balances ORDER BY account_id, shard_id, currency_code FOR UPDATE";

fn tokens(progress: &BTreeMap<i32, Progress>) -> Vec<i64> {
    progress.values().map(|one| one.fencing_token).collect()
}

/// A session that holds up the batches of `partitions`, each of which is in the database by now.
async fn held_up(scene: &Scene, partitions: i32) -> Client {
    let locker = scene.database.session().await;
    locker
        .batch_execute(LOCK_BALANCES)
        .await
        .expect("rows can be locked");
    for partition in 0..partitions {
        let credits = (0..5).map(|n| credit(&unique(&format!("held-{n}")), 1, "1"));
        scene.kafka().produce(&scene.topic, partition, credits);
    }
    // A grouped transaction gives up a lock after 50 ms; behind it the batch waits by itself.
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND xact_start < clock_timestamp() - interval '300 ms'";
    wait_until("batches to be held up", STALL, async || {
        scene.database.count(waiting).await >= 1
    })
    .await;
    locker
}

/// A scene whose account 1 exists, with two partitions.
async fn begun() -> Scene {
    let scene = Scene::new(2).await;
    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("first", 1, "1")]);
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_down_that_waits_for_a_batch_holds_up_no_renewal_and_is_no_loss() {
    let scene = begun().await;
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    let before = scene.database.progress(&scene.topic).await;
    let locker = held_up(&scene, 1).await;
    let asker = scene.database.session().await;
    let step_down = format!("SELECT sluice.step_down('{}', 0)", scene.topic);
    let asked = tokio::spawn(async move { asker.query_one(&step_down, &[]).await });
    holds_for("the leases go on", Duration::from_secs(5), async || {
        tokens(&scene.database.progress(&scene.topic).await) == tokens(&before)
    })
    .await;
    assert!(!asked.is_finished(), "it waits for the batch in flight");
    let renewed = "SELECT count(*) FROM ledger.partition_leases WHERE lease_expires_at > clock_timestamp() + interval '1500 ms'";
    wait_until("both leases to be renewed", STALL, async || {
        scene.database.count(renewed).await == 2
    })
    .await;
    locker.batch_execute("ROLLBACK").await.expect("given back");
    let former: String = asked.await.expect("no panic").expect("stepped down").get(0);
    assert_eq!(former, ingester.service_id);
    ingester.logs("stepped down", STALL).await;
    wait_until("the only one to lead it again", STALL, async || {
        let now = scene.database.progress(&scene.topic).await;
        now[&0].leader.is_some() && now[&0].fencing_token > before[&0].fencing_token
    })
    .await;
    let (_, metrics) = ingester.get("/metrics").await;
    for (change, count) in [("stepped_down", 1), ("lost", 0)] {
        let line = format!("sluice_leadership_changes_total{{change=\"{change}\"}} {count}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    assert!(
        !ingester.log().contains("leadership lost"),
        "{}",
        ingester.log_tail()
    );
    scene.caught_up().await;
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_releases_also_what_has_a_long_batch_in_flight() {
    let scene = begun().await;
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    let locker = held_up(&scene, 2).await;
    ingester.stop().await;
    let log = ingester.log();
    for partition in 0..2 {
        let released = format!("released partition partition={}/{partition}", scene.topic);
        assert!(
            log.contains(&released),
            "{released}:\n{}",
            ingester.log_tail()
        );
    }
    assert!(!log.contains("leadership lost"), "{log}");
    let leased = "SELECT count(*) FROM ledger.partition_leases WHERE leader_svc_id IS NOT NULL";
    assert_eq!(scene.database.count(leased).await, 0);
    locker.batch_execute("ROLLBACK").await.expect("given back");
    ingester.start_again();
    scene.caught_up().await;
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_waits_for_a_long_batch_and_is_no_loss() {
    let scene = begun().await;
    let mut first = scene.ingester();
    scene.caught_up().await;
    let locker = held_up(&scene, 2).await;
    let mut second = scene.ingester();
    first.logs("handing over", STALL).await;
    let before = scene.database.progress(&scene.topic).await;
    holds_for("it waits", Duration::from_secs(5), async || {
        tokens(&scene.database.progress(&scene.topic).await) == tokens(&before)
    })
    .await;
    locker.batch_execute("ROLLBACK").await.expect("given back");
    let names = [first.service_id.clone(), second.service_id.clone()];
    settled(
        &scene.database,
        &scene.topic,
        2,
        &names.each_ref().map(String::as_str),
        STALL,
    )
    .await;
    first.logs("released partition", STALL).await;
    for text in ["leadership lost", "abandoned"] {
        assert!(!first.log().contains(text), "{}", first.log_tail());
    }
    scene.caught_up().await;
    scene.verify_invariants().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_too_few_connections_leases_last_and_the_log_stays_short() {
    let scene = Scene::new(4).await;
    let login = Login {
        user: unique("few"),
        password: "few".to_owned(),
    };
    // Three for leases and the watcher, two for everything else: a pool of 17 wants more.
    let create = format!(
        "CREATE ROLE {0} LOGIN PASSWORD 'few' IN ROLE sluice_writer CONNECTION LIMIT 5",
        login.user
    );
    scene
        .database
        .client
        .batch_execute(&create)
        .await
        .expect("a superuser");
    let stack = &scene.stack;
    let url = stack.url(&login, stack.postgres_port, &scene.database.name);
    let mut ingester = scene.ingester_with(&[
        ("DATABASE_URL", &url),
        ("BATCH_SIZE", "150"),
        ("BATCHING_DELAY_MS", "0"),
    ]);
    let feed = scene.feed(&Workload::new(seed()), 5_000);
    scene.committed_beyond(1_000).await;
    let before = scene.database.progress(&scene.topic).await;
    holds_for("leases last", Duration::from_secs(8), async || {
        tokens(&scene.database.progress(&scene.topic).await) == tokens(&before)
    })
    .await;
    // And where none is left for the leases: all sessions end at once, and somebody else is faster.
    let role = &login.user;
    let none = format!(
        "ALTER ROLE {role} CONNECTION LIMIT 0; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
    );
    scene
        .database
        .client
        .batch_execute(&none)
        .await
        .expect("a superuser");
    let lines = ingester.log().lines().count();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let log = ingester.log();
    let said: Vec<&str> = log
        .lines()
        .skip(lines)
        .filter(|line| line.contains("WARN"))
        .collect();
    assert!(
        said.iter()
            .any(|line| line.contains("too many connections")),
        "{log}"
    );
    assert!(
        said.len() <= 20,
        "{} lines:\n{}",
        said.len(),
        said.join("\n")
    );
    let some = format!("ALTER ROLE {role} CONNECTION LIMIT 5");
    scene
        .database
        .client
        .batch_execute(&some)
        .await
        .expect("a superuser");
    scene.committed_beyond(scene.committed().await + 500).await;
    feed.stop().await;
    scene.verify(Accounts::OfOnePartition).await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_of_one_name_is_not_ready_and_says_why() {
    let scene = begun().await;
    let mut first = scene.ingester_with(&[("SERVICE_ID", "twin")]);
    scene.caught_up().await;
    let mut second = scene.ingester_with(&[("SERVICE_ID", "twin")]);
    wait_until("it not to be ready", STALL, async || {
        let (status, body) = second.get("/readyz").await;
        status == 503 && body.contains("SERVICE_ID") && body.contains("twin")
    })
    .await;
    let (status, health) = second.get("/health").await;
    assert!(
        status == 200 && health.contains("degraded") && health.contains("SERVICE_ID"),
        "{health}"
    );
    assert_eq!(first.get("/readyz").await.0, 200);
    first.stop().await;
    wait_until("it to be ready", STALL, async || {
        second.get("/readyz").await.0 == 200
    })
    .await;
    scene
        .kafka()
        .produce(&scene.topic, 1, [credit("second", 1, "1")]);
    scene.caught_up().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_keeps_a_partition_from_having_a_leader_is_named() {
    let scene = Scene::new(4).await;
    for partition in 0..4 {
        scene.kafka().produce(
            &scene.topic,
            partition,
            [credit(&format!("first-{partition}"), 1, "1")],
        );
    }
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    ingester.stop().await;
    let client = &scene.database.client;
    let gid = unique("forgotten");
    let prepare = |table: &str, partition: i32| {
        format!(
            "BEGIN; SELECT FROM ledger.{table} JOIN ledger.partition_leases x USING (partition_id) WHERE x.partition = {partition} FOR UPDATE OF {table};
             PREPARE TRANSACTION '{gid}-{partition}'"
        )
    };
    client
        .batch_execute(&prepare("partition_progress", 0))
        .await
        .expect("prepared");
    let lease = prepare("partition_leases", 1)
        .replace(
            "ledger.partition_leases JOIN ledger.partition_leases x USING (partition_id)",
            "ledger.partition_leases x",
        )
        .replace("OF partition_leases", "OF x");
    client.batch_execute(&lease).await.expect("prepared");
    ingester.start_again();
    for partition in 0..2 {
        let gid = format!("{gid}-{partition}");
        let cannot = format!("{}/{partition} cannot be acquired", scene.topic);
        wait_until("the log to name the holder", STALL, async || {
            ingester
                .log()
                .lines()
                .any(|line| line.contains(&cannot) && line.contains(&gid))
        })
        .await;
        wait_until("/health to name the holder", STALL, async || {
            let (_, health) = ingester.get("/health").await;
            health.contains("degraded") && health.contains(&gid)
        })
        .await;
        let reason = format!(
            "SELECT count(*) FROM ledger.partition_status WHERE partition = {partition} AND state = 'no leader' AND reason LIKE '%{gid}%'"
        );
        wait_until("partition_status to name the holder", STALL, async || {
            scene.database.count(&reason).await == 1
        })
        .await;
    }
    // The others do not wait for it.
    for partition in 2..4 {
        scene.kafka().produce(
            &scene.topic,
            partition,
            [credit(&format!("second-{partition}"), 1, "1")],
        );
    }
    wait_until("the others to be led", STALL, async || {
        let now = scene.database.progress(&scene.topic).await;
        (2..4).all(|partition| now[&partition].commit_offset == 2)
    })
    .await;
    for partition in 0..2 {
        client
            .batch_execute(&format!("ROLLBACK PREPARED '{gid}-{partition}'"))
            .await
            .expect("undone");
        scene.kafka().produce(
            &scene.topic,
            partition,
            [credit(&format!("second-{partition}"), 1, "1")],
        );
    }
    scene.caught_up().await;
    wait_until("all to be well", STALL, async || {
        !ingester.get("/health").await.1.contains("degraded")
    })
    .await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_behind_a_prepared_transaction_says_so() {
    let scene = begun().await;
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    let client = &scene.database.client;
    let gid = unique("forgotten");
    let prepare = format!("{LOCK_BALANCES}; PREPARE TRANSACTION '{gid}'");
    client.batch_execute(&prepare).await.expect("prepared");
    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("second", 1, "1")]);
    wait_until("log and /health to name the holder", STALL, async || {
        ingester.log().contains(&gid) && ingester.get("/health").await.1.contains(&gid)
    })
    .await;
    client
        .batch_execute(&format!("ROLLBACK PREPARED '{gid}'"))
        .await
        .expect("undone");
    scene.caught_up().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_renamed_away_for_a_moment_halts_nothing() {
    let scene = begun().await;
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    let server = connect(&scene.stack.admin_url("postgres")).await;
    let name = &scene.database.name;
    let sessions = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    );
    let rename = format!("ALTER DATABASE {name} RENAME TO {name}_away");
    // Its sessions come back as fast as they can.
    wait_until("the database to be renamed", STALL, async || {
        server.batch_execute(&sessions).await.expect("a superuser");
        server.batch_execute(&rename).await.is_ok()
    })
    .await;
    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("second", 1, "1")]);
    ingester.logs("does not exist", STALL).await;
    let back = format!("ALTER DATABASE {name}_away RENAME TO {name}");
    server.batch_execute(&back).await.expect("it is free");
    let mut scene = scene;
    scene.database.reconnect().await;
    let took = wait_until("the record to be committed", STALL, async || {
        scene.database.progress(&scene.topic).await[&0].commit_offset == 2
    })
    .await;
    assert!(took < Duration::from_secs(9), "{took:?}");
    assert!(
        !ingester.log().contains("halted"),
        "{}",
        ingester.log_tail()
    );
    ingester.stop().await;
}
