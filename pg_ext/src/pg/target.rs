//! A table opened for native writes, with the executor state that its constraints and
//! indexes need: the same set-up as PostgreSQL's logical replication worker makes
//! (src/backend/replication/logical/worker.c, create_edata_for_relation).

use std::ffi::{CStr, CString};

use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;

use super::lookup::Lookup;
use super::versions;
use crate::error::raise;

pub const SCHEMA: &CStr = c"ledger";

/// An open relation. PostgreSQL closes it at the end of the transaction if an ERROR passes by.
pub struct Target {
    pub relation: pg_sys::Relation,
    pub estate: *mut pg_sys::EState,
    pub result: *mut pg_sys::ResultRelInfo,
    name: &'static str,
}

impl Target {
    /// Opens `ledger.<name>` and refuses what native writes would pass over.
    pub fn open(name: &'static str, column_types: &[pg_sys::Oid]) -> Self {
        let c_name = CString::new(name).expect("a table name has no NUL");
        // SAFETY: the names are NUL-terminated and live through the calls; a missing schema or table is an answer, checked before table_open.
        let relation = unsafe {
            let schema = pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true);
            let oid = pg_sys::get_relname_relid(c_name.as_ptr(), schema);
            if oid == pg_sys::InvalidOid {
                raise(
                    Code::ERRCODE_UNDEFINED_TABLE,
                    format!("table ledger.{name} does not exist: run `sluice migrate`"),
                );
            }
            pg_sys::table_open(oid, pg_sys::RowExclusiveLock as _)
        };
        // SAFETY: table_open returned a valid relation whose cache entries stay valid while it is open.
        unsafe {
            refuse_unsupported(relation, name, column_types);
            let estate = pg_sys::CreateExecutorState();
            init_range_table(estate, relation);
            let result =
                pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*result).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(result, relation, 1, std::ptr::null_mut(), 0);
            (*estate).es_output_cid = pg_sys::GetCurrentCommandId(true);
            pg_sys::ExecOpenIndices(result, false);
            Self {
                relation,
                estate,
                result,
                name,
            }
        }
    }

    /// The place of a column in a row, from 0.
    pub fn column(&self, name: &CStr) -> usize {
        // SAFETY: the relation is open and the name is NUL-terminated.
        let number = unsafe { pg_sys::get_attnum((*self.relation).rd_id, name.as_ptr()) };
        if number <= 0 {
            misfit(self.name);
        }
        number as usize - 1
    }

    pub fn columns(&self) -> usize {
        // SAFETY: the relation is open.
        unsafe { (*(*self.relation).rd_att).natts as usize }
    }

    pub fn has_triggers(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe { !(*self.relation).trigdesc.is_null() }
    }

    pub fn has_computed_columns(&self) -> bool {
        // SAFETY: the relation is open; without any constraint there is no list of them.
        unsafe { (*(*self.relation).rd_att).constr.as_ref() }
            .is_some_and(|constraints| constraints.has_generated_stored)
    }

    /// Writes a new version of the row at `at`, as ExecSimpleRelationUpdate does where there is neither a trigger nor a
    /// computed column, but that `unchanged` gets its entry without being asked whether it is unique. Answers where that
    /// entry leads to, if there had to be one.
    ///
    /// # Safety
    /// This transaction has locked the row; `slot` holds a row of this relation; `unchanged` is one of its indexes, whose
    /// columns stay as they are.
    pub unsafe fn update(
        &self,
        at: &mut pg_sys::ItemPointerData,
        slot: *mut pg_sys::TupleTableSlot,
        unchanged: pg_sys::Relation,
    ) -> Option<pg_sys::ItemPointerData> {
        // SAFETY: by contract; both arrays have a place per index, and the one taken out is put back.
        unsafe {
            let (relation, result, estate) = (self.relation, self.result, self.estate);
            if !(*(*relation).rd_att).constr.is_null() {
                pg_sys::ExecConstraints(result, slot, estate);
            }
            let only_summarizing = versions::update(relation, at, slot, (*estate).es_snapshot)?;
            let count = (*result).ri_NumIndices as usize;
            let indexes = std::slice::from_raw_parts_mut((*result).ri_IndexRelationDescs, count);
            let place = indexes
                .iter()
                .position(|index| (**index).rd_id == (*unchanged).rd_id)
                .unwrap_or_else(|| raise(Code::ERRCODE_INTERNAL_ERROR, "an index is not open"));
            let unchanged = std::mem::replace(&mut indexes[place], std::ptr::null_mut());
            if !only_summarizing {
                let info = *(*result).ri_IndexRelationInfo.add(place);
                let mut values = [pg_sys::Datum::from(0usize); pg_sys::INDEX_MAX_KEYS as usize];
                let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
                let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
                pg_sys::FormIndexDatum(info, slot, estate, values, nulls);
                let (at, no) = (
                    &raw mut (*slot).tts_tid,
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                );
                pg_sys::index_insert(unchanged, values, nulls, at, relation, no, true, info);
            }
            versions::update_index_tuples(result, slot, estate, only_summarizing);
            indexes[place] = unchanged;
            (!only_summarizing).then_some((*slot).tts_tid)
        }
    }

    /// For a table that belongs to the apply alone, and has `columns` of them.
    pub fn refuse_additions(&self, columns: usize) {
        let additions = if self.has_triggers() {
            "triggers"
        } else if self.columns() != columns {
            "columns"
        } else {
            return;
        };
        raise(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "ledger.{} has {additions} that the batched apply does not know: drop them to go on",
                self.name
            ),
        );
    }

    /// By the primary key, whose columns are the table's first, each with its equality; `named` is how people know it.
    pub fn lookup(&self, equal: &[u32], named: &str) -> Lookup {
        // SAFETY: the relation is open until `close`, before which a lookup is closed.
        unsafe { Lookup::open(self.relation, equal) }.unwrap_or_else(|| {
            raise(
                Code::ERRCODE_UNDEFINED_OBJECT,
                format!(
                    "ledger.{} has lost its primary key ({named}): restore it to go on",
                    self.name
                ),
            )
        })
    }

    /// Frees what constraints and index expressions allocated for the last rows.
    pub fn reset_per_tuple_memory(&self) {
        // SAFETY: the estate is live; the context exists once an expression was evaluated in it.
        unsafe {
            let context = (*self.estate).es_per_tuple_exprcontext;
            if !context.is_null() {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
        }
    }

    pub fn close(self) {
        // SAFETY: everything was opened by `open` and is used no more; the lock stays until the end of the transaction.
        unsafe {
            pg_sys::ExecCloseIndices(self.result);
            pg_sys::FreeExecutorState(self.estate);
            pg_sys::table_close(self.relation, pg_sys::NoLock as _);
        }
    }
}

