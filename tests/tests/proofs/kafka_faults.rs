//! Faults of Kafka besides losing records: topics created again after transaction markers, partitions that are added
//! later, transactions that stay open, topics with small size limits.

use std::time::{Duration, Instant};

use proofs::ingester::Ingester;
use proofs::kafka::Producer;
use proofs::scene::{STALL, Scene};
use proofs::stack::{sluice_command, unique};
use proofs::wait::{holds_for, wait_until};
use proofs::workload::{Message, credit};
use serde_json::Value;

fn producer(scene: &Scene) -> Producer {
    let producer = scene.kafka().producer_with(&[
        ("transactional.id", &unique("tx")),
        ("message.timeout.ms", "30000"),
    ]);
    producer.init_transactions();
    producer
}

/// Transactions of one record each, committed where `committed` says so.
fn transactions(scene: &Scene, prefix: &str, committed: &[bool]) {
    tokio::task::block_in_place(|| {
        let producer = producer(scene);
        for (number, commit) in committed.iter().enumerate() {
            let message = credit(&format!("{prefix} {number}"), number as i64, "1");
            producer.transaction(*commit, |producer| producer.send(&scene.topic, 0, &message));
        }
    });
}

/// To partition 1, which a producer that is kept does not know yet.
fn produce_to_new(scene: &Scene, messages: Vec<Message>) {
    let producer = scene.kafka().producer();
    for message in &messages {
        producer.send(&scene.topic, 1, message);
    }
    producer.flush();
}

async fn created_anew(scene: &Scene) {
    scene.kafka().delete_topic(&scene.topic).await;
    scene.kafka().create_topic(&scene.topic, 1, &[]).await;
}

/// The partition stands at `offset` and says why in `partition_status`; and it stays so.
async fn assert_halted(scene: &Scene, offset: i64, reason: &str) {
    let halted = format!(
        "SELECT count(*) FROM ledger.partition_status WHERE state = 'halted' AND reason LIKE '%{reason}%'
            AND commit_offset = {offset}"
    );
    wait_until(
        &format!("a halt because of {reason:?}"),
        Duration::from_secs(40),
        async || scene.database.count(&halted).await == 1,
    )
    .await;
    holds_for("the halt", Duration::from_secs(3), async || {
        scene.database.count(&halted).await == 1
    })
    .await;
    scene.verify_invariants().await;
}

/// Three transactions of one record each, all read: 4 is the last record, 5 a marker.
async fn read_up_to_a_marker(scene: &Scene) -> Ingester {
    transactions(scene, "first", &[true; 3]);
    let ingester = scene.ingester();
    wait_until("the last marker to be passed", STALL, async || {
        scene.committed().await == 6
    })
    .await;
    ingester
}

