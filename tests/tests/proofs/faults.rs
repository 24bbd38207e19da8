//! Each fault appears on `/health`, in the metrics and on the page within five seconds, and disappears when its
//! run-book in docs/operations.md was followed.

use std::time::Duration;

use proofs::browser::Browser;
use proofs::ingester::Ingester;
use proofs::scene::{STALL, Scene};
use proofs::wait::wait_until;
use proofs::watch::settled;
use proofs::workload::{Message, credit};
use serde_json::Value;

use super::browser::{SOON, instance, open};
use super::domain::Notes;
use super::operate::done;

/// An instance, and who looks at it in three ways.
struct Watch<'a> {
    ingester: &'a Ingester,
    browser: &'a Browser,
}

impl Watch<'_> {
    async fn health(&self) -> Value {
        let (status, body) = self.ingester.get("/health").await;
        let body: Value = body.parse().expect("JSON");
        assert_eq!(status == 503, body["status"] == "down", "{body}");
        body
    }

    async fn measures(&self, wanted: &str) -> bool {
        let (_, scrape) = self.ingester.get("/metrics").await;
        scrape.lines().any(|line| line == wanted)
    }

    /// All three say it in time.
    async fn sees(
        &self,
        what: &str,
        time: Duration,
        of_health: impl Fn(&Value) -> bool,
        metric: &str,
        (css, text): (&str, &str),
    ) {
        let health = format!("{what} to be seen on /health");
        let page = format!("{what} to be seen on the page: {css} to say {text:?}");
        tokio::join!(
            wait_until(&health, time, async || of_health(&self.health().await)),
            wait_until(metric, time, async || self.measures(metric).await),
            wait_until(&page, time, async || {
                self.browser.text(css).await.contains(text)
            }),
        );
    }

    async fn sees_all_is_well(&self, metric: &str) {
        let is_healthy = |health: &Value| health["status"] == "healthy";
        let page = ("#health", "ok");
        self.sees("the end of it", STALL, is_healthy, metric, page)
            .await;
    }
}

/// A part of a partition's row on the page.
fn row(topic: &str, partition: i32, part: &str) -> String {
    format!("#partitions tr[data-key='{topic}/{partition}'] {part}")
}

