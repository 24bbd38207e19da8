//! Payloads larger than MAX_EVENT_BYTES are dead, kept byte for byte, and delay no other record; nor do headers, which
//! have no limit of their own.

use std::time::Duration;

use proofs::scene::{STALL, Scene};
use proofs::stack::{sluice_command, unique};
use proofs::wait::wait_until;
use proofs::workload::Message;

use super::domain::Notes;

const DEFAULT: usize = 1 << 20;
const LARGE: usize = 5 << 20;

/// An event of exactly so many bytes: unknown fields are ignored.
fn sized(event_id: &str, event_type: &str, data: &str, bytes: usize) -> Message {
    let event = |pad: &str| {
        format!(
            r#"{{"eventId":"{event_id}","eventType":"{event_type}","timestamp":"2026-11-21T00:00:00Z","pad":"{pad}","data":{data}}}"#
        )
    };
    let pad = bytes - event("").len();
    let message = Message::of(event(&"x".repeat(pad)));
    assert_eq!(message.payload.as_ref().map(Vec::len), Some(bytes));
    message
}

const CREDIT: &str = r#"{"accountId":1,"changes":[{"currencyCode":"USD","availableDelta":"1"}]}"#;

fn credit(event_id: &str, bytes: usize) -> Message {
    sized(event_id, "balance.changed", CREDIT, bytes)
}

async fn large_topic(partitions: i32) -> Scene {
    Scene::with_topic(partitions, &[("max.message.bytes", "8388608")]).await
}

fn produce(scene: &Scene, topic: &str, messages: &[Message]) {
    let producer = scene
        .kafka()
        .producer_with(&[("message.max.bytes", "8388608")]);
    for message in messages {
        producer.send(topic, 0, message);
    }
    producer.flush();
}

/// Verdict and reason of each record, in order.
async fn verdicts(scene: &Scene, topic: &str) -> Vec<String> {
    let verdicts = "SELECT verdict || coalesce(' ' || reason, '') FROM ledger.event_verdicts
        WHERE topic = $1 ORDER BY kafka_offset";
    let rows = scene.database.client.query(verdicts, &[&topic]).await;
    rows.expect("verdicts")
        .iter()
        .map(|row| row.get(0))
        .collect()
}

