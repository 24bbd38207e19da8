//! Which transactions have locked a row. SQL shows `xmax` as a number that is a transaction's id or, if several have
//! locked the row, that of a MultiXact, and does not tell which.

use pgrx::pg_sys;

use super::lookup::{self, Lookup, Version};
use super::target;

/// The rows of a partition whose lock holders are reported: their names in messages, and their tables.
const ROWS: [(&str, &str); 2] = [
    ("lease", "partition_leases"),
    ("progress", "partition_progress"),
];

/// Which transactions have locked the rows of a partition, row by row. On a standby server nobody acquires, and no lock
/// is visible.
pub fn of_partition(partition_id: i32) -> Vec<(&'static str, String)> {
    // SAFETY: it looks into shared memory only.
    if unsafe { pg_sys::RecoveryInProgress() } {
        return Vec::new();
    }
    let held = ROWS.into_iter().flat_map(|(what, table)| {
        let holders = of_row(table, partition_id).into_iter();
        holders.map(move |holder| (what, holder))
    });
    held.collect()
}

/// The ids of the transactions that lock, replace or create the row of `ledger.<table>` whose primary key is `key`.
pub fn of_row(table: &'static str, key: i32) -> Vec<String> {
    let relation = target::open(table, pg_sys::AccessShareLock as _);
    let mut holders = Vec::new();
    // SAFETY: the relation is open until after the lookup is closed; an integer is its own datum.
    unsafe {
        if let Some(mut lookup) = Lookup::open(relation, &[lookup::INT4]) {
            lookup.versions(&[key.into()], |version| {
                holders.extend(version.undecided);
                holders.extend(of_version(version));
                false
            });
            lookup.close();
        }
        pg_sys::table_close(relation, pg_sys::NoLock as _);
    }
    holders.into_iter().map(name_of).collect()
}

fn of_version(version: &Version) -> Vec<pg_sys::TransactionId> {
    let (xmax, infomask) = version.holder;
    if infomask & pg_sys::HEAP_XMAX_INVALID != 0 {
        return Vec::new();
    }
    if infomask & pg_sys::HEAP_XMAX_IS_MULTI == 0 {
        return vec![xmax];
    }
    let is_lock_only = infomask & pg_sys::HEAP_XMAX_LOCK_ONLY != 0;
    let mut members = std::ptr::null_mut();
    // SAFETY: xmax and the mask that calls it a MultiXact were read under the page's lock; the members are an array of
    // the length that is answered, or none.
    unsafe {
        let count = pg_sys::GetMultiXactIdMembers(xmax, &mut members, false, is_lock_only);
        (0..usize::try_from(count).unwrap_or(0))
            .map(|member| (*members.add(member)).xid)
            .collect()
    }
}

/// As in `pg_locks`: of a subtransaction that has ended, only the enclosing transaction is listed.
fn name_of(transaction: pg_sys::TransactionId) -> String {
    // SAFETY: both look into shared memory only; who is in progress has a transaction around him.
    let named = unsafe {
        if pg_sys::TransactionIdIsInProgress(transaction) {
            pg_sys::SubTransGetTopmostTransaction(transaction)
        } else {
            transaction
        }
    };
    named.into_inner().to_string()
}
