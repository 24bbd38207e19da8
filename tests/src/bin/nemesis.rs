//! `make nemesis`: all faults at once for MINUTES, then everything must drain and be as the reference has it.
//! SEED=n repeats a run; WITHOUT=kill,cut leaves out faults.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use proofs::nemesis::{Plan, run};
use proofs::stack::Stack;

fn number(name: &str) -> Option<f64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| {
        eprintln!("nemesis: {name} must be a number, not {text:?}");
        std::process::exit(2)
    }))
}

#[tokio::main]
async fn main() -> ExitCode {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    let seed = number("SEED").map_or(now.as_millis() as u64 % 1_000_000_007, |seed| seed as u64);
    let minutes = number("MINUTES").unwrap_or(10.0);
    let without = std::env::var("WITHOUT").unwrap_or_default();
    let names = without.split(',').filter(|name| !name.is_empty());
    let plan = Plan {
        seed,
        time: Duration::from_secs_f64(minutes * 60.0),
        without: names.map(str::to_owned).collect(),
    };
    println!("nemesis: seed {seed} (SEED={seed} repeats it), {minutes} minutes");
    let outcome = run(&Stack::get(), &plan, |line| println!("{line}")).await;
    println!("{}", outcome.summary);
    println!(
        "seed {seed}: {} faults, {} records, drained within {:.1} s, {} findings",
        outcome.faults,
        outcome.records,
        outcome.drained.as_secs_f64(),
        outcome.findings.len()
    );
    for finding in &outcome.findings {
        println!("  {finding}");
    }
    if outcome.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
