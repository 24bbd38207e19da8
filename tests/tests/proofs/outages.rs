//! Long outages of services while balance and domain events are under load: no process ends because of them, and every
//! record that was sent is committed afterwards.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proofs::compare::Accounts;
use proofs::rng::{Rng, seed};
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::wait::wait_until;
use proofs::workload::{Message, Workload};

use crate::domain::Notes;

const PARTITIONS: i32 = 2;

/// What must be there after all notes that were sent.
#[derive(Default)]
struct Expected {
    /// The body of the latest time of each id, which is never told twice.
    newest: BTreeMap<String, (u64, String)>,
    applied: i64,
    duplicates: i64,
}

/// Notes at a rate, in random order of their times and some of them repeated, until told to stop.
struct NotesFeed {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Expected>,
}

impl NotesFeed {
    fn start(scene: &Scene, notes: &Arc<Notes>, rate: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, notes, kafka) = (stop.clone(), notes.clone(), scene.kafka().clone());
        let thread = std::thread::spawn(move || {
            let mut rng = Rng::new(seed());
            let producer = kafka.producer_with(&[("linger.ms", "1")]);
            let mut expected = Expected::default();
            let mut told: HashSet<(String, u64)> = HashSet::new();
            // A repeated event goes where it went before: there the first one comes first.
            let mut earlier: [Vec<Message>; PARTITIONS as usize] = Default::default();
            let (start, mut sent) = (Instant::now(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
                while sent < due {
                    sent += 1;
                    let partition = (sent % PARTITIONS as u64) as i32;
                    let earlier = &mut earlier[partition as usize];
                    let (id, second) = (rng.below(400).to_string(), rng.below(80_000));
                    let message = if rng.chance(50) && !earlier.is_empty() {
                        expected.duplicates += 1;
                        rng.pick(earlier).clone()
                    } else if told.insert((id.clone(), second)) {
                        let body = format!("body {sent}");
                        let message = notes.message(&format!("e{sent}"), &id, Some(&body), second);
                        earlier.push(message.clone());
                        expected.applied += 1;
                        let news = expected.newest.entry(id).or_default();
                        if news.1.is_empty() || news.0 < second {
                            *news = (second, body);
                        }
                        message
                    } else {
                        continue;
                    };
                    producer.send(&notes.topic, partition, &message);
                }
                producer.poll();
                std::thread::sleep(Duration::from_millis(1)); // the load's own clock
            }
            producer.flush();
            expected
        });
        Self { stop, thread }
    }

    async fn stop(self) -> Expected {
        self.stop.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(move || self.thread.join())
            .await
            .expect("a blocking task")
            .expect("Kafka took everything")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Away {
    Postgres,
    Kafka,
    Both,
}

async fn everything_drains_after(away: Away, outage: Duration) {
    let mut scene = Scene::new(PARTITIONS).await;
    let notes = Arc::new(Notes::new(&scene, PARTITIONS).await);
    notes.register(&scene).await;
    // Were tries counted during an outage, records would die of it at once.
    let settings = [
        ("EVENT_TOPICS", notes.topic.as_str()),
        ("MAX_RETRY_ATTEMPTS", "1"),
        ("RETRY_DELAY_MS", "10"),
        ("BATCH_SIZE", "150"),
        ("BATCHING_DELAY_MS", "2"),
    ];
    let mut ingester = scene.ingester_with(&settings);
    let balances = scene.feed(&Workload::new(seed()), 1_000);
    let stories = NotesFeed::start(&scene, &notes, 1_000);
    scene.committed_beyond(2_000).await;
    wait_until("notes to be projected", STALL, async || {
        scene.database.committed(&notes.topic).await > 2_000
    })
    .await;

    let (postgres, kafka) = (away != Away::Kafka, away != Away::Postgres);
    let control = async |concerned: bool, arguments: &[&str]| {
        if concerned {
            scene.stack.control(arguments).await;
        }
    };
    tokio::join!(
        control(postgres, &["postgres-stop", "fast"]),
        control(kafka, &["kafka-stop"])
    );
    tokio::time::sleep(outage).await; // the outage itself
    assert!(!ingester.has_ended(), "an outage is waited out");
    tokio::join!(
        control(postgres, &["postgres-start"]),
        control(kafka, &["kafka-start"])
    );
    scene.database.reconnect().await;
    // The load goes on: what comes after the outage has to pass as well.
    let (before, told) = (
        balances.sent(),
        scene.database.committed(&notes.topic).await,
    );
    wait_until("the load to go on", STALL, async || {
        balances.sent() > before + 1_000
            && scene.database.committed(&notes.topic).await > told + 1_000
    })
    .await;
    balances.stop().await;
    let expected = stories.stop().await;
    let drained = Instant::now();
    scene
        .database
        .caught_up(scene.kafka(), &notes.topic, PARTITIONS, STALL)
        .await;
    let report = scene.verify(Accounts::OfOnePartition).await;
    assert_mixed(&report);

    let died_of_it = "SELECT count(*) FROM ledger.dead_letters
        WHERE error_code IN ('APPLY_FAILED', 'HANDLER_FAILED', 'PARKED_BEHIND')";
    assert_eq!(scene.database.count(died_of_it).await, 0);
    for (verdict, count) in [
        ("APPLIED", expected.applied),
        ("DUPLICATE", expected.duplicates),
        ("DEAD", 0),
        ("REJECTED", 0),
    ] {
        let found = format!(
            "SELECT count(*) FROM ledger.event_verdicts WHERE topic = '{}' AND verdict = '{verdict}'",
            notes.topic
        );
        assert_eq!(scene.database.count(&found).await, count, "{verdict}");
    }
    let select = format!("SELECT id, body FROM domain.{}", notes.table);
    let rows = scene.database.client.query(&select, &[]).await;
    let rows = rows.expect("notes");
    let found: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let newest = expected.newest.into_iter();
    assert_eq!(found, newest.map(|(id, (_, body))| (id, body)).collect());
    println!(
        "{} s away: {} balance events and {} notes, drained and compared {:.1} s after the last one",
        outage.as_secs(),
        report.records,
        expected.applied + expected.duplicates,
        drained.elapsed().as_secs_f64()
    );
    ingester.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_may_be_away_for_twenty_seconds() {
    everything_drains_after(Away::Postgres, Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_may_be_away_for_twenty_seconds() {
    everything_drains_after(Away::Kafka, Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_may_be_away_for_a_minute() {
    everything_drains_after(Away::Both, Duration::from_secs(60)).await;
}
