//! What differs between the major versions of PostgreSQL, 15 to 18.

use std::ptr::null_mut;

use pgrx::pg_sys;

/// # Safety
/// As `ExecInitRangeTable`, with `entry` as the only one of the table.
pub unsafe fn init_range_table(estate: *mut pg_sys::EState, entry: *mut pg_sys::RangeTblEntry) {
    // SAFETY: by contract; what lists point to is allocated in the current memory context.
    unsafe {
        let entries = pg_sys::lappend(null_mut(), entry.cast());
        #[cfg(feature = "pg15")]
        pg_sys::ExecInitRangeTable(estate, entries);
        #[cfg(not(feature = "pg15"))]
        {
            let mut permissions = null_mut();
            pg_sys::addRTEPermissionInfo(&mut permissions, entry);
            #[cfg(not(feature = "pg18"))]
            pg_sys::ExecInitRangeTable(estate, entries, permissions);
            #[cfg(feature = "pg18")]
            pg_sys::ExecInitRangeTable(estate, entries, permissions, pg_sys::bms_make_singleton(1));
        }
    }
}

/// Whether indexes need entries of the new version, and if so, whether only summarizing ones do.
///
/// # Safety
/// As `simple_table_tuple_update`.
pub unsafe fn update(
    relation: pg_sys::Relation,
    at: &mut pg_sys::ItemPointerData,
    slot: *mut pg_sys::TupleTableSlot,
    snapshot: pg_sys::Snapshot,
) -> Option<bool> {
    // SAFETY: by contract.
    unsafe {
        #[cfg(feature = "pg15")]
        {
            let mut all = false;
            pg_sys::simple_table_tuple_update(relation, at, slot, snapshot, &mut all);
            all.then_some(false)
        }
        #[cfg(not(feature = "pg15"))]
        {
            use pg_sys::TU_UpdateIndexes::{TU_None, TU_Summarizing};
            let mut indexes = TU_None;
            pg_sys::simple_table_tuple_update(relation, at, slot, snapshot, &mut indexes);
            (indexes != TU_None).then_some(indexes == TU_Summarizing)
        }
    }
}

/// # Safety
/// As `ExecInsertIndexTuples` after an update that [`update`] says this of.
pub unsafe fn update_index_tuples(
    result: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    estate: *mut pg_sys::EState,
    #[cfg_attr(feature = "pg15", allow(unused))] only_summarizing: bool,
) {
    // SAFETY: by contract.
    unsafe {
        pg_sys::ExecInsertIndexTuples(
            result,
            slot,
            estate,
            true,
            false,
            null_mut(),
            null_mut(),
            #[cfg(not(feature = "pg15"))]
            only_summarizing,
        );
    }
}

/// # Safety
/// As `ExecInsertIndexTuples` after an insert.
pub unsafe fn insert_index_tuples(
    result: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    estate: *mut pg_sys::EState,
) {
    // SAFETY: by contract.
    unsafe {
        pg_sys::ExecInsertIndexTuples(
            result,
            slot,
            estate,
            false,
            false,
            null_mut(),
            null_mut(),
            #[cfg(not(feature = "pg15"))]
            false,
        );
    }
}

/// # Safety
/// The relation is open.
pub unsafe fn primary_key(relation: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: by contract.
    unsafe {
        pg_sys::RelationGetPrimaryKeyIndex(
            relation,
            #[cfg(feature = "pg18")]
            false,
        )
    }
}

/// # Safety
/// As `index_beginscan`.
pub unsafe fn begin_index_scan(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: by contract.
    unsafe {
        pg_sys::index_beginscan(
            heap,
            index,
            snapshot,
            #[cfg(feature = "pg18")]
            null_mut(),
            keys,
            0,
        )
    }
}

/// # Safety
/// The descriptor is one of an open relation.
pub unsafe fn attributes(descriptor: &pg_sys::TupleDescData) -> &[pg_sys::FormData_pg_attribute] {
    let count = descriptor.natts as usize;
    // SAFETY: natts entries, which since version 18 stand behind as many compact ones.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return descriptor.attrs.as_slice(count);
        #[cfg(feature = "pg18")]
        return std::slice::from_raw_parts(
            descriptor.compact_attrs.as_ptr().add(count).cast(),
            count,
        );
    }
}
