//! Topics that begin late, have holes, lose records, or are deleted and created again.

use std::time::Duration;

use proofs::compare::Accounts;
use proofs::ingester::Ingester;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::stack::unique;
use proofs::wait::wait_until;
use proofs::workload::{Message, Workload, credit};

fn credits(prefix: &str, count: usize) -> Vec<Message> {
    (0..count)
        .map(|number| credit(&format!("{prefix} {number}"), number as i64 % 10, "1"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_transactions_and_markers_are_passed_over() {
    let seed = seed();
    let scene = Scene::new(2).await;
    let producer = scene.kafka().producer_with(&[
        ("transactional.id", &unique("tx")),
        ("message.timeout.ms", "30000"),
    ]);
    let (topic, mut streams) = (
        scene.topic.clone(),
        [0, 1].map(|partition| Workload::new(seed).stream(partition)),
    );
    let ended = tokio::task::spawn_blocking(move || {
        producer.init_transactions();
        for round in 0..20 {
            // The last transaction is aborted: the topic ends with records that nobody may see, and a marker.
            producer.transaction(round % 3 != 1, |producer| {
                for (partition, stream) in (0..).zip(&mut streams) {
                    stream
                        .take(100)
                        .for_each(|message| producer.send(&topic, partition, &message));
                }
            });
        }
    });
    let mut ingester = scene.ingester();
    ended.await.expect("transactions go through");
    // The coordinator answers before the last marker stands in every partition.
    wait_until("20 times 100 records and a marker", STALL, async || {
        scene.kafka().ends(&scene.topic, 2) == [2_020, 2_020]
    })
    .await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    let holes = scene
        .database
        .count("SELECT sum(next_offset - first_offset)::bigint FROM ledger.offset_holes")
        .await;
    assert!(
        holes >= 2 * 6 * 100,
        "aborted records are holes, but there are only {holes}"
    );
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compacted_offsets_are_holes() {
    let compacted = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "500"),
    ];
    let scene = Scene::with_topic(1, &compacted).await;
    let keyed = |prefix: &str, count: usize| -> Vec<Message> {
        let key = |number: usize| Some(format!("key {}", number % 10).into_bytes());
        credits(prefix, count)
            .into_iter()
            .enumerate()
            .map(|(number, message)| Message {
                key: key(number),
                ..message
            })
            .collect()
    };
    scene.kafka().produce(&scene.topic, 0, keyed("old", 300));
    // Only closed segments are compacted, and a segment is closed when a later record comes.
    let mut filler = 0;
    wait_until(
        "Kafka to compact the topic",
        Duration::from_secs(90),
        async || {
            if scene
                .kafka()
                .read(&scene.topic, 0)
                .iter()
                .filter(|record| record.message.key.as_deref() != Some(b"filler"))
                .count()
                <= 10
            {
                return true;
            }
            filler += 1;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let message = Message {
                key: Some(b"filler".to_vec()),
                ..credit(&format!("filler {filler}"), 99, "1")
            };
            scene.kafka().produce(&scene.topic, 0, [message]);
            false
        },
    )
    .await;
    // From here on every key is new, so that compaction no longer takes what the ingester and the reference read.
    let (_, end) = scene.kafka().watermarks(&scene.topic, 0);
    let mut ingester = scene.ingester();
    wait_until("the holes to be passed", STALL, async || {
        scene.committed().await == end
    })
    .await;
    scene.verify_invariants().await;
    let holes = scene
        .database
        .count("SELECT sum(next_offset - first_offset)::bigint FROM ledger.offset_holes")
        .await;
    assert!(
        holes >= 250,
        "compaction left holes, but only {holes} are known"
    );
    let verdicts = scene
        .database
        .count("SELECT count(*) FROM ledger.event_verdicts WHERE verdict = 'APPLIED'")
        .await;
    assert_eq!(verdicts + holes, end);
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_never_read_before_starts_at_the_first_record_there_is() {
    let scene = Scene::new(2).await;
    scene
        .kafka()
        .produce(&scene.topic, 0, credits("early", 100));
    scene.kafka().delete_records(&scene.topic, 0, 40).await;
    let mut ingester = scene.ingester();
    let report = scene.verify(Accounts::OfOnePartition).await;
    assert_eq!(report.count("APPLIED"), 60);
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_offset_latest_leaves_out_what_was_there_and_only_the_first_time() {
    let scene = Scene::new(1).await;
    scene
        .kafka()
        .produce(&scene.topic, 0, credits("before", 50));
    let latest = [("START_OFFSET", "latest")];
    let mut ingester = scene.ingester_with(&latest);
    wait_until("the start to be recorded", STALL, async || {
        scene.committed().await == 50
    })
    .await;
    scene.kafka().produce(&scene.topic, 0, credits("while", 10));
    scene.caught_up().await;
    ingester.stop().await;
    scene
        .kafka()
        .produce(&scene.topic, 0, credits("between", 10));
    let mut ingester = scene.ingester_with(&latest);
    scene.caught_up().await;
    scene.verify_invariants().await;
    assert_eq!(
        scene
            .database
            .count("SELECT count(*) FROM ledger.event_verdicts WHERE verdict = 'APPLIED'")
            .await,
        20
    );
    ingester.stop().await;
}

/// Two topics, both read to their ends; what happens to the first must not concern the second.
async fn two_topics() -> (Scene, String, Ingester) {
    let scene = Scene::new(1).await;
    let other = unique("other");
    scene.kafka().create_topic(&other, 1, &[]).await;
    scene
        .kafka()
        .produce(&scene.topic, 0, credits("first", 100));
    scene.kafka().produce(&other, 0, credits("other", 100));
    let topics = format!("{},{other}", scene.topic);
    let ingester = scene.ingester_with(&[("BALANCE_TOPICS", &topics)]);
    scene.caught_up().await;
    scene
        .database
        .caught_up(scene.kafka(), &other, 1, STALL)
        .await;
    (scene, other, ingester)
}

/// The first topic's partition stands still at 100 and says why, in words that contain `reason`; the other one goes on.
async fn assert_halted(scene: &Scene, other: &str, ingester: &Ingester, reason: &str) {
    let name = format!("{}/0", scene.topic);
    wait_until(
        &format!("a log line with {name:?} and {reason:?}"),
        Duration::from_secs(40),
        async || {
            ingester
                .log()
                .lines()
                .any(|line| line.contains(&scene.topic) && line.contains(reason))
        },
    )
    .await;
    for round in 0..3 {
        scene
            .kafka()
            .produce(other, 0, credits(&format!("later {round}"), 50));
        scene
            .database
            .caught_up(scene.kafka(), other, 1, STALL)
            .await;
    }
    assert_eq!(
        scene.committed().await,
        100,
        "a halted partition must not skip"
    );
    scene.verify_invariants().await;
    assert!(
        !ingester.log().contains("panicked"),
        "{}",
        ingester.log_tail()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn records_lost_to_retention_halt_that_partition_alone() {
    let (scene, other, mut ingester) = two_topics().await;
    ingester.stop().await;
    scene
        .kafka()
        .produce(&scene.topic, 0, credits("unread", 50));
    scene.kafka().delete_records(&scene.topic, 0, 130).await;
    ingester.start_again();
    assert_halted(&scene, &other, &ingester, "no longer in Kafka").await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_anew_and_shorter_halts_that_partition_alone() {
    let (scene, other, mut ingester) = two_topics().await;
    ingester.stop().await;
    scene.kafka().delete_topic(&scene.topic).await;
    scene.kafka().create_topic(&scene.topic, 1, &[]).await;
    scene.kafka().produce(&scene.topic, 0, credits("new", 30));
    ingester.start_again();
    assert_halted(&scene, &other, &ingester, "created anew").await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_anew_and_longer_halts_that_partition_alone() {
    let (scene, other, mut ingester) = two_topics().await;
    ingester.stop().await;
    scene.kafka().delete_topic(&scene.topic).await;
    scene.kafka().create_topic(&scene.topic, 1, &[]).await;
    scene.kafka().produce(&scene.topic, 0, credits("new", 300));
    ingester.start_again();
    assert_halted(&scene, &other, &ingester, "created anew").await;
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_anew_under_a_running_ingester_halts_that_partition_alone() {
    for records in [30, 300] {
        let (scene, other, mut ingester) = two_topics().await;
        scene.kafka().delete_topic(&scene.topic).await;
        scene.kafka().create_topic(&scene.topic, 1, &[]).await;
        scene
            .kafka()
            .produce(&scene.topic, 0, credits("new", records));
        assert_halted(&scene, &other, &ingester, "created anew").await;
        ingester.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_named_and_read_once_it_exists() {
    let scene = Scene::new(1).await;
    let later = unique("later");
    let topics = format!("{},{later}", scene.topic);
    let mut ingester = scene.ingester_with(&[("BALANCE_TOPICS", &topics)]);
    ingester
        .logs(&format!("{later} does not exist"), Duration::from_secs(20))
        .await;
    scene
        .kafka()
        .produce(&scene.topic, 0, credits("meanwhile", 10));
    scene.caught_up().await;
    scene.kafka().create_topic(&later, 1, &[]).await;
    scene.kafka().produce(&later, 0, credits("later", 10));
    scene
        .database
        .caught_up(scene.kafka(), &later, 1, STALL)
        .await;
    ingester.stop().await;
}
