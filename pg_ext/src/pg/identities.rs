//! `ledger.event_identities`: claimed by inserting, so that its primary key decides.
//!
//! Nearly always all are new, so they are inserted without a look-up, in subtransactions. If one is known, its
//! subtransaction is rolled back, so that logical decoding sees nothing of it: a row that was inserted and deleted
//! again would conflict with its owner on every subscriber of a publication. From then on identities are looked up
//! before they are inserted: those that this session has met lately, or all, if that does not predict the known ones.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;

use ledger::fold::Carrier;
use ledger::identity::{Identity, PayloadHash};
use ledger::recent::Recent;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;

use super::append::{self, Append};
use super::lookup::{self, Lookup, Version};
use super::subtransaction;
use super::target::{Column, Target};

const COLUMNS: [Column; 2] = [Column::of(pg_sys::UUIDOID), Column::of(pg_sys::UUIDOID)];

/// Columns that the upgrade from 0.6.0 adds behind them.
const PLACE: [&CStr; 2] = [c"kafka_offset", c"partition_id"];

/// The partition and offset of the record that owns an identity.
#[derive(Clone, Copy)]
pub struct RecordPlace {
    pub partition_id: i32,
    pub kafka_offset: i64,
}

/// Which identities are looked up before they are inserted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    No,
    /// Those that this session has met lately.
    Recent,
    All,
}

thread_local! {
    /// What this session's last batch would have needed: a producer that repeats events mostly continues to.
    static LOOKS: Cell<Looks> = const { Cell::new(Looks::No) };
    static RECENT: RefCell<Recent> = const { RefCell::new(Recent::new()) };
}

/// Rows of one subtransaction: so many are inserted in vain when the first known identity of a batch is found.
const PART: usize = 2_000;
/// Rows that are looked up before they are inserted: the index pages of both stay in the processor's inner caches.
const LOOKED_UP: usize = 16;
/// Subtransactions of one batch. Beyond 64 of a transaction every snapshot of other sessions costs more.
const MOST_PARTS: usize = 32;

/// Inserts unknown identities; returns the known ones, sorted, with the payload hash of their owner. `wanted` is
/// sorted: two partitions that claim the same identities wait for each other, and cannot deadlock. `place` returns
/// partition and offset of a record of the batch, which are stored with its identity.
pub fn claim(
    wanted: &[Carrier],
    place: &impl Fn(usize) -> RecordPlace,
) -> Vec<(Identity, PayloadHash)> {
    let (mut known, mut looks, mut needed) = (Vec::new(), LOOKS.get(), Looks::No);
    for part in wanted.chunks(PART.max(wanted.len().div_ceil(MOST_PARTS))) {
        let owned = loop {
            let insert = || insert_unknown(part, looks, place);
            match subtransaction::unless(Code::ERRCODE_UNIQUE_VIOLATION, insert) {
                Some(owned) => break owned,
                // Each conflicting row is visible now, or another transaction has removed it again.
                None => looks = Looks::All,
            }
        };
        RECENT.with_borrow_mut(|recent| {
            if needed != Looks::All && !owned.is_empty() {
                let foretold = owned.iter().all(|(identity, _)| recent.has(identity));
                needed = if foretold { Looks::Recent } else { Looks::All };
            }
            let part = part.iter();
            part.for_each(|carrier| recent.remember(&carrier.identity));
        });
        known.extend(owned);
    }
    LOOKS.set(needed);
    known
}

/// The table, and how many of its columns exist and are filled.
fn open() -> (Target, usize) {
    let target = Target::open("event_identities", &COLUMNS);
    // Until the migration runs, instances go on with this version of the extension.
    let columns = target.columns().min(COLUMNS.len() + PLACE.len());
    for name in &PLACE[..columns - COLUMNS.len()] {
        target.column(name);
    }
    target.refuse_additions(columns);
    target.refuse_uniqueness_beyond_primary_key();
    (target, columns)
}

/// Inserts in sorted order, and returns the known ones if it looks for owners. If another transaction is inserting an
/// identity, this one waits for it before it has inserted an entry of its own, so however many want it, no two of them
/// wait for each other.
fn insert_unknown(
    wanted: &[Carrier],
    looks: Looks,
    place: &impl Fn(usize) -> RecordPlace,
) -> Vec<(Identity, PayloadHash)> {
    let mut known = Vec::new();
    let (target, columns) = open();
    let mut append = Append::new(target);
    let mut lookup =
        (looks != Looks::No).then(|| append.target().lookup(&[lookup::UUID], "identity"));
    let block = if looks == Looks::All {
        LOOKED_UP
    } else {
        append::ROWS
    };
    for block in wanted.chunks(block) {
        for carrier in block {
            if let Some(lookup) = &mut lookup
                && (looks == Looks::All
                    || RECENT.with_borrow(|recent| recent.has(&carrier.identity)))
                && let Some(payload_hash) = owner(lookup, &carrier.identity)
            {
                known.push((carrier.identity, payload_hash));
                continue;
            }
            let place = place(carrier.record);
            let values: [Option<pg_sys::Datum>; COLUMNS.len() + PLACE.len()] = [
                Some(carrier.identity.as_bytes().as_ptr().into()),
                Some(carrier.payload_hash.as_bytes().as_ptr().into()),
                Some(place.kafka_offset.into()),
                Some(place.partition_id.into()),
            ];
            // SAFETY: a uuid datum points to 16 bytes; the table has these columns.
            unsafe { append.push(&values[..columns]) };
        }
        append.flush();
    }
    if let Some(lookup) = lookup {
        lookup.close();
    }
    append.close();
    known
}

/// The payload hash of the row that owns `identity`; waits for a transaction that may still become the owner.
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
