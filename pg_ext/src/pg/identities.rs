//! `ledger.event_identities`: claimed by inserting, so that its primary key decides.

use ledger::fold::Carrier;
use ledger::identity::{Identity, PayloadHash};
use pgrx::pg_sys;

use super::append::{self, Append, Unique};
use super::lookup::{self, Lookup};
use super::target::Target;

const COLUMN_TYPES: [pg_sys::Oid; 2] = [pg_sys::UUIDOID, pg_sys::UUIDOID];

/// Inserts what is not known yet; answers what is, sorted, with the payload that it first came with. `wanted` is
/// sorted: two partitions that claim the same identities wait for each other, and cannot deadlock.
pub fn claim(wanted: &[Carrier]) -> Vec<(Identity, PayloadHash)> {
    let target = Target::open("event_identities", &COLUMN_TYPES);
    target.refuse_additions(COLUMN_TYPES.len());
    let mut lookup = target.lookup(&[lookup::UUID], "identity");
    let mut append = Append::new(target, Unique::Reported);
    let (mut known, mut superfluous) = (Vec::new(), Vec::new());
    for block in wanted.chunks(append::ROWS) {
        for carrier in block {
            let values = [carrier.identity.as_bytes(), carrier.payload_hash.as_bytes()];
            // SAFETY: a uuid datum points to 16 bytes; the table has these two columns.
            unsafe { append.push(&values.map(|bytes| Some(bytes.as_ptr().into()))) };
        }
        append.flush(|number, mine| {
            let identity = &block[number].identity;
            if let Some(payload_hash) = owner(&mut lookup, identity, mine) {
                known.push((*identity, payload_hash));
                superfluous.push(mine);
            }
        });
    }
    if !superfluous.is_empty() {
        // SAFETY: after the increment the rows that this transaction inserted can be deleted by it.
        unsafe {
            pg_sys::CommandCounterIncrement();
            for place in &mut superfluous {
                pg_sys::simple_heap_delete(append.target().relation, place);
            }
        }
    }
    lookup.close();
    append.close();
    known
}

/// The payload hash of the row that owns `identity`, other than `mine`; waits for transactions that may yet own it.
fn owner(
    lookup: &mut Lookup,
    identity: &Identity,
    mine: pg_sys::ItemPointerData,
) -> Option<PayloadHash> {
    loop {
        let (mut owner, mut undecided) = (None, None);
        // SAFETY: a uuid datum points to 16 bytes; both columns are NOT NULL and of fixed length, so they lie one
        // behind the other at the beginning of the tuple's data.
        unsafe {
            lookup.versions(&[identity.as_bytes().as_ptr().into()], |version| {
                if pg_sys::ItemPointerEquals(&mut version.tuple.t_self, &mut { mine }) {
                    return false;
                }
                match version.undecided {
                    Some(transaction) => undecided = Some(transaction),
                    None => {
                        let header = version.tuple.t_data;
                        let data = header.cast::<u8>().add((*header).t_hoff as usize);
                        owner = Some(PayloadHash::from_bytes(*data.add(16).cast::<[u8; 16]>()));
                    }
                }
                owner.is_some()
            });
        }
        match undecided {
            Some(transaction) if owner.is_none() => lookup.wait_for(transaction),
            _ => return owner,
        }
    }
}
