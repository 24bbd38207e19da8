//! The short form of `make nemesis`.

use std::time::Duration;

use proofs::families::schema::EventType;
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
    let stack = Stack::get();
    let outcome = run(&stack, &plan, |line| println!("{line}")).await;
    // Other tests expect that nobody has made them.
    let types = EventType::all().into_iter().map(|found| found.name);
    let made: Vec<String> = types
        .filter(|name| stack.kafka.partitions(name) > 0)
        .collect();
    stack.kafka.delete_topics(&made).await;
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
