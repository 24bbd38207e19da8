//! The contract's small cases, against this crate only.

mod support;

use std::collections::BTreeMap;

use base64::Engine;
use ledger::account::AccountKey;
use serde_json::Value;
use support::{Database, Payload, apply_cut};

struct Case {
    name: String,
    records: Vec<Payload>,
    /// Verdict and reason by offset.
    verdicts: Vec<(String, Option<String>)>,
    /// Available and frozen by `account/shard/currency`.
    balances: BTreeMap<String, (String, String)>,
}

fn cases() -> Vec<Case> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/conformance/cases.json"
    );
    let text =
        std::fs::read_to_string(path).expect("the conformance cases are part of the repository");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("the conformance cases are JSON");
    cases.iter().map(case).collect()
}

fn case(case: &Value) -> Case {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let records = case["records"].as_array().expect("records");
    let balances = case["balances"].as_object().expect("balances");
    Case {
        name: text(&case["name"]),
        records: records
            .iter()
            .map(|record| payload(&record["value"]))
            .collect(),
        verdicts: records
            .iter()
            .map(|record| {
                (
                    text(&record["verdict"]),
                    record["reason"].as_str().map(str::to_owned),
                )
            })
            .collect(),
        balances: balances
            .iter()
            .map(|(key, value)| (key.clone(), (text(&value[0]), text(&value[1]))))
            .collect(),
    }
}

fn payload(value: &Value) -> Payload {
    if value.is_null() {
        return None;
    }
    Some(match value["text"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => base64::engine::general_purpose::STANDARD
            .decode(value["base64"].as_str().expect("text or base64"))
            .expect("base64"),
    })
}

fn check(case: &Case, database: &Database, how: &str) {
    let verdicts: Vec<_> = database
        .decided
        .iter()
        .map(|decided| (decided.verdict.as_str().to_owned(), decided.reason.clone()))
        .collect();
    assert_eq!(
        verdicts, case.verdicts,
        "verdicts of `{}`, {how}",
        case.name
    );
    let name = |key: &AccountKey| format!("{}/{}/{}", key.account_id, key.shard_id, key.currency);
    let balances: BTreeMap<_, _> = database
        .balances
        .iter()
        .map(|(key, balance)| {
            (
                name(key),
                (balance.available.to_string(), balance.frozen.to_string()),
            )
        })
        .collect();
    assert_eq!(
        balances, case.balances,
        "balances of `{}`, {how}",
        case.name
    );
}

#[test]
fn there_are_39_cases() {
    assert_eq!(cases().len(), 39);
}

#[test]
fn in_one_batch() {
    for case in cases() {
        check(&case, &apply_cut(&case.records, &[]), "in one batch");
    }
}

#[test]
fn in_batches_of_one() {
    for case in cases() {
        check(
            &case,
            &apply_cut(&case.records, &vec![1; case.records.len()]),
            "in batches of one",
        );
    }
}

#[test]
fn cut_in_two_anywhere() {
    for case in cases() {
        for cut in 1..case.records.len() {
            check(
                &case,
                &apply_cut(&case.records, &[cut]),
                &format!("cut at {cut}"),
            );
        }
    }
}
