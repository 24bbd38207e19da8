//! Dead letters from end to end: what is produced to the dead letter topic, and what is printed on a terminal.

use std::time::Duration;

use proofs::scene::{STALL, Scene};
use proofs::stack::{sluice_command, unique};
use proofs::wait::{holds_for, wait_until};
use proofs::workload::Message;

use super::domain::Notes;

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_discarded_before_it_is_published_reaches_its_topic() {
    let scene = Scene::new(1).await;
    let dlq = unique("dlq");
    scene.kafka().create_topic(&dlq, 1, &[]).await;
    scene.kafka().produce(&scene.topic, 0, [Message::of("{")]);
    // This one has no outlet, so nothing is published.
    let mut silent = scene.ingester_with(&[("DLQ_TOPIC", "")]);
    scene.caught_up().await;
    silent.stop().await;
    let discard = "SELECT count(*) FROM sluice.discard_dead_letters(since => '-infinity', why => 'noise', dry_run => false)";
    assert_eq!(scene.database.count(discard).await, 1);
    let mut ingester = scene.ingester_with(&[("DLQ_TOPIC", &dlq)]);
    wait_until(
        "the discarded letter to be produced",
        STALL.max(Duration::from_secs(20)),
        async || scene.kafka().ends(&dlq, 1) == [1],
    )
    .await;
    let letter = scene.kafka().read(&dlq, 0).remove(0).message;
    assert_eq!(letter.payload.as_deref(), Some(b"{".as_slice()));
    ingester.stop().await;
    scene.verify_invariants().await;
}

/// The leader of a partition publishes its letters, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_topic_that_nobody_reads_wait_until_an_instance_is_told_to_read_it() {
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 1).await;
    notes.register(&scene).await;
    let (topic, dlq) = (notes.topic.as_str(), unique("dlq"));
    scene.kafka().create_topic(&dlq, 1, &[]).await;
    scene.kafka().produce(topic, 0, [Message::of("{")]);
    let mut silent = scene.ingester_with(&[("DLQ_TOPIC", ""), ("EVENT_TOPICS", topic)]);
    let (kafka, database) = (scene.kafka(), &scene.database);
    database.caught_up(kafka, topic, 1, STALL).await;
    silent.stop().await;
    let unregister = format!("SELECT sluice.unregister_handler('{topic}')");
    let unregistered = database.client.batch_execute(&unregister).await;
    unregistered.expect("a superuser");
    let mut others = scene.ingester_with(&[("DLQ_TOPIC", dlq.as_str()), ("EVENT_TOPICS", "")]);
    holds_for("the letter to wait", Duration::from_secs(15), async || {
        kafka.ends(&dlq, 1) == [0]
    })
    .await;
    others.stop().await;
    let mut reader = scene.ingester_with(&[("DLQ_TOPIC", dlq.as_str()), ("EVENT_TOPICS", topic)]);
    wait_until("the letter to be produced", STALL, async || {
        kafka.ends(&dlq, 1) == [1]
    })
    .await;
    reader.stop().await;
    scene.verify_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_letter_reaches_a_terminal_as_a_command() {
    let scene = Scene::new(1).await;
    // ESC and BEL as JSON escapes, so that the event id is one; an override of the direction as it is.
    let hostile = "{\"eventId\":\"\\u001b]0;owned\\u0007\u{202e}x\",\"eventType\":\"other\u{9b}2J\",\"data\":{}}";
    let message = Message {
        key: Some("\u{202e}key".as_bytes().to_vec()),
        ..Message::of(hostile)
    };
    scene.kafka().produce(&scene.topic, 0, [message]);
    let mut ingester = scene.ingester();
    scene.caught_up().await;
    ingester.stop().await;
    let id = scene
        .database
        .count("SELECT id FROM ledger.dead_letters")
        .await
        .to_string();
    for arguments in [
        &["show", &id][..],
        &["show", &id, "--output", "json"],
        &["list"],
        &["list", "--output", "jsonl"],
        &["export"],
        &["stats"],
        &["replay", "--id", &id],
        &["list", "--topic", "\u{1b}[31m\u{202e}"],
    ] {
        let all = [&["dlq"], arguments].concat();
        let output = sluice_command(&all, &[("ADMIN_DATABASE_URL", &scene.database.admin_url)])
            .output()
            .expect("sluice dlq");
        for (name, bytes) in [("stdout", output.stdout), ("stderr", output.stderr)] {
            let text = String::from_utf8(bytes).expect("text");
            let obeyed = text.chars().find(|c| {
                c.is_control() && !matches!(c, '\n' | '\t') || ('\u{202a}'..='\u{202e}').contains(c)
            });
            assert_eq!(obeyed, None, "{arguments:?}: {name}: {text:?}");
        }
    }
    let shown = sluice_command(
        &["dlq", "show", &id],
        &[("ADMIN_DATABASE_URL", &scene.database.admin_url)],
    )
    .output()
    .expect("sluice dlq");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("\\u001b]0;owned\\u0007\\u202ex"), "{shown}");
}