fn accept(scene: &Scene, arguments: &[&str]) -> (bool, String) {
    let partition = format!("{}/0", scene.topic);
    let all = [&["accept", &partition], arguments].concat();
    let url = scene.stack.admin_url(&scene.database.name);
    let output = sluice_command(&all, &[("ADMIN_DATABASE_URL", &url)])
        .output()
        .expect("sluice accept");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8(text).expect("text"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_behind_a_marker_halts_until_an_operator_decides() {
    let scene = Scene::new(1).await;
    let mut ingester = read_up_to_a_marker(&scene).await;
    ingester.stop().await;
    created_anew(&scene).await;
    transactions(&scene, "second", &[true; 5]);
    ingester.start_again();
    assert_halted(&scene, 6, "created anew").await;
    // Another instance, and the same one again, find the same.
    ingester.stop().await;
    transactions(&scene, "third", &[true; 5]);
    let mut other = scene.ingester();
    assert_halted(&scene, 6, "created anew").await;

    let (done, told) = accept(&scene, &["--offset", "3", "--why", "back"]);
    assert!(!done && told.contains("offsets do not go back"), "{told}");
    let resumed = sluice_command(
        &["resume", &format!("{}/0", scene.topic)],
        &[(
            "ADMIN_DATABASE_URL",
            &scene.stack.admin_url(&scene.database.name),
        )],
    )
    .output();
    let resumed = resumed.expect("sluice resume");
    assert!(!resumed.status.success(), "a halt is no pause");
    let (done, told) = accept(&scene, &["--offset", "10", "--why", "ticket 4711"]);
    assert!(done && told.contains("goes on at offset 10"), "{told}");
    wait_until("what comes behind", STALL, async || {
        scene.committed().await == 20
    })
    .await;
    scene.verify_invariants().await;
    let applied = "SELECT count(*) FROM ledger.event_verdicts WHERE verdict = 'APPLIED'";
    assert_eq!(scene.database.count(applied).await, 3 + 5);
    let recorded = "SELECT count(*) FROM ledger.partition_actions
        WHERE (action, why) = ('ACCEPT', 'ticket 4711') OR (action = 'HALT' AND why LIKE '%created anew%')";
    assert_eq!(scene.database.count(recorded).await, 2);
    // What was accepted is what is recognised from now on.
    other.stop().await;
    transactions(&scene, "fourth", &[true]);
    ingester.start_again();
    wait_until("what comes later", STALL, async || {
        scene.committed().await == 22
    })
    .await;
    let (done, told) = accept(&scene, &["--why", "again"]);
    assert!(!done && told.contains("is not halted"), "{told}");
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halt_of_a_running_ingester_does_not_end_when_the_new_topic_has_grown() {
    let scene = Scene::new(1).await;
    let mut ingester = read_up_to_a_marker(&scene).await;
    created_anew(&scene).await;
    assert_halted(&scene, 6, "created anew").await;
    transactions(&scene, "second", &[true; 5]);
    assert_halted(&scene, 6, "created anew").await;
    ingester.stop().await;
}

/// Nothing but the id can tell: the committed offset is where the new topic begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_and_pruned_up_to_the_committed_offset_halts() {
    let scene = Scene::new(1).await;
    let mut ingester = read_up_to_a_marker(&scene).await;
    ingester.stop().await;
    created_anew(&scene).await;
    transactions(&scene, "second", &[true; 5]);
    scene.kafka().delete_records(&scene.topic, 0, 6).await;
    ingester.start_again();
    assert_halted(&scene, 6, "was created anew: its id is").await;
    ingester.stop().await;
}

/// As for brokers without topic ids, and for rows of versions that stored none.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_topic_id_the_record_before_the_marker_tells_the_topic() {
    for (committed, reason) in [
        ([true; 5], "is not the one that was committed"),
        // Where the last committed record was there is an aborted one.
        ([true, true, false, true, true], "is not there any more"),
    ] {
        let scene = Scene::new(1).await;
        let forget = "UPDATE ledger.partition_progress SET topic_id = NULL";
        let mut ingester = read_up_to_a_marker(&scene).await;
        ingester.stop().await;
        // The same topic is recognised, and its id stored.
        scene
            .database
            .client
            .execute(forget, &[])
            .await
            .expect("a superuser");
        ingester.start_again();
        wait_until("the id to be stored", STALL, async || {
            let stored =
                "SELECT count(*) FROM ledger.partition_progress WHERE topic_id IS NOT NULL";
            scene.database.count(stored).await == 1
        })
        .await;
        ingester.stop().await;
        scene
            .database
            .client
            .execute(forget, &[])
            .await
            .expect("a superuser");
        created_anew(&scene).await;
        transactions(&scene, "second", &committed);
        ingester.start_again();
        assert_halted(&scene, 6, reason).await;
        ingester.stop().await;
    }
}

/// The tail behind the last committed record was lost, a marker, and records were written there.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_where_there_was_none_halts() {
    let scene = Scene::new(1).await;
    let credits = |numbers: std::ops::Range<i64>| -> Vec<Message> {
        numbers
            .map(|n| credit(&format!("event {n}"), n, "1"))
            .collect()
    };
    scene.kafka().produce(&scene.topic, 0, credits(0..5));
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    ingester.stop().await;
    // As if aborted records and markers had been there when these offsets were committed.
    let holes =
        "INSERT INTO ledger.offset_holes SELECT partition_id, 5, 9 FROM ledger.partition_progress;
        UPDATE ledger.partition_progress SET commit_offset = 9";
    scene
        .database
        .client
        .batch_execute(holes)
        .await
        .expect("a superuser");
    scene.kafka().produce(&scene.topic, 0, credits(5..12));
    ingester.start_again();
    assert_halted(&scene, 9, "holds a record, and held none").await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_does_not_halt_a_topic_of_the_same_id() {
    let scene = Scene::new(1).await;
    let mut ingester = read_up_to_a_marker(&scene).await;
    ingester.stop().await;
    // The last record is gone, the marker is not; then all is.
    for (low, round) in [(5, "a"), (9, "b")] {
        scene.kafka().delete_records(&scene.topic, 0, low).await;
        ingester.start_again();
        let committed = scene.committed().await;
        transactions(&scene, round, &[true; 2]);
        wait_until("what comes later", STALL, async || {
            scene.committed().await == committed + 4
        })
        .await;
        ingester.stop().await;
    }
    scene.verify_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_offset_latest_is_for_what_exists_at_the_first_start() {
    let scene = Scene::new(1).await;
    let later = unique("later");
    let credits = |prefix: &str| -> Vec<Message> {
        (0..20)
            .map(|n| credit(&format!("{prefix} {n}"), n, "1"))
            .collect()
    };
    scene.kafka().produce(&scene.topic, 0, credits("before"));
    let topics = format!("{},{later}", scene.topic);
    let settings = [("START_OFFSET", "latest"), ("BALANCE_TOPICS", &*topics)];
    let mut ingester = scene.ingester_with(&settings);
    wait_until("the start to be recorded", STALL, async || {
        scene.committed().await == 20
            && scene
                .database
                .count("SELECT count(*) FROM ledger.topic_starts")
                .await
                == 2
    })
    .await;
    ingester.stop().await;
    // A partition and a topic that appear later, with records before anybody looks.
    scene.kafka().grow_topic(&scene.topic, 2).await;
    scene.kafka().create_topic(&later, 1, &[]).await;
    wait_until("the new partition to be there", STALL, async || {
        scene.kafka().partitions(&scene.topic) == 2
    })
    .await;
    produce_to_new(&scene, credits("new partition"));
    scene.kafka().produce(&later, 0, credits("new topic"));
    ingester.start_again();
    scene
        .database
        .caught_up(scene.kafka(), &scene.topic, 2, STALL)
        .await;
    scene
        .database
        .caught_up(scene.kafka(), &later, 1, STALL)
        .await;
    let applied = "SELECT count(*) FROM ledger.event_verdicts WHERE verdict = 'APPLIED'";
    assert_eq!(scene.database.count(applied).await, 40);
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_is_lag_and_is_told() {
    let scene = Scene::new(1).await;
    let mut ingester = read_up_to_a_marker(&scene).await;
    let (producer, topic) = (
        tokio::task::block_in_place(|| producer(&scene)),
        &scene.topic,
    );
    tokio::task::block_in_place(|| {
        producer.begin();
        for number in 0..4 {
            producer.send(topic, 0, &credit(&format!("open {number}"), number, "1"));
        }
        producer.flush();
    });
    let told = async || {
        let health: Value = serde_json::from_str(&ingester.get("/health").await.1).expect("JSON");
        health["partitions"][0].clone()
    };
    wait_until("health to tell", Duration::from_secs(20), async || {
        let told = told().await;
        let reason = told["reason"].as_str().unwrap_or_default().to_owned();
        told["lag"] == 4 && reason.contains("waits behind an open transaction")
    })
    .await;
    let (_, metrics) = ingester.get("/metrics").await;
    let gauge = metrics
        .lines()
        .find(|line| line.starts_with("sluice_partition_open_transaction_offsets{"));
    assert!(gauge.is_some_and(|line| line.ends_with(" 4")), "{gauge:?}");
    let url = scene.stack.admin_url(&scene.database.name);
    let brokers = &scene.kafka().brokers;
    let output = sluice_command(
        &["partitions", "--output", "json"],
        &[("ADMIN_DATABASE_URL", &url), ("KAFKA_BROKERS", brokers)],
    )
    .output()
    .expect("sluice partitions");
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let row = &rows[0];
    assert_eq!(
        (&row["waiting"], &row["log_end_offset"]),
        (&4.into(), &10.into()),
        "{rows}"
    );
    assert_eq!(row["last_stable_offset"], 6);
    let status = "SELECT count(*) FROM ledger.partition_status WHERE reason LIKE 'waits behind an open transaction%' AND lag = 4";
    wait_until("the status to tell", STALL, async || {
        scene.database.count(status).await == 1
    })
    .await;
    // Nothing else is wrong, but nobody can know when it ends.
    wait_until("it to stand still", STALL, async || {
        told().await["state"] == "stalled"
    })
    .await;
    tokio::task::block_in_place(|| producer.commit());
    wait_until("the records and the marker", STALL, async || {
        scene.committed().await == 11
    })
    .await;
    wait_until("nothing to be told", STALL, async || {
        let told = told().await;
        told["reason"].is_null() && told["lag"] == 0 && told["state"] == "running"
    })
    .await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_partition_is_read_within_five_seconds_and_in_true_words() {
    let scene = Scene::new(1).await;
    let mut ingester = scene.ingester();
    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("first", 1, "1")]);
    scene.caught_up().await;
    scene.kafka().grow_topic(&scene.topic, 2).await;
    let added = Instant::now();
    wait_until("the new partition to be there", STALL, async || {
        scene.kafka().partitions(&scene.topic) == 2
    })
    .await;
    produce_to_new(&scene, vec![credit("second", 1, "1")]);
    scene
        .database
        .caught_up(scene.kafka(), &scene.topic, 2, STALL)
        .await;
    let took = added.elapsed();
    assert!(took < Duration::from_secs(5), "took {took:?}");
    assert!(
        !ingester.log().contains("does not exist"),
        "{}",
        ingester.log()
    );
    ingester.stop().await;
}

/// Dead letters with payloads of this size, all of which have to be in a topic that takes so little, whole.
async fn assert_published(limit: &str, letters: usize, bytes: usize) {
    let scene = Scene::new(1).await;
    let dlq = unique("dlq");
    scene
        .kafka()
        .create_topic(&dlq, 1, &[("max.message.bytes", limit)])
        .await;
    let message = |number: usize| Message {
        key: Some(format!("key {number}").into_bytes()),
        ..Message::of("{".repeat(bytes))
    };
    scene
        .kafka()
        .produce(&scene.topic, 0, (0..letters).map(message));
    let mut ingester = scene.ingester_with(&[("DLQ_TOPIC", &dlq)]);
    let published = "SELECT count(*) FROM ledger.dead_letters WHERE published_at IS NOT NULL";
    wait_until("all to be published", Duration::from_secs(20), async || {
        scene.database.count(published).await == letters as i64
    })
    .await;
    let found = scene.kafka().read(&dlq, 0);
    assert!(found.len() >= letters, "{}", found.len());
    for (record, number) in found.iter().zip(0..) {
        let sent = message(number);
        assert_eq!(
            (&record.message.key, &record.message.payload),
            (&sent.key, &sent.payload)
        );
    }
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dlq_topic_that_takes_little_gets_every_letter_whole() {
    assert_published("2000", 10, 150).await;
    assert_published("30000", 20, 2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_too_large_by_itself_loses_its_largest_part_and_no_neighbour_does() {
    let scene = Scene::new(1).await;
    let dlq = unique("dlq");
    scene
        .kafka()
        .create_topic(&dlq, 1, &[("max.message.bytes", "3000")])
        .await;
    let large_header = vec![("trace".to_owned(), Some(vec![b'x'; 4_000]))];
    let sent = [
        Message::of("{small"),
        Message::of("{".repeat(5_000)),
        Message {
            headers: large_header,
            ..Message::of("{with a header")
        },
        Message::of("{last"),
    ];
    scene.kafka().produce(&scene.topic, 0, sent.clone());
    let mut ingester = scene.ingester_with(&[("DLQ_TOPIC", &dlq)]);
    let published = "SELECT count(*) FROM ledger.dead_letters WHERE published_at IS NOT NULL";
    wait_until("all to be published", Duration::from_secs(30), async || {
        scene.database.count(published).await == 4
    })
    .await;
    let found = scene.kafka().read(&dlq, 0);
    // At least once: the last one to come is what counts.
    let at = |offset: &str| {
        let is_it = |(name, value): &(String, Option<Vec<u8>>)| {
            name == "sluice-offset" && value.as_deref() == Some(offset.as_bytes())
        };
        let mut letters = found.iter().rev().map(|record| &record.message);
        letters
            .find(|letter| letter.headers.iter().any(is_it))
            .expect("it is there")
    };
    let has = |letter: &Message, name: &str| letter.headers.iter().any(|(found, _)| found == name);
    for (offset, number) in [("0", 0), ("2", 2), ("3", 3)] {
        assert_eq!(at(offset).payload, sent[number].payload);
    }
    assert!(at("1").payload.is_none() && has(at("1"), "sluice-payload-omitted"));
    assert!(!has(at("2"), "trace") && has(at("2"), "sluice-headers-omitted"));
    ingester.stop().await;
}

/// The value of a header, as text.
fn header<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    let mut headers = message.headers.iter();
    let (_, value) = headers.find(|(found, _)| found == name)?;
    std::str::from_utf8(value.as_deref()?).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_too_large_by_itself_is_shortened_and_blocks_none_behind_it() {
    let scene = Scene::new(1).await;
    let results = unique("results");
    scene
        .kafka()
        .create_topic(&results, 1, &[("max.message.bytes", "2000")])
        .await;
    let changes = [r#"{"currencyCode":"USD","availableDelta":"1"}"#; 64].join(",");
    let many_changes = format!(
        r#"{{"eventId":"many","eventType":"balance.changed","data":{{"accountId":5,"changes":[{changes}]}}}}"#
    );
    let sent = [
        credit("small", 1, "1"),
        Message {
            headers: vec![("trace".to_owned(), Some(vec![b'x'; 4_000]))],
            ..credit("with a header", 2, "1")
        },
        Message::of(many_changes),
        credit("last", 3, "1"),
    ];
    scene.kafka().produce(&scene.topic, 0, sent);
    let mut ingester = scene.ingester_with(&[("RESULTS_TOPIC", &results)]);
    let told = "SELECT count(*) FROM ledger.results_progress WHERE next_offset = 4";
    wait_until("all to be told", Duration::from_secs(30), async || {
        scene.database.count(told).await == 1
    })
    .await;
    // At least once: the last one to come is what counts.
    let found = scene.kafka().read(&results, 0);
    let at = |offset: i64| {
        let mut results = found.iter().rev().map(|record| &record.message);
        let of = |message: &&Message| {
            let result: Value = serde_json::from_slice(message.payload.as_deref()?).ok()?;
            (result["offset"] == offset).then_some(result)
        };
        let message = results.find(|message| of(message).is_some());
        let message = message.unwrap_or_else(|| panic!("offset {offset} is told"));
        (message, of(&message).expect("its result"))
    };
    for offset in [0, 1, 3] {
        let (message, result) = at(offset);
        assert_eq!(result["balances"].as_array().map(Vec::len), Some(1));
        assert_eq!(header(message, "sluice-balances-omitted"), None);
    }
    let (message, _) = at(1);
    assert_eq!(header(message, "trace"), None);
    assert_eq!(header(message, "sluice-headers-omitted"), Some("4005"));
    let (message, result) = at(2);
    assert_eq!(result["eventId"], "many");
    assert_eq!(result["verdict"], "APPLIED");
    assert!(result["balances"].is_null(), "{result}");
    assert!(header(message, "sluice-balances-omitted").is_some());
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_with_a_long_error_message_is_shortened_and_blocks_none_behind_it() {
    let scene = Scene::new(1).await;
    let dlq = unique("dlq");
    scene
        .kafka()
        .create_topic(&dlq, 1, &[("max.message.bytes", "2000")])
        .await;
    let long_winded =
        "CREATE FUNCTION public.long_winded() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION '%', repeat('é', 4000); END $$;
        CREATE TRIGGER long_winded BEFORE INSERT ON ledger.account_balances
        FOR EACH ROW WHEN (NEW.account_id = 666) EXECUTE FUNCTION public.long_winded()";
    let made = scene.database.client.batch_execute(long_winded).await;
    made.expect("a superuser");
    let sent = [credit("refused", 666, "1"), Message::of("{behind it")];
    scene.kafka().produce(&scene.topic, 0, sent);
    let settings = [("DLQ_TOPIC", dlq.as_str()), ("MAX_RETRY_ATTEMPTS", "1")];
    let mut ingester = scene.ingester_with(&settings);
    let published = "SELECT count(*) FROM ledger.dead_letters WHERE published_at IS NOT NULL";
    wait_until(
        "both to be published",
        Duration::from_secs(30),
        async || scene.database.count(published).await == 2,
    )
    .await;
    let found = scene.kafka().read(&dlq, 0);
    let at = |offset: &str| {
        let mut letters = found.iter().rev().map(|record| &record.message);
        letters
            .find(|letter| header(letter, "sluice-offset") == Some(offset))
            .expect("it is there")
    };
    let message = header(at("0"), "sluice-error-message").expect("words");
    assert!(
        message.starts_with('é') && message.len() < 2_000,
        "{message}"
    );
    let whole = header(at("0"), "sluice-error-message-shortened").expect("a mark");
    let bytes: usize = whole.parse().expect("a number");
    assert!(bytes >= 8_000, "{bytes}");
    assert_eq!(at("1").payload.as_deref(), Some(&b"{behind it"[..]));
    assert_eq!(header(at("1"), "sluice-error-message-shortened"), None);
    scene.verify_invariants().await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_original_travel_with_its_letter() {
    let scene = Scene::new(1).await;
    let dlq = unique("dlq");
    scene.kafka().create_topic(&dlq, 1, &[]).await;
    let headers = vec![
        ("traceparent".to_owned(), Some(b"00-4bf9".to_vec())),
        ("none".to_owned(), None),
        ("bytes".to_owned(), Some(vec![0, 255, 1])),
    ];
    let sent = Message {
        headers: headers.clone(),
        ..Message::of("{")
    };
    scene.kafka().produce(&scene.topic, 0, [sent]);
    let mut ingester = scene.ingester_with(&[("DLQ_TOPIC", &dlq)]);
    wait_until("the letter", STALL, async || {
        scene.kafka().ends(&dlq, 1) == [1]
    })
    .await;
    let found = scene.kafka().read(&dlq, 0).remove(0).message.headers;
    assert_eq!(found[..3], headers);
    // A letter of a balance topic knows when its record was made, as those of domain events do.
    let timed = "SELECT count(*) FROM ledger.dead_letters
        WHERE abs(record_time_ms - extract(epoch FROM clock_timestamp()) * 1000) < 60000";
    assert_eq!(scene.database.count(timed).await, 1);
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_original_travel_with_its_result() {
    let scene = Scene::new(1).await;
    let results = unique("results");
    scene.kafka().create_topic(&results, 1, &[]).await;
    let headers = vec![
        ("correlation".to_owned(), Some(b"4711".to_vec())),
        ("bytes".to_owned(), Some(vec![0, 255, 1])),
    ];
    let with_headers = |message: Message| Message {
        headers: headers.clone(),
        ..message
    };
    let sent = [
        with_headers(credit("a", 1, "1")),
        credit("b", 1, "1"),
        with_headers(Message::of("{")),
    ];
    scene.kafka().produce(&scene.topic, 0, sent);
    let mut ingester = scene.ingester_with(&[("RESULTS_TOPIC", &results)]);
    wait_until("the results", STALL, async || {
        scene.kafka().ends(&results, 1) == [3]
    })
    .await;
    let found = scene.kafka().read(&results, 0);
    let found: Vec<_> = found
        .into_iter()
        .map(|record| record.message.headers)
        .collect();
    assert_eq!(found, [headers.clone(), Vec::new(), headers.clone()]);
    wait_until("no header to be left behind", STALL, async || {
        scene
            .database
            .count("SELECT count(*) FROM ledger.result_headers")
            .await
            == 0
    })
    .await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_that_sluice_needs_for_itself_are_refused_by_name() {
    let scene = Scene::new(1).await;
    for name in [
        "KAFKA_DEBUG",
        "KAFKA_STATISTICS_INTERVAL_MS",
        "KAFKA_TOPIC_METADATA_REFRESH_INTERVAL_MS",
        "KAFKA_TOPIC_METADATA_PROPAGATION_MAX_MS",
        "KAFKA_LOG_QUEUE",
        "KAFKA_ENABLE_IDEMPOTENCE",
        "KAFKA_MESSAGE_TIMEOUT_MS",
        "KAFKA_DELIVERY_TIMEOUT_MS",
        "KAFKA_TRANSACTIONAL_ID",
    ] {
        let settings = [
            ("DATABASE_URL", scene.database.url.as_str()),
            ("KAFKA_BROKERS", &scene.kafka().brokers),
            (name, "1"),
        ];
        let output = sluice_command(&["run"], &settings)
            .output()
            .expect("sluice run");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {text}");
        assert!(
            text.contains(name) && text.contains("cannot be set"),
            "{text}"
        );
    }
}
