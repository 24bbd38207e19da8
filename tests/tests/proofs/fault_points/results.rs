//! Results that a leader produces after it was frozen.

use proofs::fault_points::{FaultPoints, go_on, sluice_with_faults};
use proofs::ingester::Ingester;
use proofs::scene::{STALL, Scene};
use proofs::stack::unique;
use proofs::wait::wait_until;
use proofs::workload::Message;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make faults"]
async fn a_leader_that_stood_still_tells_no_verdict_older_than_what_its_successor_told() {
    let scene = Scene::new(1).await;
    let (kafka, database, points) = (
        scene.kafka(),
        &scene.database,
        FaultPoints::new(&scene.stack),
    );
    let told = unique("results");
    kafka.create_topic(&told, 1, &[]).await;
    let verdicts = || -> Vec<String> {
        let results = kafka.read(&told, 0).into_iter();
        let results = results.map(|record| record.message.payload.expect("a result"));
        let results = results.map(|result| serde_json::from_slice::<Value>(&result).expect("JSON"));
        results
            .map(|result| result["verdict"].as_str().expect("a verdict").to_owned())
            .collect()
    };

    points.arm("results.read", "freeze");
    let settings = [points.setting(), ("RESULTS_TOPIC", told.as_str())];
    let (url, topic) = (&database.url, &scene.topic);
    let mut leader =
        Ingester::start_build(sluice_with_faults(), &scene.stack, url, topic, &settings);
    kafka.produce(topic, 0, [Message::of("{")]);
    let frozen = points.reached("results.read", STALL).await;
    assert!(verdicts().is_empty(), "told before it was frozen");

    let mut successor = scene.ingester_with(&[("RESULTS_TOPIC", &told)]);
    wait_until("the successor to tell", STALL, async || {
        verdicts() == ["DEAD"]
    })
    .await;
    let replay = "SELECT count(*) FROM sluice.replay_dead_letters(ids => ARRAY(SELECT id FROM ledger.dead_letters), dry_run => false, why => 'cut off',
        payload => '{\"eventId\":\"e\",\"eventType\":\"balance.changed\",\"data\":{\"accountId\":1,\"changes\":[{\"currencyCode\":\"USD\",\"availableDelta\":\"1\"}]}}')";
    assert_eq!(database.count(replay).await, 1);
    wait_until("the new verdict to be told", STALL, async || {
        verdicts() == ["DEAD", "APPLIED"]
    })
    .await;

    go_on(frozen);
    leader
        .logs("does not lead the partition any more", STALL)
        .await;
    assert_eq!(verdicts(), ["DEAD", "APPLIED"]);
    leader.stop().await;
    successor.stop().await;
    scene.verify_invariants().await;
}
