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

/// # Safety
/// As `EvalPlanQualInit`, for an estate without a plan.
pub unsafe fn init_recheck(epq: *mut pg_sys::EPQState, estate: *mut pg_sys::EState) {
    // SAFETY: by contract.
    unsafe {
        pg_sys::EvalPlanQualInit(
            epq,
            estate,
            null_mut(),
            null_mut(),
            -1,
            #[cfg(not(feature = "pg15"))]
            null_mut(),
        );
    }
}

/// # Safety
/// As `ExecInsertIndexTuples` after an insert.
pub unsafe fn insert_index_tuples(
    result: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    estate: *mut pg_sys::EState,
    report_conflicts: bool,
) -> *mut pg_sys::List {
    let mut specific = false;
    // SAFETY: by contract.
    unsafe {
        pg_sys::ExecInsertIndexTuples(
            result,
            slot,
            estate,
            false,
            report_conflicts,
            &mut specific,
            null_mut(),
            #[cfg(not(feature = "pg15"))]
            false,
        )
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
