//! The platform's own document, taken literally: its settings, requests and events work here unchanged.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use proofs::ingester::{Ingester, UNSET};
use proofs::scene::{STALL, Scene};
use proofs::stack::{repository, sluice_command};
use proofs::wait::wait_until;
use proofs::workload::{Message, credit};
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

/// What its console producer sends: a pattern, not JSON.
const LINE: &str = r#"{"eventId":"test-123","eventType":"user.created","timestamp":"2024-01-01T00:00:00.000Z","data":{...}}"#;

/// Events with the fields that it names, in its own spelling: words are plain strings, amounts are numbers.
const EVENTS: [&str; 5] = [
    r#"{"eventId":"doc-1","eventType":"user.created","timestamp":"2024-01-01T00:00:00.000Z","data":{"userId":"usr_1","username":"ada","email":"ada@example.org","role":"user"}}"#,
    r#"{"eventId":"doc-2","eventType":"user.updated","timestamp":"2024-01-01T00:00:01.000Z","data":{"userId":"usr_1","updates":{"displayName":"Ada","bio":"Engines"}}}"#,
    r#"{"eventId":"doc-3","eventType":"content.post.created","timestamp":"2024-01-01T00:00:02.000Z","data":{"postId":"pst_1","authorId":"usr_1","content":"First light.","mediaUrls":["https://cdn.example.org/1.jpg"],"visibility":"public"}}"#,
    r#"{"eventId":"doc-4","eventType":"payment.completed","timestamp":"2024-01-01T00:00:03.000Z","data":{"transactionId":"txn_1","userId":"usr_1","amount":9.99,"type":"TIP"}}"#,
    r#"{"eventId":"doc-5","eventType":"subscription.created","timestamp":"2024-01-01T00:00:04.000Z","data":{"subscriptionId":"sub_1","userId":"usr_1","tierId":"tier_1","status":"active"}}"#,
];

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

fn type_of(event: &str) -> String {
    let event: Value = event.parse().expect("JSON");
    event["eventType"].as_str().expect("a type").to_owned()
}

/// The first block of commands of a page in which a line begins with `command`.
fn commands(page: &str, command: &str) -> String {
    let page = std::fs::read_to_string(repository().join(page)).expect(page);
    let blocks = page.split("```sh\n").skip(1);
    let mut blocks = blocks.map(|block| block.split("```").next().expect("its end"));
    let found = blocks.find(|block| block.lines().any(|line| line.starts_with(command)));
    found.expect(command).to_owned()
}

