//! Clocks of ingesters and of the database that jump, or run too slowly or too fast.

use std::path::PathBuf;
use std::time::Duration;

use proofs::compare::{Accounts, compare};
use proofs::rng::seed;
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::stack::unique;
use proofs::workload::Workload;

use super::{Preloaded, faketime, goes_on};

/// A file that says how far a clock is off.
struct Clock(PathBuf);

impl Clock {
    fn new(scene: &Scene) -> Self {
        let clock = Self(scene.stack.dir.join(unique("clock")));
        clock.set("+0");
        clock
    }

    /// For example `-1h`, or `+0 x0.2` for a clock that runs at a fifth of its speed.
    fn set(&self, offset: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{offset}\n")).expect("the stack's folder is writable");
        std::fs::rename(new, &self.0).expect("one folder");
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

const JUMPS: [&str; 6] = ["+1h", "-1h", "+0", "+400d", "-400d", "+0"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make disasters"]
async fn an_ingester_whose_clock_jumps_or_lags_loses_nothing() {
    let scene = Scene::new(4).await;
    let library = faketime();
    let jumping = Clock::new(&scene);
    let wall = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", jumping.path()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    // Also its monotonic clock runs at a third of the true speed: it believes in leases that are long over.
    let slow = [("LD_PRELOAD", library.as_str()), ("FAKETIME", "+0 x0.33")];
    let mut instances = [
        scene.ingester_with(&wall),
        scene.ingester_with(&slow),
        scene.ingester(),
    ];
    let feed = scene.feed(&Workload::new(seed()), 1_000);
    scene.committed_beyond(1_000).await;
    for jump in JUMPS {
        jumping.set(jump);
        goes_on(&scene, 1_500, Duration::from_secs(20)).await;
    }
    // Whoever has the true clock goes: the others have to lead.
    instances[2].kill9();
    goes_on(&scene, 2_000, STALL).await;
    feed.stop().await;
    // For whatever it waits, it waits three times as long: too long for what is left to be read in time.
    instances[1].kill9();
    let report = scene.verify(Accounts::OfOnePartition).await;
    assert_mixed(&report);
    instances[0].stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make disasters"]
async fn a_database_whose_clock_jumps_loses_nothing() {
    let mut scene = Scene::new(4).await;
    let library = faketime();
    let clock = Clock::new(&scene);
    let stack = scene.stack.clone();
    let environment = [
        ("FAKETIME_TIMESTAMP_FILE", clock.path()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let preloaded = Preloaded::start(&stack, &library, &environment).await;
    scene.database.reconnect().await;
    let mut instances = [scene.ingester(), scene.ingester()];
    let feed = scene.feed(&Workload::new(seed()), 1_000);
    scene.committed_beyond(1_000).await;
    for jump in JUMPS {
        clock.set(jump);
        goes_on(&scene, 1_500, Duration::from_secs(20)).await;
        // A jump back makes the leases of the past last for an hour: a session that is gone ends them all the same.
        instances[0].kill9();
        goes_on(&scene, 1_500, Duration::from_secs(20)).await;
        instances[0].start_again();
    }
    feed.stop().await;
    scene.caught_up().await;
    let (stack, topic) = (&scene.stack, &scene.topic);
    let report = compare(stack, &scene.database, topic, 4, Accounts::OfOnePartition).await;
    report.assert_none();
    assert_mixed(&report);
    for (check, found) in scene.database.run_checks().await {
        // Both ask what was before what, and there this clock has lied.
        if !["check_history", "check_balance_met"].contains(&check.as_str()) {
            assert_eq!(found, None, "{check} found something");
        }
    }
    scene.database.audit(topic).await;
    for instance in &mut instances {
        instance.stop().await;
    }
    preloaded.end().await;
    scene.database.reconnect().await;
}
