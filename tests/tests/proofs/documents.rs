//! The words of the platform's own document, as they stand there: what it sets, asks and sends works here as it is.

use proofs::ingester::{Ingester, UNSET};
use proofs::scene::{STALL, Scene};
use proofs::wait::wait_until;
use proofs::workload::credit;
use serde_json::{Value, json};

/// All settings of the document. Addresses and logins are a stack's own.
const ENV: &str = "
DB_WRITER_SERVICE_PORT=3010
DB_HOST=localhost
DB_PORT=5432
DB_USERNAME=postgres
DB_PASSWORD=password
DB_DATABASE=platform
DB_POOL_SIZE=20
DB_CONNECTION_TIMEOUT=5000
KAFKA_BROKERS=localhost:9092
KAFKA_CLIENT_ID=db-writer-service
KAFKA_GROUP_ID=db-writer-group
KAFKA_AUTO_COMMIT=false
REDIS_HOST=localhost
REDIS_PORT=6379
IDEMPOTENCY_TTL=86400
MAX_RETRY_ATTEMPTS=3
RETRY_DELAY_MS=1000
EXPONENTIAL_BACKOFF=true
BATCH_SIZE=10
BATCH_TIMEOUT_MS=1000
";

const HEALTH: &str = r#"{"status": "healthy", "kafka": {"connected": true, "lag": 0}, "database": {"connected": true, "activeConnections": 5, "poolSize": 20}, "redis": {"connected": true}, "lastProcessedEvent": "2024-01-01T00:00:00.000Z"}"#;

/// An ingester with the settings of the document and no other, but for a free port and its log.
fn by_the_document(scene: &Scene) -> Ingester {
    let stack = &scene.stack;
    let postgres_port = stack.postgres_port.to_string();
    let redis = stack.redis_url.strip_prefix("redis://").expect("a URL");
    let (redis_host, redis_port) = redis.trim_end_matches('/').split_once(':').expect("a port");
    let own = [
        ("DB_WRITER_SERVICE_PORT", "0"),
        ("DB_HOST", "127.0.0.1"),
        ("DB_PORT", &postgres_port),
        ("DB_USERNAME", &stack.ingester.user),
        ("DB_PASSWORD", &stack.ingester.password),
        ("DB_DATABASE", &scene.database.name),
        ("KAFKA_BROKERS", &stack.kafka.brokers),
        ("REDIS_HOST", redis_host),
        ("REDIS_PORT", redis_port),
    ];
    let mut settings: Vec<(&str, &str)> = [
        "DATABASE_URL",
        "BALANCE_TOPICS",
        "EVENT_TOPICS",
        "SERVICE_ID",
        "PORT",
    ]
    .map(|name| (name, UNSET))
    .to_vec();
    for line in ENV.trim().lines() {
        let (name, value) = line.split_once('=').expect("NAME=value");
        let own = own.iter().find(|(known, _)| *known == name);
        settings.push((name, own.map_or(value, |(_, own)| own)));
    }
    scene.ingester_with(&settings)
}

async fn health(ingester: &Ingester) -> Value {
    let (_, body) = ingester.get("/health").await;
    body.parse().expect("JSON")
}

async fn until_healthy(ingester: &Ingester, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    wait_until("health as in the document", STALL, async || {
        last = health(ingester).await;
        last["status"] == "healthy" && is_so(&last)
    })
    .await;
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_settings_alone_it_is_healthy_in_its_words() {
    let scene = Scene::new(1).await;
    // No topic that it reads exists yet: each test removes those that it has made.
    let mut ingester = by_the_document(&scene);
    let body = until_healthy(&ingester, |body| body["redis"]["connected"] == true).await;
    assert_eq!(body["missingTopics"], Value::Array(Vec::new()), "{body}");
    assert_eq!(body["lastProcessedEvent"], Value::Null, "{body}");
    let (_, metrics) = ingester.get("/metrics").await;
    for line in [
        "sluice_topics_missing 0",
        r#"sluice_health{status="healthy"} 1"#,
        r#"sluice_health{status="degraded"} 0"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}");
    }

    scene.kafka().create_topic("balance.changed", 1, &[]).await;
    let event = credit("its first event", 1, "1");
    scene.kafka().produce("balance.changed", 0, [event]);
    let body = until_healthy(&ingester, |body| body["lastProcessedEvent"].is_string()).await;
    let example: Value = HEALTH.parse().expect("JSON");
    assert_looks_like(&body, &example, "");
    assert_eq!(body["kafka"], example["kafka"]);
    assert_eq!(body["redis"], example["redis"]);
    assert_eq!(body["database"]["poolSize"], 20);
    assert_eq!(
        body["lastProcessed"],
        json!({"topic": "balance.changed", "partition": 0, "offset": 0})
    );
    scene.kafka().delete_topic("balance.changed").await;
    ingester.stop().await;
}

/// Whether all that the example has is there, each of its type; digits stand where its digits are.
fn assert_looks_like(found: &Value, example: &Value, path: &str) {
    match (found, example) {
        (Value::Object(found), Value::Object(example)) => {
            for (name, example) in example {
                let path = format!("{path}.{name}");
                let found = found.get(name).unwrap_or_else(|| panic!("no {path}"));
                assert_looks_like(found, example, &path);
            }
        }
        (Value::String(found), Value::String(example)) => {
            let digits = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0");
            assert!(
                found == example || digits(found) == digits(example),
                "{path}: {found}"
            );
        }
        (Value::Number(_), Value::Number(_)) => {}
        (found, example) => assert_eq!(found, example, "{path}"),
    }
}