/// Runs commands of a page as its reader would, with Kafka's own console producer at hand.
fn run_commands(scene: &Scene, commands: &str) -> String {
    let scripts = repository().join("scripts");
    let release = repository().join("target/release");
    let path = std::env::var("PATH").expect("a PATH");
    let path = format!("{}:{}:{path}", scripts.display(), release.display());
    let mut shell = Command::new("sh")
        .arg("-eu")
        .env("PATH", path)
        .env("KAFKA_BROKERS", &scene.kafka().brokers)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut stdin = shell.stdin.take().expect("piped");
    stdin.write_all(commands.as_bytes()).expect("taken");
    drop(stdin);
    let output = shell.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{commands}{said}{complained}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn its_topics_events_and_console_lines_are_taken_and_marked_as_it_says() {
    let scene = Scene::new(1).await;
    let topics = commands("docs/publishing.md", "sluice events topics --create");
    let made = run_commands(&scene, &topics);
    // Beside those of the types, balance.changed and DLQ_TOPIC.
    assert_eq!(made.matches("made, 8 partitions").count(), 32, "{made}");
    let again = run_commands(&scene, &topics);
    assert_eq!(again.matches("  8 partitions").count(), 32, "{again}");
    let own = "sluice events topics review.written --create --partitions 2";
    run_commands(&scene, own);
    let results = run_commands(&scene, &format!("RESULTS_TOPIC=platform.results {topics}"));
    assert_eq!(
        results.matches("made, 8 partitions").count(),
        1,
        "{results}"
    );
    let beside = [
        "balance.changed",
        "db-writer.dlq",
        "platform.results",
        "review.written",
    ];
    wait_until("the topics to be there", STALL, async || {
        beside.map(|topic| scene.kafka().partitions(topic)) == [8, 8, 8, 2]
    })
    .await;
    let wrong = ["events", "topics", "review/written", "--create"];
    let wrong =
        sluice_command(&wrong, &[("KAFKA_BROKERS", scene.kafka().brokers.as_str())]).output();
    let wrong = String::from_utf8(wrong.expect("sluice").stderr).expect("text");
    assert!(wrong.contains("no name of a Kafka topic"), "{wrong}");
    let mut ingester = by_the_document(&scene);
    for event in EVENTS {
        let kafka = scene.kafka();
        kafka.produce(&type_of(event), 0, [Message::of(event)]);
    }
    let lines = commands("docs/publishing.md", "kafka-console-producer.sh");
    assert!(lines.contains(LINE), "{lines}");
    run_commands(&scene, &lines);
    let verdicts = async |verdicts: &str| {
        let query = format!(
            "SELECT count(*) FROM ledger.event_verdicts
             WHERE (event_id LIKE 'doc-%' OR event_id = 'test-123' OR reason = 'MALFORMED_JSON') AND verdict = '{verdicts}'"
        );
        scene.database.count(&query).await
    };
    wait_until("all events to be applied", STALL, async || {
        verdicts("APPLIED").await == EVENTS.len() as i64 + 1
    })
    .await;
    assert_eq!(verdicts("DEAD").await, 1, "the pattern itself");
    // Its words as they came.
    for (query, word) in [
        (
            "SELECT role FROM domain.users WHERE user_id = 'usr_1'",
            "user",
        ),
        (
            "SELECT display_name FROM domain.users WHERE user_id = 'usr_1'",
            "Ada",
        ),
        (
            "SELECT visibility FROM domain.posts WHERE post_id = 'pst_1'",
            "public",
        ),
        (
            "SELECT amount::float8::text FROM domain.payments WHERE transaction_id = 'txn_1'",
            "9.99",
        ),
        (
            "SELECT status FROM domain.subscriptions WHERE subscription_id = 'sub_1'",
            "active",
        ),
        (
            "SELECT username FROM domain.users WHERE user_id = 'usr_123'",
            "ada",
        ),
    ] {
        let row = scene.database.client.query_one(query, &[]).await;
        assert_eq!(row.expect(query).get::<_, &str>(0), word, "{query}");
    }

    // Its question to Redis, and how long the answer lasts.
    for event_id in ["test-123", "doc-1", "doc-5"] {
        let key = format!("processed:{event_id}");
        wait_until(&key, STALL, async || {
            scene.stack.redis(&["GET", &key]) == "1"
        })
        .await;
        let ttl: i64 = scene.stack.redis(&["TTL", &key]).parse().expect("seconds");
        assert!((86_000..=86_400).contains(&ttl), "{ttl}");
    }
    let body = until_healthy(&ingester, |body| body["kafka"]["lag"] == 0).await;
    let parked = wait_for_parked(&ingester).await;
    assert_eq!(parked, 1, "{body}");
    ingester.stop().await;
    let types = sluice_command(&["events", "list"], &[]).output();
    let types = String::from_utf8(types.expect("sluice").stdout).expect("text");
    let made: Vec<String> = types
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        // Of balance events and of what Sluice writes the topics are the settings' to name.
        .filter(|name| !["balance.changed", "result", "dead-letter"].contains(name))
        .chain(beside)
        .map(str::to_owned)
        .collect();
    scene.kafka().delete_topics(&made).await;
}

async fn wait_for_parked(ingester: &Ingester) -> i64 {
    let mut parked = None;
    wait_until("the parked letter to be told of", STALL, async || {
        parked = health(ingester).await["deadLetters"]["parked"].as_i64();
        parked.is_some_and(|parked| parked > 0)
    })
    .await;
    parked.expect("waited for it")
}

/// How many batches the ingester has sent.
async fn batches(ingester: &Ingester) -> u64 {
    let (_, metrics) = ingester.get("/metrics").await;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("sluice_batch_records_count "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Sends nine records, a tenth of a second between them, and says in how many batches they came.
async fn sent_in_batches(scene: &Scene, settings: &[(&str, &str)], name: &str) -> u64 {
    let mut ingester = scene.ingester_with(settings);
    let send = |n: usize| {
        let event = credit(&format!("{name}-{n}"), 1, "1");
        scene.kafka().produce(&scene.topic, 0, [event]);
    };
    // The first batch of a take-over does not wait.
    send(0);
    wait_until("the first batch", STALL, async || {
        batches(&ingester).await == 1
    })
    .await;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for n in 1..10 {
        ticks.tick().await;
        send(n);
    }
    scene.caught_up().await;
    let count = batches(&ingester).await - 1;
    ingester.stop().await;
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn its_batch_timeout_is_the_longest_wait_of_a_batch_unless_the_delay_is_set() {
    let scene = Scene::new(1).await;
    let waits = [("BATCH_TIMEOUT_MS", "4000")];
    // The clock may tick in between.
    let together = sent_in_batches(&scene, &waits, "together").await;
    assert!(together <= 2, "{together} batches");
    let waits = [("BATCH_TIMEOUT_MS", "4000"), ("BATCHING_DELAY_MS", "10")];
    let apart = sent_in_batches(&scene, &waits, "apart").await;
    assert!(apart > 3, "{apart} batches");
}
