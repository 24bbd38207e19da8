//! `ledger.event_identities`: claimed by inserting, so that its primary key decides.
//!
//! Nearly always all are new, so they are inserted without asking, in subtransactions. Where one is known, nothing of
//! its subtransaction stays, also not for whoever decodes the WAL: a row that was inserted and deleted again would meet
//! its owner on every subscriber of a publication. From then on each is looked up before it is inserted.

use std::cell::Cell;

use ledger::fold::Carrier;
use ledger::identity::{Identity, PayloadHash};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;

use super::append::{self, Append};
use super::lookup::{self, Lookup, Version};
use super::subtransaction;
use super::target::{Column, Target};

const COLUMNS: [Column; 2] = [Column::of(pg_sys::UUIDOID), Column::of(pg_sys::UUIDOID)];

thread_local! {
    /// Whether this session's last batch carried what was known: a producer that repeats itself mostly goes on with it.
    static REPEATS: Cell<bool> = const { Cell::new(false) };
}

/// Rows of one subtransaction: so many are inserted in vain where the first known one of a batch is met.
const PART: usize = 2_000;
/// Rows that are looked up before they are inserted: what both meet of the index stays in the processor's inner caches.
const LOOKED_UP: usize = 16;
/// Subtransactions of one batch. Beyond 64 of a transaction every snapshot of other sessions costs more.
const MOST_PARTS: usize = 32;

/// Inserts what is not known yet; answers what is, sorted, with the payload that it first came with. `wanted` is
/// sorted: two partitions that claim the same identities wait for each other, and cannot deadlock.
pub fn claim(wanted: &[Carrier]) -> Vec<(Identity, PayloadHash)> {
    let (mut known, mut looks) = (Vec::new(), REPEATS.get());
    for part in wanted.chunks(PART.max(wanted.len().div_ceil(MOST_PARTS))) {
        let part = loop {
            let insert = || insert_unknown(part, looks);
            match subtransaction::unless(Code::ERRCODE_UNIQUE_VIOLATION, insert) {
                Some(known) => break known,
                // Each is there now that was in the way, or another transaction has taken it out again.
                None => looks = true,
            }
        };
        known.extend(part);
    }
    REPEATS.set(!known.is_empty());
    known
}

fn open() -> Target {
    let target = Target::open("event_identities", &COLUMNS);
    target.refuse_additions(COLUMNS.len());
    target.refuse_uniqueness_beyond_primary_key();
    target
}

/// Inserts in sorted order, and answers those that have an owner where it looks for one. An identity that another
/// transaction inserts is waited for before this one has an entry of its own, so however many want it, none of them
/// waits for one that waits for it.
///
fn insert_unknown(wanted: &[Carrier], looks: bool) -> Vec<(Identity, PayloadHash)> {
    let mut known = Vec::new();
    let mut append = Append::new(open());
    let mut lookup = looks.then(|| append.target().lookup(&[lookup::UUID], "identity"));
    let block = if looks { LOOKED_UP } else { append::ROWS };
    for block in wanted.chunks(block) {
        for carrier in block {
            if let Some(lookup) = &mut lookup
                && let Some(payload_hash) = owner(lookup, &carrier.identity)
            {
                known.push((carrier.identity, payload_hash));
                continue;
            }
            let values = [carrier.identity.as_bytes(), carrier.payload_hash.as_bytes()];
            // SAFETY: a uuid datum points to 16 bytes; the table has these two columns.
            unsafe { append.push(&values.map(|bytes| Some(bytes.as_ptr().into()))) };
        }
        append.flush();
    }
    if let Some(lookup) = lookup {
        lookup.close();
    }
    append.close();
    known
}

/// The payload hash of the row that owns `identity`; waits for a transaction that may yet own it.
fn owner(lookup: &mut Lookup, identity: &Identity) -> Option<PayloadHash> {
    loop {
        let mut met = None;
        let mut visit = |version: &mut Version| {
            // SAFETY: both columns are NOT NULL and of fixed length, so they lie one behind the other at the beginning
            // of the tuple's data.
            let payload_hash = unsafe {
                let header = version.tuple.t_data;
                let data = header.cast::<u8>().add((*header).t_hoff as usize);
                PayloadHash::from_bytes(*data.add(16).cast::<[u8; 16]>())
            };
            met = Some((payload_hash, version.undecided));
            true
        };
        // SAFETY: a uuid datum points to 16 bytes.
        unsafe { lookup.versions(&[identity.as_bytes().as_ptr().into()], &mut visit) };
        match met {
            Some((_, Some(transaction))) => lookup.wait_for(transaction),
            Some((payload_hash, None)) => return Some(payload_hash),
            None => return None,
        }
    }
}
