//! Which of many ids a table does not have yet, by one index scan. A handler calls it before it creates the rows that
//! its events refer to: mostly all of them exist, and `INSERT … ON CONFLICT DO NOTHING` sets up a scan for each row.

use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;

use super::hints::Name;
use super::lookup::{self, Lookup};
use super::varlena::{Varlenas, is_text};
use super::versions;
use crate::error::raise;

/// A `regclass`.
pub type TableId = pg_sys::Oid;

/// Keeps those of `named` that are not the key of a row, including keys that a transaction in progress inserts or
/// deletes. Keeps all of them if the table cannot be searched: it needs a text as first column that is its primary key,
/// and no policies.
pub fn retain_absent<T>(table: TableId, named: &mut Vec<(&str, T)>) {
    // SAFETY: the relation is checked before it is used, and closed below or by the abort of the transaction.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as _);
        refuse_unreadable(table);
        let lookup = is_plain(relation).then(|| Lookup::open(relation, &[lookup::TEXT]));
        if let Some(mut lookup) = lookup.flatten() {
            let mut key = Varlenas::default();
            named.retain(|(id, _)| !has_row(&mut lookup, &mut key, id));
            lookup.close();
        }
        pg_sys::table_close(relation, pg_sys::NoLock as _);
    }
}

fn refuse_unreadable(table: TableId) {
    // SAFETY: the table exists and is locked.
    let answer =
        unsafe { pg_sys::pg_class_aclcheck(table, pg_sys::GetUserId(), pg_sys::ACL_SELECT as _) };
    if answer != pg_sys::AclResult::ACLCHECK_OK {
        raise(
            Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied: SELECT on the table is needed",
        );
    }
}

/// # Safety
/// `relation` is open.
unsafe fn is_plain(relation: pg_sys::Relation) -> bool {
    // SAFETY: by contract.
    let (form, descriptor) = unsafe { (*(*relation).rd_rel, &*(*relation).rd_att) };
    // SAFETY: the descriptor is that of an open relation.
    let first = unsafe { versions::attributes(descriptor) }.first();
    form.relkind == pg_sys::RELKIND_RELATION as std::ffi::c_char
        && form.relam == pg_sys::HEAP_TABLE_AM_OID
        && !form.relrowsecurity
        && first.is_some_and(|column| column.atttypid == pg_sys::TEXTOID)
}

fn has_row(lookup: &mut Lookup, key: &mut Varlenas, id: &str) -> bool {
    let heap = lookup.heap();
    // SAFETY: the relation of a lookup is open.
    let name = Name::of((unsafe { (*heap).rd_id }.to_u32(), id));
    // SAFETY: the first column is a text and, as the primary key, NOT NULL; the datum outlives the call.
    unsafe {
        let (mut found, mut root) = (false, None);
        if let Some(at) = name.hint() {
            lookup.version_at_hint(at, |version| {
                let text = pg_sys::nocachegetattr(&mut version.tuple, 1, (*heap).rd_att);
                found = version.undecided.is_none() && is_text(text, id);
                found
            });
        }
        if !found {
            key.clear();
            let place = key.push(id.as_bytes());
            lookup.versions(&[key.datum(place)], |version| {
                root = version.undecided.is_none().then_some(version.root);
                root.is_some()
            });
        }
        root.into_iter().for_each(|root| name.remember(root));
        found || root.is_some()
    }
}
