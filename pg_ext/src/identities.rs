//! Which record owns an event's identity: the first one that carries it. The database decides, permanently.

use ledger::fold::{self, Claim};
use ledger::identity::{Identity, PayloadHash};
use pgrx::datum::Uuid;
use pgrx::spi::SpiClient;

use crate::pg::identities::{self, RecordPlace};
use crate::spi::{query_planned, run_planned};

// This library may already be installed while the migration that creates the table has not run yet.
const IS_MIGRATED: &str = "SELECT FROM pg_catalog.pg_class c
    WHERE c.oid = pg_catalog.to_regclass('ledger.event_conflicts')";

const CONFLICTS: &str = "
    INSERT INTO ledger.event_conflicts (identity, partition_id, kafka_offset)
    SELECT u.* FROM unnest($1::uuid[], $2::integer[], $3::bigint[]) AS u
    ON CONFLICT DO NOTHING";

/// For each record of the batch, its relation to its identity; `None` for a dead record.
pub struct Ownership(Vec<Option<Claim>>);

impl Ownership {
    /// Claims the identities of the records, `None` for a dead one; within the batch the first offset wins. `place`
    /// returns partition and offset of each record.
    pub fn claim(
        client: &mut SpiClient<'_>,
        carried: &[Option<(Identity, PayloadHash)>],
        place: impl Fn(usize) -> RecordPlace,
    ) -> Self {
        let first = fold::first_carriers(carried);
        if first.is_empty() {
            return Self(vec![None; carried.len()]);
        }
        let known = identities::claim(&first, &place);
        let claims = fold::claims(carried, &first, |identity| {
            let at = known.binary_search_by_key(identity, |(identity, _)| *identity);
            at.ok().map(|at| known[at].1)
        });
        keep_conflicts(client, carried, &claims, place);
        Self(claims)
    }

    /// Removes the first records.
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

/// Stores the records that were refused because another record owns their identity, so that they can be found by it.
fn keep_conflicts(
    client: &mut SpiClient<'_>,
    carried: &[Option<(Identity, PayloadHash)>],
    claims: &[Option<Claim>],
    place: impl Fn(usize) -> RecordPlace,
) {
    let (mut identities, mut partition_ids, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for (record, claim) in claims.iter().enumerate() {
        if let (Some(Claim::Conflict), Some((identity, _))) = (claim, carried[record]) {
            let place = place(record);
            identities.push(Uuid::from_bytes(*identity.as_bytes()));
            partition_ids.push(place.partition_id);
            offsets.push(place.kafka_offset);
        }
    }
    if !identities.is_empty() && !query_planned(client, IS_MIGRATED, &[]).is_empty() {
        let args = [identities.into(), partition_ids.into(), offsets.into()];
        run_planned(client, CONFLICTS, &args);
    }
}
