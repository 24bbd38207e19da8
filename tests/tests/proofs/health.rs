//! The state that an instance reports by HTTP, while the services that it needs stop and come back.

use std::time::{Duration, Instant};

use proofs::ingester::{Ingester, ask_at};
use proofs::scene::{STALL, Scene};
use proofs::wait::wait_until;
use proofs::workload::{Message, credit};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Whatever hangs behind, answers come within this time; generous for a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Status and body of `/health`.
async fn health(ingester: &Ingester) -> (u16, Value) {
    let asked = Instant::now();
    let (status, body) = ingester.get("/health").await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    (status, body.parse().expect("JSON"))
}

async fn until_it_is(ingester: &Ingester, wanted: &str, is_so: impl Fn(&Value) -> bool) {
    wait_until(&format!("health to be {wanted}"), STALL, async || {
        let (status, body) = health(ingester).await;
        assert_eq!(status == 503, body["status"] == "down", "{body}");
        body["status"] == wanted && is_so(&body)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_what_is_away_and_that_it_is_back() {
    let scene = Scene::new(2).await;
    let settings = [("REDIS_URL", scene.stack.redis_url.as_str())];
    let mut ingester = scene.ingester_with(&settings);
    let messages = (0..10).map(|n| credit(&format!("e{n}"), 1, "1"));
    scene.kafka().produce(&scene.topic, 1, messages);
    scene.caught_up().await;
    until_it_is(&ingester, "healthy", |body| {
        body["partitions"][1]["lag"] == 0
    })
    .await;
    let (_, body) = health(&ingester).await;
    let partition = &body["partitions"][1];
    assert_eq!(partition["topic"], *scene.topic);
    assert_eq!(partition["role"], "leader");
    assert_eq!(partition["state"], "running");
    assert_eq!(partition["commitOffset"], 10);
    assert_eq!(body["lastProcessed"]["offset"], 9);
    assert_eq!(body["kafka"]["lag"], 0);
    assert_eq!(body["database"]["poolSize"], 20);
    assert_eq!(ingester.get("/readyz").await.0, 200);
    assert_eq!(ingester.get("/nothing").await.0, 404);

    let mut standby = scene.ingester_with(&[("BALANCE_TOPICS", "no.such.topic")]);
    until_it_is(&standby, "degraded", |body| {
        body["missingTopics"][0] == "no.such.topic"
    })
    .await;
    standby.stop().await;

    scene.stack.control(&["redis-stop"]).await;
    until_it_is(&ingester, "degraded", |body| {
        body["redis"]["connected"] == false
    })
    .await;
    scene.stack.control(&["redis-start"]).await;
    until_it_is(&ingester, "healthy", |body| {
        body["redis"]["connected"] == true
    })
    .await;

    scene.stack.control(&["postgres-stop", "fast"]).await;
    until_it_is(&ingester, "down", |body| {
        body["database"]["connected"] == false
    })
    .await;
    assert_eq!(ingester.get("/livez").await.0, 200);
    assert_eq!(ingester.get("/readyz").await.0, 503);
    scene.stack.control(&["postgres-start"]).await;
    until_it_is(&ingester, "healthy", |_| true).await;

    scene.stack.control(&["kafka-stop"]).await;
    until_it_is(&ingester, "down", |body| {
        body["kafka"]["connected"] == false
    })
    .await;
    scene.stack.control(&["kafka-start"]).await;
    until_it_is(&ingester, "healthy", |_| true).await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_was_committed_and_what_waits_for_a_person() {
    let scene = Scene::new(1).await;
    let placeholder =
        "INSERT INTO domain.users (user_id, referenced_by) VALUES ('nobody', 'a test')";
    scene
        .database
        .client
        .batch_execute(placeholder)
        .await
        .expect("a placeholder");
    let mut ingester = scene.ingester_with(&[("DANGLING_AFTER", "0")]);
    let messages = [
        credit("a", 1, "5"),
        credit("a", 1, "5"),
        credit("b", 1, "-9"),
        Message::of("{"),
    ];
    scene.kafka().produce(&scene.topic, 0, messages);
    let topic = &scene.topic;
    let wanted = [
        format!("sluice_records_total{{topic=\"{topic}\",verdict=\"APPLIED\"}} 1"),
        format!("sluice_records_total{{topic=\"{topic}\",verdict=\"DUPLICATE\"}} 1"),
        format!("sluice_records_total{{topic=\"{topic}\",verdict=\"REJECTED\"}} 1"),
        format!("sluice_records_total{{topic=\"{topic}\",verdict=\"DEAD\"}} 1"),
        format!("sluice_event_delay_seconds_count{{topic=\"{topic}\"}} 4"),
        format!("sluice_dead_letters_parked{{topic=\"{topic}\",code=\"MALFORMED_JSON\"}} 1"),
        format!("sluice_partition_lag_records{{topic=\"{topic}\",partition=\"0\"}} 0"),
        "sluice_dangling_references{kind=\"user\"} 1".to_owned(),
        "sluice_partitions_led{state=\"running\"} 1".to_owned(),
        "sluice_leadership_changes_total{change=\"acquired\"} 1".to_owned(),
        "sluice_database_up 1".to_owned(),
        "sluice_kafka_up 1".to_owned(),
    ];
    wait_until("the metrics to say it all", STALL, async || {
        let (status, text) = ingester.get("/metrics").await;
        assert_eq!(status, 200);
        assert!(!text.contains("sluice_redis_up"), "none is set");
        wanted
            .iter()
            .all(|line| text.lines().any(|found| found == line))
    })
    .await;
    ingester.stop().await;
}

/// Connections that begin a request and never end it.
async fn half_open(address: &str, count: usize) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let begun = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: ").await;
        begun.expect("taken");
        connections.push(stream);
    }
    connections
}

async fn answers_at_once(address: &str, path: &str, expected: u16) {
    let asked = format!("GET {path}");
    let answer = ask_at(address, &asked, &["Host: localhost"], "");
    let answer = tokio::time::timeout(STALL, answer).await;
    assert_eq!(answer.expect("an answer").status, expected, "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_hold_up_neither_probes_nor_anybody_else() {
    let scene = Scene::new(1).await;
    let mut ingester = scene.ingester_with(&[("PROBE_PORT", "0")]);
    let (all, probes) = (ingester.address().await, ingester.probe_address().await);
    wait_until("readiness", STALL, async || {
        let answer = ask_at(&all, "GET /readyz", &["Host: localhost"], "").await;
        answer.status == 200
    })
    .await;
    for path in ["/livez", "/readyz", "/health", "/metrics"] {
        answers_at_once(&all, path, 200).await;
    }
    // Nothing but probes has a way there.
    for (path, expected) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 404),
        ("/", 404),
    ] {
        answers_at_once(&probes, path, expected).await;
    }
    let asked = Instant::now();
    let _of_all = half_open(&all, 400).await;
    answers_at_once(&probes, "/livez", 200).await;
    answers_at_once(&all, "/health", 200).await;
    let _of_probes = half_open(&probes, 400).await;
    for path in ["/livez", "/readyz"] {
        answers_at_once(&probes, path, 200).await;
        answers_at_once(&all, path, 200).await;
    }
    // What does not end its request is cut off after 30 s: nobody has waited for that.
    assert!(
        asked.elapsed() < Duration::from_secs(25),
        "{:?}",
        asked.elapsed()
    );
    ingester.stop().await;
}
