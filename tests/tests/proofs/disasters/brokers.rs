//! A broker that freezes, while its connections stay open.

use std::time::Duration;

use proofs::compare::Accounts;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene};
use proofs::wait::holds_for;
use proofs::watch::settled;
use proofs::workload::Workload;
use rustix::process::{Pid, Signal, kill_process};

/// Continues the broker also where the test fails meanwhile.
struct Frozen(Pid);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make disasters"]
async fn a_frozen_broker_costs_nobody_a_lease_and_no_record() {
    let scene = Scene::new(4).await;
    let mut instances = [scene.ingester(), scene.ingester()];
    let names = instances
        .each_ref()
        .map(|instance| instance.service_id.clone());
    let names = names.each_ref().map(String::as_str);
    settled(&scene.database, &scene.topic, 4, &names, STALL).await;
    let feed = scene.feed(&Workload::new(seed()), 1_000);
    scene.committed_beyond(2_000).await;
    let before = scene.database.progress(&scene.topic).await;

    let pid = std::fs::read_to_string(scene.stack.dir.join("kafka.pid")).expect("Kafka runs");
    let pid = Pid::from_raw(pid.trim().parse().expect("a pid")).expect("a pid");
    kill_process(pid, Signal::STOP).expect("it is ours");
    let frozen = Frozen(pid);
    holds_for(
        "every partition keeps its leader",
        Duration::from_secs(12),
        async || {
            let now = scene.database.progress(&scene.topic).await;
            now.iter().all(|(partition, now)| {
                let before = &before[partition];
                (&before.leader, before.fencing_token) == (&now.leader, now.fencing_token)
            })
        },
    )
    .await;
    drop(frozen);

    scene
        .committed_beyond(scene.committed().await + 2_000)
        .await;
    feed.stop().await;
    scene.verify(Accounts::OfOnePartition).await;
    for instance in &mut instances {
        instance.stop().await;
    }
}
