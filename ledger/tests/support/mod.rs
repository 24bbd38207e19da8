//! A database in memory: what the extension does with a batch, over maps instead of tables.
//!
//! It decodes, claims identities, folds and writes with the crate's own code, so that the tests
//! exercise the same code as the extension.

#![allow(dead_code)] // each test binary uses its own part

use std::collections::{BTreeMap, HashMap};

use ledger::account::AccountKey;
use ledger::decode::decode_balance_event;
use ledger::event::Change;
use ledger::fold::{self, Balance, Claim, Leg};
use ledger::identity::{Identity, PayloadHash};
use ledger::verdict::Verdict;

/// The payload of a record; `None` for a tombstone.
pub type Payload = Option<Vec<u8>>;

/// What is decided about one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    pub verdict: Verdict,
    pub reason: Option<String>,
    /// The logged balance of each change, `after` or met.
    pub logged: Vec<(AccountKey, Balance)>,
}

/// What a batch is answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied,
    AlreadyCommitted,
    Stale,
}

/// One partition's view of the database.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Database {
    pub balances: BTreeMap<AccountKey, Balance>,
    pub identities: HashMap<Identity, PayloadHash>,
    /// By offset.
    pub decided: Vec<Decided>,
}

struct Decoded {
    carried: Option<(Identity, PayloadHash)>,
    changes: Vec<Change>,
    dead: Option<&'static str>,
}

fn decode(payload: &Payload) -> Decoded {
    let mut changes = Vec::new();
    match decode_balance_event(payload.as_deref(), &mut changes) {
        Ok(head) => {
            let hash = PayloadHash::of(payload.as_deref().unwrap_or_default());
            Decoded {
                carried: Some((head.identity(), hash)),
                changes,
                dead: None,
            }
        }
        Err(defect) => {
            assert!(changes.is_empty(), "a dead record leaves no change");
            Decoded {
                carried: None,
                changes,
                dead: Some(defect.reason.as_str()),
            }
        }
    }
}

impl Database {
    /// Applies the records at `from..from + batch.len()`, if the committed offset is `from`.
    pub fn apply(&mut self, from: usize, batch: &[Payload]) -> Outcome {
        if self.decided.len() == from + batch.len() && !batch.is_empty() {
            return Outcome::AlreadyCommitted;
        }
        if self.decided.len() != from {
            return Outcome::Stale;
        }
        let decoded: Vec<Decoded> = batch.iter().map(decode).collect();
        let carried: Vec<_> = decoded.iter().map(|record| record.carried).collect();
        let first = fold::first_carriers(&carried);
        let claims = fold::claims(&carried, &first, |identity| {
            self.identities.get(identity).copied()
        });
        for carrier in &first {
            self.identities
                .entry(carrier.identity)
                .or_insert(carrier.payload_hash);
        }

        let mut keys: Vec<AccountKey> = decoded
            .iter()
            .flat_map(|record| record.changes.iter().map(|change| change.key))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let mut book: Vec<Balance> = keys
            .iter()
            .map(|key| self.balances.get(key).copied().unwrap_or_default())
            .collect();
        let mut touched = vec![false; keys.len()];

        for (record, claim) in decoded.iter().zip(claims) {
            self.decided
                .push(decide(record, claim, &keys, &mut book, &mut touched));
        }
        for (slot, key) in keys.iter().enumerate().filter(|(slot, _)| touched[*slot]) {
            self.balances.insert(*key, book[slot]);
        }
        Outcome::Applied
    }
}

fn decide(
    record: &Decoded,
    claim: Option<Claim>,
    keys: &[AccountKey],
    book: &mut [Balance],
    touched: &mut [bool],
) -> Decided {
    let Some(claim) = claim else {
        return Decided {
            verdict: Verdict::Dead,
            reason: record.dead.map(str::to_owned),
            logged: Vec::new(),
        };
    };
    if claim == Claim::Duplicate {
        return Decided {
            verdict: Verdict::Duplicate,
            reason: None,
            logged: Vec::new(),
        };
    }
    let legs: Vec<Leg> = record
        .changes
        .iter()
        .map(|change| Leg {
            slot: keys
                .binary_search(&change.key)
                .expect("every key is in the book") as u32,
            available_delta: change.available_delta,
            frozen_delta: change.frozen_delta,
        })
        .collect();
    let mut after = Vec::new();
    let result = fold::apply_event(book, &legs, claim, &mut after);
    if result.is_ok() {
        legs.iter()
            .for_each(|leg| touched[leg.slot as usize] = true);
    }
    Decided {
        verdict: if result.is_ok() {
            Verdict::Applied
        } else {
            Verdict::Rejected
        },
        reason: result.err().map(|reason| reason.as_str().to_owned()),
        logged: record
            .changes
            .iter()
            .map(|change| change.key)
            .zip(after)
            .collect(),
    }
}

/// Applies `records` in consecutive batches of the given sizes, and what is left as a last one.
pub fn apply_cut(records: &[Payload], sizes: &[usize]) -> Database {
    let mut database = Database::default();
    let mut from = 0;
    for size in sizes.iter().copied().chain([records.len()]) {
        let next = records.len().min(from + size);
        if next > from {
            assert_eq!(database.apply(from, &records[from..next]), Outcome::Applied);
        }
        from = next;
    }
    database
}
