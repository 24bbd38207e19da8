//! Who owns an event's identity: the first record that carries it, decided by the
//! database and remembered for good.

use ledger::fold::{self, Claim};
use ledger::identity::{Identity, PayloadHash};

use crate::pg::identities;

/// For each record of the batch, what it is to its identity; `None` for a dead record.
pub struct Ownership(Vec<Option<Claim>>);

impl Ownership {
    /// Claims what the records carry, `None` for a dead one; within the batch the first offset wins.
    pub fn claim(carried: &[Option<(Identity, PayloadHash)>]) -> Self {
        let first = fold::first_carriers(carried);
        if first.is_empty() {
            return Self(vec![None; carried.len()]);
        }
        let known = identities::claim(&first);
        Self(fold::claims(carried, &first, |identity| {
            let at = known.binary_search_by_key(identity, |(identity, _)| *identity);
            at.ok().map(|at| known[at].1)
        }))
    }

    /// Takes off the first records.
    pub fn split(&mut self, records: usize) -> Self {
        let rest = self.0.split_off(records);
        Self(std::mem::replace(&mut self.0, rest))
    }

    pub fn into_claims(self) -> Vec<Option<Claim>> {
        self.0
    }

    /// What a replay knows of each record.
    pub fn known(claims: Vec<Option<Claim>>) -> Self {
        Self(claims)
    }

    pub fn of(&self, record: usize) -> Claim {
        self.0[record].expect("only asked for decodable records")
    }
}