const DEAD: &str = "DEAD INVALID_EVENT";

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_may_have_max_event_bytes_and_no_more() {
    let scene = large_topic(1).await;
    let notes = Notes::new(&scene, 1).await;
    notes.register(&scene).await;
    let dlq = unique("dlq");
    scene.kafka().create_topic(&dlq, 1, &[]).await;
    let settings = [
        ("MAX_EVENT_BYTES", "1024"),
        ("EVENT_TOPICS", notes.topic.as_str()),
        ("DLQ_TOPIC", &dlq),
    ];
    let mut ingester = scene.ingester_with(&settings);
    let balance = [
        credit("fits", 1024),
        credit("one-more", 1025),
        credit("large", LARGE),
        credit("behind", 1023),
    ];
    produce(&scene, &scene.topic, &balance);
    let note = |id: &str, bytes| {
        let data = format!(r#"{{"id":"{id}","body":"b"}}"#);
        sized(id, &notes.topic, &data, bytes)
    };
    let domain = [
        note("a", 1024),
        note("b", 1025),
        note("c", 500_000),
        note("d", 1000),
    ];
    produce(&scene, &notes.topic, &domain);
    scene.caught_up().await;
    scene
        .database
        .caught_up(scene.kafka(), &notes.topic, 1, STALL)
        .await;

    let expected = ["APPLIED", DEAD, DEAD, "APPLIED"];
    for (topic, records) in [(&scene.topic, &balance), (&notes.topic, &domain)] {
        assert_eq!(verdicts(&scene, topic).await, expected, "{topic}");
        let letters = "SELECT payload, error_message FROM ledger.dead_letters WHERE topic = $1 ORDER BY kafka_offset";
        let letters = scene
            .database
            .client
            .query(letters, &[topic])
            .await
            .expect("letters");
        for (letter, record) in letters.iter().zip(&records[1..3]) {
            assert_eq!(
                letter.get::<_, Option<Vec<u8>>>(0),
                record.payload,
                "byte for byte"
            );
            let bytes = record.payload.as_ref().expect("bytes").len();
            let words = format!("The payload has {bytes} bytes; MAX_EVENT_BYTES allows 1024.");
            assert_eq!(letter.get::<_, String>(1), words);
        }
    }
    // Their topic takes a megabyte: the letter that is larger comes without its payload, the others whole.
    wait_until("four letters in their topic", STALL, async || {
        let letters = scene.kafka().read(&dlq, 0);
        let of = |bytes: usize| {
            letters
                .iter()
                .any(|letter| letter.message.payload.as_ref().map(Vec::len) == Some(bytes))
        };
        let omitted = letters.iter().any(|letter| {
            let header = (
                "sluice-payload-omitted".to_owned(),
                Some(LARGE.to_string().into_bytes()),
            );
            letter.message.payload.is_none() && letter.message.headers.contains(&header)
        });
        of(1025) && of(500_000) && omitted
    })
    .await;
    scene.verify_invariants().await;
    ingester.stop().await;

    // An operator may replay one by hand, whatever its size.
    let id = "SELECT id FROM ledger.dead_letters WHERE octet_length(payload) = 5242880";
    let id = scene.database.count(id).await.to_string();
    let replay = [
        "dlq",
        "replay",
        "--id",
        &id,
        "--apply",
        "--why",
        "it is meant",
    ];
    let environment = [("ADMIN_DATABASE_URL", scene.database.admin_url.as_str())];
    let replayed = sluice_command(&replay, &environment)
        .output()
        .expect("sluice dlq");
    assert!(
        replayed.status.success(),
        "{}",
        String::from_utf8_lossy(&replayed.stderr)
    );
    assert_eq!(
        verdicts(&scene, &scene.topic).await,
        ["APPLIED", DEAD, "APPLIED", "APPLIED"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_payload_may_have_a_mebibyte() {
    let scene = large_topic(1).await;
    let mut ingester = scene.ingester();
    let records = [
        credit("fits", DEFAULT),
        credit("one-more", DEFAULT + 1),
        credit("behind", 300),
    ];
    produce(&scene, &scene.topic, &records);
    scene.caught_up().await;
    assert_eq!(
        verdicts(&scene, &scene.topic).await,
        ["APPLIED", DEAD, "APPLIED"]
    );
    ingester.stop().await;
    for (value, word) in [("1023", "1024"), ("67108865", "67108864")] {
        let environment = [
            ("DATABASE_URL", scene.database.url.as_str()),
            ("KAFKA_BROKERS", &scene.kafka().brokers),
            ("MAX_EVENT_BYTES", value),
        ];
        let refused = sluice_command(&["run"], &environment)
            .output()
            .expect("sluice run");
        let text = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{text}");
        assert!(
            text.contains("MAX_EVENT_BYTES") && text.contains(word),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_large_records_leaves_memory_alone() {
    const RECORDS: usize = 60;
    let scene = large_topic(1).await;
    let dlq = unique("dlq");
    scene
        .kafka()
        .create_topic(&dlq, 1, &[("max.message.bytes", "8388608")])
        .await;
    let large: Vec<Message> = (0..RECORDS)
        .map(|n| credit(&n.to_string(), LARGE))
        .collect();
    produce(&scene, &scene.topic, &large);
    drop(large);
    let mut ingester = scene.ingester_with(&[("DLQ_TOPIC", &dlq)]);
    scene.caught_up().await;
    let all = RECORDS as i64;
    wait_until(
        "all letters in their topic",
        Duration::from_secs(120),
        async || scene.kafka().ends(&dlq, 1)[0] >= all,
    )
    .await;
    // All of them together are 300 MiB.
    let peak = ingester.peak_rss_bytes();
    assert!(peak < 200 << 20, "{} MiB at the most", peak >> 20);
    println!("{} MiB at the most", peak >> 20);
    assert_eq!(
        scene
            .database
            .count("SELECT count(*) FROM ledger.dead_letters")
            .await,
        all
    );
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_large_headers_leaves_memory_alone() {
    const RECORDS: usize = 400;
    let scene = large_topic(1).await;
    let (dlq, results) = (unique("dlq"), unique("results"));
    for topic in [&dlq, &results] {
        scene
            .kafka()
            .create_topic(topic, 1, &[("max.message.bytes", "8388608")])
            .await;
    }
    // Of small records, every second one dead.
    let flood: Vec<Message> = (0..RECORDS)
        .map(|n| Message {
            headers: vec![("trace".to_owned(), Some(vec![b'x'; DEFAULT]))],
            ..match n % 2 {
                0 => credit(&n.to_string(), 300),
                _ => Message::of("{"),
            }
        })
        .collect();
    produce(&scene, &scene.topic, &flood);
    drop(flood);
    let mut ingester = scene.ingester_with(&[
        ("DLQ_TOPIC", &dlq),
        ("RESULTS_TOPIC", &results),
        // What librdkafka reads ahead, in records: of bytes it counts keys and payloads only.
        ("KAFKA_QUEUED_MIN_MESSAGES", "10"),
    ]);
    scene.caught_up().await;
    let all = RECORDS as i64;
    wait_until(
        "all results and letters in their topics",
        Duration::from_secs(120),
        async || {
            let kafka = scene.kafka();
            kafka.ends(&results, 1)[0] >= all && kafka.ends(&dlq, 1)[0] >= all / 2
        },
    )
    .await;
    // All of them together are 400 MiB, and results and letters copy what they send several times over.
    let peak = ingester.peak_rss_bytes();
    assert!(peak < 300 << 20, "{} MiB at the most", peak >> 20);
    println!("{} MiB at the most", peak >> 20);
    let whole = |topic: &str| {
        let records = scene.kafka().read(topic, 0);
        let has_it = |message: &Message| {
            let mut headers = message.headers.iter();
            headers.any(|(_, value)| value.as_ref().is_some_and(|value| value.len() == DEFAULT))
        };
        records
            .iter()
            .filter(|record| has_it(&record.message))
            .count()
    };
    assert!(whole(&results) >= RECORDS && whole(&dlq) >= RECORDS / 2);
    scene.verify_invariants().await;
    ingester.stop().await;
}
