//! The samples of `samples/`, as a service would use them: each publishes to a real Kafka and reads the verdicts of its own
//! events back. Java, Python and Rust with every run of the tests; Node.js and Go, whose clients take minutes to build, by
//! `make samples`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use proofs::compare::Accounts;
use proofs::scene::Scene;
use proofs::stack::{repository, unique};
use serde_json::Value;

const ACCOUNTS: [&str; 6] = ["42", "7", "1", "1000001", "9223372036854775807", "-5"];
const PARTITIONS: i32 = 8;

/// The words of the lines that a sample prints and that begin with one of these.
fn lines(printed: &str, first: &str) -> Vec<Vec<String>> {
    let words = printed
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect());
    words
        .filter(|words: &Vec<String>| words.first().is_some_and(|word| word == first))
        .collect()
}

/// What a sample prints that publishes for all accounts.
fn run(scene: &Scene, results: &str, language: &str) -> String {
    let output = Command::new(repository().join("scripts/sample.sh"))
        .arg(language)
        .args(ACCOUNTS)
        .env("KAFKA_BROKERS", &scene.kafka().brokers)
        .env("BALANCE_TOPIC", &scene.topic)
        .env("RESULTS_TOPIC", results)
        .output()
        .expect("bash");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{language}: {printed}{errors}");
    printed
}

/// All publish at once; each gets the verdicts of its own events and of no other.
async fn publish_from(languages: &[&str]) {
    let scene = Scene::new(PARTITIONS).await;
    let results = unique("results");
    scene.kafka().create_topic(&results, 3, &[]).await;
    let settings = [
        ("RESULTS_TOPIC", results.as_str()),
        ("RESULTS_KEY", "source"),
    ];
    let mut ingester = scene.ingester_with(&settings);
    let printed: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = languages
            .iter()
            .map(|language| scope.spawn(|| run(&scene, &results, language)))
            .collect();
        let ended = running.into_iter().map(|running| running.join());
        ended.map(|ended| ended.expect("it ends well")).collect()
    });
    // Of a key, the one partition that all choose.
    let mut partitions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut sent: BTreeMap<String, String> = BTreeMap::new();
    for (language, printed) in languages.iter().zip(&printed) {
        let lines_sent = lines(printed, "sent");
        assert_eq!(lines_sent.len(), ACCOUNTS.len(), "{language}: {printed}");
        for words in &lines_sent {
            let (event_id, account, partition) = (&words[1], &words[3], &words[5]);
            let chosen = partitions.entry(account.clone()).or_default();
            chosen.insert(partition.clone());
            sent.insert(event_id.clone(), format!("sample-{language}"));
        }
        let verdicts = lines(printed, "verdict");
        let told: BTreeSet<&String> = verdicts.iter().map(|words| &words[1]).collect();
        let own: BTreeSet<&String> = lines_sent.iter().map(|words| &words[1]).collect();
        assert_eq!(told, own, "{language}: {printed}");
        assert!(
            verdicts.iter().all(|words| words[2] == "APPLIED"),
            "{printed}"
        );
    }
    assert!(
        partitions.values().all(|chosen| chosen.len() == 1),
        "{partitions:?}"
    );
    // By murmur2, as docs/publishing.md says.
    assert_eq!(partitions["42"], BTreeSet::from(["4".to_owned()]));
    let query = "SELECT account_id::text FROM ledger.account_balances WHERE available = $1::bigint AND frozen = 0";
    let count = languages.len() as i64;
    let balances = scene.database.client.query(query, &[&count]).await;
    let balances = balances.expect("a query");
    let credited: BTreeSet<String> = balances.iter().map(|row| row.get(0)).collect();
    assert_eq!(credited, ACCOUNTS.map(str::to_owned).into());
    // Whoever reads results finds each event of each sample once, with its source.
    let told = (0..3).flat_map(|partition| scene.kafka().read(&results, partition));
    let told: BTreeMap<String, String> = told
        .map(|record| {
            let result: Value =
                serde_json::from_slice(&record.message.payload.expect("a result")).expect("JSON");
            let text = |name: &str| result[name].as_str().expect("a text").to_owned();
            assert_eq!(record.message.key, Some(text("source").into_bytes()));
            (text("eventId"), text("source"))
        })
        .collect();
    assert_eq!(told, sent);
    ingester.stop().await;
    scene.kafka().delete_topic(&results).await;
    scene.verify(Accounts::OfOnePartition).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn java_python_and_rust_publish_by_their_samples_and_read_their_own_verdicts() {
    publish_from(&["java", "python", "rust"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make samples: the clients of Node.js and Go take minutes to build"]
async fn all_five_languages_publish_by_their_samples_and_read_their_own_verdicts() {
    publish_from(&["java", "python", "rust", "node", "go"]).await;
}
