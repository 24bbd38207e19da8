//! Who owns an event's identity: the first record that carries it, decided by the
//! database and remembered for good.

use std::collections::HashMap;

use ledger::fold::{self, Carrier, Claim};
use ledger::identity::{Identity, PayloadHash};
use pgrx::datum::Uuid;
use pgrx::spi::SpiClient;

use crate::leader::internal;

// Inserted in the order given: two partitions that carry the same identities wait for
// each other, and cannot deadlock.
const CLAIM: &str = "
    INSERT INTO ledger.event_identities (identity, payload_hash)
    SELECT u.identity, u.payload_hash FROM unnest($1::uuid[], $2::uuid[]) AS u (identity, payload_hash)
    ON CONFLICT (identity) DO NOTHING
    RETURNING identity";

const OWNERS: &str =
    "SELECT identity, payload_hash FROM ledger.event_identities WHERE identity = ANY ($1::uuid[])";

/// For each record of the batch, what it is to its identity; `None` for a dead record.
pub struct Ownership(Vec<Option<Claim>>);

impl Ownership {
    /// Claims what the records carry, `None` for a dead one; within the batch the first offset wins.
    pub fn claim(client: &mut SpiClient<'_>, carried: &[Option<(Identity, PayloadHash)>]) -> Self {
        let first = fold::first_carriers(carried);
        let earlier = owned_before(client, &first);
        Self(fold::claims(carried, &first, |identity| {
            earlier.get(identity).copied()
        }))
    }

    pub fn of(&self, record: usize) -> Claim {
        self.0[record].expect("only asked for decodable records")
    }

    /// Whether the record's verdict or log needs balances: neither dead nor a duplicate.
    pub fn is_decided_by_balance(&self, record: usize) -> bool {
        self.0[record].is_some_and(|claim| claim != Claim::Duplicate)
    }
}

/// Inserts the identities and answers those that an earlier record owns, with the payload
/// that it had.
fn owned_before(client: &mut SpiClient<'_>, wanted: &[Carrier]) -> HashMap<Identity, PayloadHash> {
    if wanted.is_empty() {
        return HashMap::new();
    }
    let identities: Vec<Uuid> = wanted
        .iter()
        .map(|carrier| Uuid::from_bytes(*carrier.identity.as_bytes()))
        .collect();
    let hashes: Vec<Uuid> = wanted
        .iter()
        .map(|carrier| Uuid::from_bytes(*carrier.payload_hash.as_bytes()))
        .collect();
    let claimed = client
        .update(CLAIM, None, &[identities.into(), hashes.into()])
        .unwrap_or_else(internal);
    if claimed.len() == wanted.len() {
        return HashMap::new();
    }
    let mut mine: Vec<Identity> = claimed.map(|row| identity_of(row.get::<Uuid>(1))).collect();
    mine.sort_unstable();
    let owned: Vec<Uuid> = wanted
        .iter()
        .filter(|carrier| mine.binary_search(&carrier.identity).is_err())
        .map(|carrier| Uuid::from_bytes(*carrier.identity.as_bytes()))
        .collect();
    client
        .update(OWNERS, None, &[owned.into()])
        .unwrap_or_else(internal)
        .map(|row| {
            (
                identity_of(row.get::<Uuid>(1)),
                PayloadHash::from_bytes(bytes_of(row.get::<Uuid>(2))),
            )
        })
        .collect()
}

fn identity_of(value: Result<Option<Uuid>, pgrx::spi::Error>) -> Identity {
    Identity::from_bytes(bytes_of(value))
}

fn bytes_of(value: Result<Option<Uuid>, pgrx::spi::Error>) -> [u8; 16] {
    *value
        .unwrap_or_else(internal)
        .expect("the column is NOT NULL")
        .as_bytes()
}
