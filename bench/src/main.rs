//! `make bench`: how fast Sluice is, as ratios against what bounds it and what it replaces.
//!
//! Figures in events per second say more about a machine than about Sluice. So everything
//! is measured in one run on one private stack, what is compared takes turns within a round,
//! and what counts are the ratios of each round.

mod balances;
mod domain;
mod history;
mod ingester;
mod kafka;
mod peers;
mod random;
mod report;
mod sample;
mod stack;
mod targets;

use std::process::ExitCode;

use crate::stack::{Result, Stack};
use crate::targets::Figures;

#[derive(Clone, Copy)]
enum Part {
    Balances,
    Domain,
    History,
    Peers,
}

impl Part {
    /// Those of `make bench`; what peers need is fetched by `make bench-peers`.
    const ALL: [Self; 3] = [Self::Balances, Self::Domain, Self::History];

    fn name(self) -> &'static str {
        match self {
            Self::Balances => "balances",
            Self::Domain => "domain",
            Self::History => "history",
            Self::Peers => "peers",
        }
    }

    async fn run(self, stack: &Stack, rounds: Option<usize>) -> Result<Measured> {
        match self {
            Self::Balances => {
                balances::run(stack, rounds.unwrap_or(balances::DEFAULT_ROUNDS)).await
            }
            Self::Domain => domain::run(stack, rounds.unwrap_or(domain::DEFAULT_ROUNDS)).await,
            Self::History => history::run(stack).await,
            Self::Peers => peers::run(stack, rounds.unwrap_or(peers::DEFAULT_ROUNDS)).await,
        }
    }
}

/// What a part found: its tables, and its figures for the targets.
pub struct Measured {
    pub text: String,
    pub figures: Figures,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let (parts, rounds) = (parts()?, rounds()?);
    let stack = Stack::from_environment()?;
    eprintln!("migrating");
    stack.prepare().await?;
    let write = variable("BENCH_WRITE").is_some_and(|value| value == "1");
    let date = stack.machine().await?.date;
    for part in parts {
        let Measured { text, figures } = part.run(&stack, rounds).await?;
        let targets = targets::update(&date, &figures, write)?.to_string();
        println!("{text}\n\n{targets}\n");
        if write {
            report::write(part.name(), &text)?;
            report::write("targets", &targets)?;
        }
    }
    Ok(())
}

/// All, or the one that BENCH names.
fn parts() -> Result<Vec<Part>> {
    let Some(name) = variable("BENCH") else {
        return Ok(Part::ALL.to_vec());
    };
    let mut parts = Part::ALL.into_iter().chain([Part::Peers]);
    match parts.find(|part| part.name() == name) {
        Some(part) => Ok(vec![part]),
        None => Err(format!("BENCH must be balances, domain, history or peers, not {name}").into()),
    }
}

/// What BENCH_ROUNDS says, where it is set.
fn rounds() -> Result<Option<usize>> {
    let Some(text) = variable("BENCH_ROUNDS") else {
        return Ok(None);
    };
    let rounds = text
        .parse()
        .ok()
        .filter(|rounds| (1..=100).contains(rounds));
    match rounds {
        Some(rounds) => Ok(Some(rounds)),
        None => Err(format!("BENCH_ROUNDS must be 1 to 100, not {text}").into()),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
