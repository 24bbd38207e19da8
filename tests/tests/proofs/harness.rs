//! Tests of the test tools.

use std::time::Duration;

use proofs::compare::{Accounts, compare};
use proofs::database::{connect, unescape};
use proofs::proxy::{Point, Proxy};
use proofs::rng::seed;
use proofs::scene::Scene;
use proofs::workload::{Message, Workload, credit};

#[tokio::test(flavor = "multi_thread")]
async fn reading_gives_back_what_was_sent() {
    let scene = Scene::new(2).await;
    let workload = Workload::new(seed());
    scene.fill(&workload, 20_001).await;
    for (partition, count) in [(0, 10_001), (1, 10_000)] {
        let records = scene.kafka().read(&scene.topic, partition);
        let sent: Vec<Message> = workload.stream(partition).take(count).collect();
        assert!(
            records
                .iter()
                .zip(0..)
                .all(|(record, offset)| record.offset == offset)
        );
        assert!(
            records.into_iter().map(|record| record.message).eq(sent),
            "partition {partition}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_comparison_finds_what_is_missing() {
    let scene = Scene::new(1).await;
    let garbage = Message::of(b"garbage".as_slice());
    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("a", 1, "5"), garbage]);
    // Nobody has read the topic: two verdicts, a balance, a dead letter and the offset are missing.
    let report = compare(
        &scene.stack,
        &scene.database,
        &scene.topic,
        1,
        Accounts::OfOnePartition,
    )
    .await;
    assert_eq!(report.difference_count, 5, "{:?}", report.differences);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_passes_on_cuts_and_holds() {
    let scene = Scene::new(1).await;
    let proxy = Proxy::start(scene.stack.postgres_port).await;
    let direct = &scene.database.client;
    direct
        .batch_execute("CREATE TABLE rows (line text)")
        .await
        .expect("a table");
    let admin = scene
        .stack
        .url(&scene.stack.admin, proxy.port, &scene.database.name);

    let client = connect(&admin).await;
    insert_by_copy(&client, "first").await;
    client.batch_execute("COMMIT").await.expect("passed on");
    assert_eq!(proxy.commits(), 1);

    proxy.cut_commit_answers(1);
    insert_by_copy(&client, "second").await;
    assert!(
        client.batch_execute("COMMIT").await.is_err(),
        "the answer was cut"
    );
    assert_eq!(
        scene.database.count("SELECT count(*) FROM rows").await,
        2,
        "but the COMMIT had arrived"
    );

    let client = connect(&admin).await;
    let hold = proxy.hold_at(Point::BeforeCommit);
    insert_by_copy(&client, "third").await;
    let commit = tokio::spawn(async move { client.batch_execute("COMMIT").await });
    hold.reached().await;
    assert_eq!(
        scene.database.count("SELECT count(*) FROM rows").await,
        2,
        "the COMMIT has not arrived"
    );
    hold.release();
    tokio::time::timeout(Duration::from_secs(10), commit)
        .await
        .expect("in time")
        .expect("no panic")
        .expect("committed");
    assert_eq!(scene.database.count("SELECT count(*) FROM rows").await, 3);
}

async fn insert_by_copy(client: &tokio_postgres::Client, line: &'static str) {
    use futures_util::SinkExt;
    client.batch_execute("BEGIN").await.expect("a transaction");
    let sink = client
        .copy_in("COPY rows FROM STDIN")
        .await
        .expect("a COPY");
    let mut sink = std::pin::pin!(sink);
    sink.send(bytes::Bytes::from_static(line.as_bytes()))
        .await
        .expect("a row");
    sink.send(bytes::Bytes::from_static(b"\n"))
        .await
        .expect("its end");
    assert_eq!(sink.finish().await.expect("a COPY"), 1);
}

#[test]
fn text_of_a_copy_is_unescaped() {
    assert_eq!(unescape("\\N"), None);
    assert_eq!(unescape("a\\tb\\\\N\\n"), Some("a\tb\\N\n".into()));
}