/// What `/health` says of a partition.
fn partition<'a>(health: &'a Value, topic: &str, number: i32) -> &'a Value {
    let mut partitions = health["partitions"].as_array().expect("a list").iter();
    partitions
        .find(|one| one["topic"] == *topic && one["partition"] == number)
        .unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_is_seen_and_that_it_is_back() {
    let scene = Scene::new(1).await;
    let redis = [("REDIS_URL", scene.stack.redis_url.as_str())];
    let mut ingester = instance(&scene, &redis).await;
    let browser = open(&scene, &ingester, 1).await;
    let watch = Watch {
        ingester: &ingester,
        browser: &browser,
    };
    for (service, stop, health, part, metric, shown) in [
        (
            "redis",
            &["redis-stop"][..],
            "degraded",
            "redis",
            "sluice_redis_up",
            "Redis",
        ),
        (
            "kafka",
            &["kafka-stop"],
            "down",
            "kafka",
            "sluice_kafka_up",
            "Kafka",
        ),
        (
            "postgres",
            &["postgres-stop", "fast"],
            "down",
            "database",
            "sluice_database_up",
            "PostgreSQL",
        ),
    ] {
        watch.sees_all_is_well(&format!("{metric} 1")).await;
        scene.stack.control(stop).await;
        let is_away = |told: &Value| told["status"] == health && told[part]["connected"] == false;
        let metric = format!("{metric} 0");
        watch
            .sees(shown, SOON, is_away, &metric, ("#troubles", shown))
            .await;
        browser.reads("#instance", health).await;
        if service == "postgres" {
            browser.reads("#stale", "PostgreSQL").await;
        }
        // "Bring it back": nothing is to be done in Sluice.
        scene.stack.control(&[&format!("{service}-start")]).await;
        watch.sees_all_is_well(&metric.replace(" 0", " 1")).await;
        assert_eq!(browser.text("#troubles").await, "");
    }
    browser.hides("#stale").await;
    // Of the database that is away the page asks in vain for dead letters.
    let complaints = browser.complaints().await;
    let in_vain = |line: &String| line.contains("503") || line.contains("504");
    assert!(complaints.iter().all(in_vain), "{complaints:?}");

    // Without the instance itself the page says so, and goes on with the next one at this address.
    ingester.stop().await;
    browser
        .reads("#problem", "this instance does not answer")
        .await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_a_paused_handler_and_a_halt_are_seen_and_mended() {
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 1).await;
    notes.register(&scene).await;
    let mut ingester = instance(&scene, &[("EVENT_TOPICS", &notes.topic)]).await;
    let browser = open(&scene, &ingester, 2).await;
    let (topic, client) = (&scene.topic, &scene.database.client);
    let watch = Watch {
        ingester: &ingester,
        browser: &browser,
    };
    watch
        .sees_all_is_well("sluice_partitions_led{state=\"running\"} 2")
        .await;

    let malformed = (0..3).map(|_| Message::of("{"));
    scene.kafka().produce(topic, 0, malformed);
    let metric =
        format!("sluice_dead_letters_parked{{topic=\"{topic}\",code=\"MALFORMED_JSON\"}} 3");
    let is_told = |health: &Value| health["deadLetters"]["parked"] == 3;
    watch
        .sees(
            "dead letters",
            SOON,
            is_told,
            &metric,
            ("#parked", "3 parked"),
        )
        .await;
    let stats = done(&scene, &["dlq", "stats"]);
    assert!(stats.contains("MALFORMED_JSON"), "{stats}");
    let discard = [
        "dlq", "discard", "--topic", topic, "--apply", "--why", "a test",
    ];
    done(&scene, &discard);
    wait_until("no dead letter to be told of", STALL, async || {
        watch.health().await["deadLetters"]["parked"] == 0
    })
    .await;

    notes.break_handler(&scene).await;
    let sent = (0..300).map(|n| notes.message(&format!("e{n}"), &format!("n{n}"), Some("text"), 0));
    scene
        .kafka()
        .produce(&notes.topic, 0, sent.collect::<Vec<_>>());
    let paused = "SELECT count(*) FROM ledger.event_handlers WHERE paused_at IS NOT NULL";
    wait_until("the handler to be paused", STALL, async || {
        scene.database.count(paused).await == 1
    })
    .await;
    let is_paused = |health: &Value| {
        let told = partition(health, &notes.topic, 0);
        let reason = told["reason"].as_str().unwrap_or_default();
        health["status"] == "degraded"
            && told["state"] == "paused"
            && reason.contains("division by zero")
    };
    let state = row(&notes.topic, 0, ".state");
    watch
        .sees(
            "a paused handler",
            SOON,
            is_paused,
            "sluice_partitions_led{state=\"paused\"} 1",
            (&state, "paused"),
        )
        .await;
    // "CREATE OR REPLACE the function."
    notes.write_handler(&scene).await;
    watch
        .sees_all_is_well("sluice_partitions_led{state=\"paused\"} 0")
        .await;
    let caught_up = scene
        .database
        .caught_up(scene.kafka(), &notes.topic, 1, STALL);
    caught_up.await;

    let committed = scene.committed().await;
    let pause = format!("SELECT sluice.pause_partition('{topic}', 0, 'to lose records')");
    client.batch_execute(&pause).await.expect("an operator");
    wait_until("the pause", STALL, async || {
        partition(&watch.health().await, topic, 0)["state"] == "paused"
    })
    .await;
    let unread = (0..50).map(|n| credit(&format!("unread-{n}"), 1, "1"));
    scene.kafka().produce(topic, 0, unread);
    let begins = committed + 30;
    scene.kafka().delete_records(topic, 0, begins).await;
    let resume = format!("SELECT sluice.resume_partition('{topic}', 0)");
    client.batch_execute(&resume).await.expect("an operator");
    let is_halted = |health: &Value| {
        let told = partition(health, topic, 0);
        let reason = told["reason"].as_str().unwrap_or_default();
        health["status"] == "degraded"
            && told["state"] == "halted"
            && reason.contains("no longer in Kafka")
    };
    let state = row(topic, 0, ".state");
    watch
        .sees(
            "a halted partition",
            SOON,
            is_halted,
            "sluice_partitions_led{state=\"halted\"} 1",
            (&state, "halted"),
        )
        .await;
    // "To accept the loss: `sluice accept … --offset` with the offset that the line names."
    let accept = format!("SELECT sluice.accept_partition('{topic}', 0, 'ticket 4712', {begins})");
    client.batch_execute(&accept).await.expect("an operator");
    watch
        .sees_all_is_well("sluice_partitions_led{state=\"running\"} 2")
        .await;
    scene.caught_up().await;
    let balance = "SELECT available::bigint FROM ledger.account_balances WHERE account_id = 1";
    assert_eq!(scene.database.count(balance).await, 20);
    ingester.stop().await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_is_seen_by_who_takes_over() {
    let scene = Scene::new(2).await;
    let mut instances = [instance(&scene, &[]).await, instance(&scene, &[]).await];
    let names = instances.each_ref().map(|one| one.service_id.clone());
    let names = names.each_ref().map(String::as_str);
    settled(&scene.database, &scene.topic, 2, &names, STALL).await;
    let browser = open(&scene, &instances[0], 2).await;
    let watch = Watch {
        ingester: &instances[0],
        browser: &browser,
    };
    watch
        .sees_all_is_well("sluice_partitions_led{state=\"running\"} 1")
        .await;
    let progress = scene.database.progress(&scene.topic).await;
    let led_by_other = progress
        .iter()
        .find(|(_, one)| one.leader.as_deref() == Some(names[1]));
    let number = *led_by_other.expect("settled").0;

    instances[1].freeze();
    let leads = |health: &Value| partition(health, &scene.topic, number)["role"] == "leader";
    let leader = row(&scene.topic, number, "[data-label=Leader]");
    watch
        .sees(
            "another leader",
            SOON,
            leads,
            "sluice_partitions_led{state=\"running\"} 2",
            (&leader, names[0]),
        )
        .await;
    let credits = (0..10).map(|n| credit(&format!("e{n}"), 1, "1"));
    scene.kafka().produce(&scene.topic, number, credits);
    scene.caught_up().await;

    // "Look for what froze it": it writes nothing as the former leader, and takes its share again.
    instances[1].unfreeze();
    settled(&scene.database, &scene.topic, 2, &names, STALL).await;
    watch
        .sees_all_is_well("sluice_partitions_led{state=\"running\"} 1")
        .await;
    let balance = "SELECT available::bigint FROM ledger.account_balances WHERE account_id = 1";
    assert_eq!(scene.database.count(balance).await, 10);
    browser.quit().await;
    for instance in &mut instances {
        instance.stop().await;
    }
}
