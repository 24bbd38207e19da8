//! The short form of `make nemesis`.

use std::time::Duration;

use proofs::nemesis::{Plan, run};
use proofs::rng::seed;
use proofs::stack::Stack;

/// How long faults come; healing, draining and comparing take about as long again.
const TIME: Duration = Duration::from_secs(75);

#[tokio::test(flavor = "multi_thread")]
async fn all_faults_at_once_lose_nothing_and_apply_nothing_twice() {
    let plan = Plan {
        seed: seed(),
        time: TIME,
        without: Vec::new(),
    };
    let outcome = run(&Stack::get(), &plan, |line| println!("{line}")).await;
    println!("{} faults; {}", outcome.faults, outcome.summary);
    assert!(outcome.faults > 30, "only {} faults", outcome.faults);
    assert!(outcome.records > 10_000, "only {} records", outcome.records);
    assert!(
        outcome.findings.is_empty(),
        "seed {}:\n  {}",
        plan.seed,
        outcome.findings.join("\n  ")
    );
}