/// # Safety
/// `relation` is open.
unsafe fn refuse_unsupported(relation: pg_sys::Relation, name: &str, column_types: &[pg_sys::Oid]) {
    // SAFETY: by contract the relation and with it rd_rel and rd_att are valid.
    let (form, descriptor) = unsafe { (*(*relation).rd_rel, &*(*relation).rd_att) };
    let refusal = if form.relkind != pg_sys::RELKIND_RELATION as std::ffi::c_char {
        "is partitioned or is not a plain table"
    } else if form.relam != pg_sys::HEAP_TABLE_AM_OID {
        "does not use the heap access method"
    } else if form.relhassubclass {
        "has child tables"
    } else if form.relhasrules {
        "has rules"
    } else if form.relrowsecurity {
        "has row level security"
    } else {
        ""
    };
    if !refusal.is_empty() {
        raise(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "ledger.{name} {refusal}, which the batched apply would pass over: undo that to go on"
            ),
        );
    }
    // SAFETY: the relation is open.
    let attributes = unsafe { versions::attributes(descriptor) };
    let fits = attributes.len() >= column_types.len()
        && attributes
            .iter()
            .zip(column_types)
            .all(|(a, wanted)| a.atttypid == *wanted && !a.attisdropped);
    if !fits {
        misfit(name);
    }
}

fn misfit(name: &str) -> ! {
    raise(
        Code::ERRCODE_DATATYPE_MISMATCH,
        format!(
            "ledger.{name} does not have the columns that this version of the extension writes: run `sluice migrate`"
        ),
    )
}

/// Constraint errors describe the failing row by way of the range table.
///
/// # Safety
/// `estate` is fresh and `relation` is open.
unsafe fn init_range_table(estate: *mut pg_sys::EState, relation: pg_sys::Relation) {
    // SAFETY: palloc0 gives a zeroed node of the right size in the current memory context, which outlives the estate.
    unsafe {
        let entry =
            pg_sys::palloc0(size_of::<pg_sys::RangeTblEntry>()).cast::<pg_sys::RangeTblEntry>();
        (*entry).type_ = pg_sys::NodeTag::T_RangeTblEntry;
        (*entry).rtekind = pg_sys::RTEKind::RTE_RELATION;
        (*entry).relid = (*relation).rd_id;
        (*entry).relkind = (*(*relation).rd_rel).relkind;
        (*entry).rellockmode = pg_sys::RowExclusiveLock as _;
        versions::init_range_table(estate, entry);
    }
}
