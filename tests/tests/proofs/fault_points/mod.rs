//! Every named fault point with every action: between any two durable effects the ingester and the backend crash,
//! freeze, fail and wait, and afterwards the outcome of every record equals the reference ledger.

mod chapter;
mod release;
mod results;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use proofs::fault_points::{Side, all};
use proofs::rng::{Rng, seed};

use chapter::{Chapter, Path};

/// Points of functions that are written in SQL: triggers put them between their statements, see `chapter::TRIGGERS`.
const IN_SQL: [&str; 6] = [
    "sql.step_down",
    "sql.prune_retention",
    "sql.prune_carried",
    "sql.prune_letters",
    "sql.replay_recorded",
    "sql.discard_recorded",
];

const ACTIONS: [&str; 4] = ["crash", "freeze", "raise", "delay 400"];

/// On which paths a point lies.
fn paths(point: &str) -> Vec<Path> {
    let (place, step) = point.split_once('.').expect("place.step");
    match place {
        "group" | "alone" | "acquire" | "renew" | "release" | "lease" | "results" | "correct"
        | "sql" => vec![Path::Group],
        "copy" => vec![Path::Copy],
        "events" => vec![Path::Domain],
        "apply" => vec![Path::Group, Path::Copy],
        "batch" | "fence" | "commit" => vec![Path::Group, Path::Copy, Path::Domain],
        "letters" if step == "retried" => vec![Path::Domain],
        "letters" => vec![Path::Group, Path::Domain],
        "replay" if matches!(step, "handled" | "events_forgotten") => vec![Path::Domain],
        "replay" if step == "balances_forgotten" => vec![Path::Group],
        "replay" => vec![Path::Group, Path::Domain],
        _ => panic!("no scenario reaches the fault point {point}: say here on which path it lies"),
    }
}

/// What makes no sense: behind the commit record there is no error to raise, PostgreSQL would panic.
fn is_possible(point: &str, action: &str) -> bool {
    (point, action) != ("commit.durable", "raise")
}

type Cases = BTreeMap<Path, Vec<(String, Side, &'static str)>>;

/// Every point on every path, each with the actions that `choose` gives.
fn cases(mut choose: impl FnMut(&str) -> Vec<&'static str>) -> Cases {
    let in_sql = IN_SQL.map(|point| (point.to_owned(), Side::Extension));
    let mut cases = Cases::new();
    for (point, side) in all().into_iter().chain(in_sql) {
        for path in paths(&point) {
            let actions = choose(&point).into_iter();
            let cases = cases.entry(path).or_default();
            cases.extend(actions.map(|action| (point.clone(), side, action)));
        }
    }
    cases
}

async fn go_through(cases: Cases, seed: u64) {
    let mut rng = Rng::new(seed);
    for (path, cases) in cases {
        let start = Instant::now();
        let mut chapter = Chapter::begin(path, seed).await;
        let mut points = BTreeSet::new();
        let count = cases.len();
        for (point, side, action) in cases {
            chapter.case(&mut rng, &point, side, action).await;
            points.insert(point);
        }
        let report = chapter.end().await;
        println!(
            "{path:?}: {} points, {count} cases, {report}, 0 differences, {:.0} s",
            points.len(),
            start.elapsed().as_secs_f64()
        );
    }
}

/// The short form: each point on each of its paths once, with an action that the seed chooses.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "make faults"]
async fn every_fault_point_is_survived() {
    let seed = seed();
    let mut rng = Rng::stream(seed, 1);
    let cases = cases(|point| {
        loop {
            let action = *rng.pick(&ACTIONS);
            if is_possible(point, action) {
                break vec![action];
            }
        }
    });
    go_through(cases, seed).await;
}

/// The whole matrix.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a quarter of an hour: make faults"]
async fn every_fault_point_is_survived_with_every_action() {
    let cases = cases(|point| {
        let possible = ACTIONS.into_iter();
        possible
            .filter(|action| is_possible(point, action))
            .collect()
    });
    go_through(cases, seed()).await;
}
