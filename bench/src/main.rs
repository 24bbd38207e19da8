//! `make bench`: how fast Sluice is, as ratios against what bounds it and what it replaces.
//!
//! Figures in events per second say more about a machine than about Sluice. So everything
//! is measured in one run on one private stack, what is compared takes turns within a round,
//! and what counts are the ratios of each round.

mod balances;
mod domain;
mod endurance;
mod fill;
mod history;
mod ingester;
mod kafka;
mod latency;
mod measure;
mod peers;
mod stack;

use std::process::ExitCode;

use crate::measure::targets::{Curves, Figures};
use crate::measure::{plot, report, targets};
use crate::stack::{Result, Stack};

/// In the order in which they are measured: the later ones empty and fill the ledger anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Balances,
    Domain,
    History,
    Steps,
    Latency,
    Memory,
    OpenTransaction,
    LogRows,
    Peers,
}

impl Part {
    /// Those of `make bench`; what peers need is fetched by `make bench-peers`.
    const ALL: [Self; 8] = [
        Self::Balances,
        Self::Domain,
        Self::History,
        Self::Steps,
        Self::Latency,
        Self::Memory,
        Self::OpenTransaction,
        Self::LogRows,
    ];

    /// The others take too long, in whichever form.
    fn is_in(self, form: Form) -> bool {
        form == Form::Full || !matches!(self, Self::OpenTransaction | Self::LogRows)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Balances => "balances",
            Self::Domain => "domain",
            Self::History => "history",
            Self::Steps => "steps",
            Self::Latency => "latency",
            Self::Memory => "memory",
            Self::OpenTransaction => "open-transaction",
            Self::LogRows => "log-rows",
            Self::Peers => "peers",
        }
    }

    async fn run(self, stack: &Stack, form: Form, rounds: Option<usize>) -> Result<Measured> {
        match self {
            Self::Balances => {
                balances::run(stack, rounds.unwrap_or(balances::DEFAULT_ROUNDS)).await
            }
            Self::Domain => {
                domain::run(stack, form, rounds.unwrap_or(domain::DEFAULT_ROUNDS)).await
            }
            Self::History => history::run(stack).await,
            Self::Steps => balances::steps::run(stack).await,
            Self::Latency => latency::run(stack, form).await,
            Self::Memory => endurance::memory::run(stack, form).await,
            Self::OpenTransaction => endurance::open_transaction::run(stack).await,
            Self::LogRows => endurance::log_rows::run(stack).await,
            Self::Peers => peers::run(stack, rounds.unwrap_or(peers::DEFAULT_ROUNDS)).await,
        }
    }
}

/// How much of a part is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Short,
    Full,
}

/// What a part found: its tables, its figures for the targets, and its curves for the plot.
pub struct Measured {
    pub text: String,
    pub figures: Figures,
    pub curves: Curves,
}

impl Measured {
    /// Without a curve.
    pub fn of(text: String, figures: Figures) -> Self {
        Self {
            text,
            figures,
            curves: Curves::default(),
        }
    }
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
    let ((parts, form), rounds) = (parts()?, rounds()?);
    let stack = Stack::from_environment()?;
    eprintln!("migrating");
    stack.prepare().await?;
    let write = variable("BENCH_WRITE").is_some_and(|value| value == "1");
    let date = stack.machine().await?.date;
    for part in parts {
        let measured = part.run(&stack, form, rounds).await?;
        let targets = targets::update(&date, &measured, write)?.to_string();
        println!("{}\n\n{targets}\n", measured.text);
        if write {
            report::write(part.name(), &measured.text)?;
            report::write("targets", &targets)?;
            plot::draw()?;
        }
    }
    Ok(())
}

/// What BENCH names: parts, or all; in their long forms where `full` is among the words.
fn parts() -> Result<(Vec<Part>, Form)> {
    let (mut parts, mut form) = (Vec::new(), Form::Short);
    for word in variable("BENCH").unwrap_or_default().split_whitespace() {
        let mut known = Part::ALL.into_iter().chain([Part::Peers]);
        match known.find(|part| part.name() == word) {
            Some(part) => parts.push(part),
            None if word == "full" => form = Form::Full,
            None => {
                let names = Part::ALL.map(Part::name).join(", ");
                return Err(format!("BENCH may name {names} or full, not {word}").into());
            }
        }
    }
    if parts.is_empty() {
        parts.extend(Part::ALL.into_iter().filter(|part| part.is_in(form)));
    }
    parts.sort();
    Ok((parts, form))
}

/// What BENCH_ROUNDS says, where it is set.
fn rounds() -> Result<Option<usize>> {
    number("BENCH_ROUNDS", 100)
}

/// A variable that is a whole number from 1, where it is set.
pub fn number(name: &str, most: usize) -> Result<Option<usize>> {
    let Some(text) = variable(name) else {
        return Ok(None);
    };
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=most).contains(number));
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(format!("{name} must be 1 to {most}, not {text}").into()),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
