//! A table opened for native writes, with the executor state that its constraints and
//! indexes need: the same set-up as in PostgreSQL's logical replication worker
//! (src/backend/replication/logical/worker.c, create_edata_for_relation).

use std::ffi::{CStr, CString};
use std::ptr::null_mut;

use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;

use super::lookup::Lookup;
use super::versions;
use crate::error::raise;

pub const SCHEMA: &CStr = c"ledger";

/// A column that native writes fill, without the cast that a statement would apply.
#[derive(Clone, Copy)]
pub struct Column {
    type_id: pg_sys::Oid,
    modifier: i32,
}

impl Column {
    /// numeric(36,18), packed as in numeric.c, plus the size of a varlena's header.
    pub const AMOUNT: Self = Self {
        type_id: pg_sys::NUMERICOID,
        modifier: (36 << 16 | 18) + 4,
    };

    pub const fn of(type_id: pg_sys::Oid) -> Self {
        Self {
            type_id,
            modifier: -1,
        }
    }
}

/// An open relation. PostgreSQL closes it at the end of the transaction if an ERROR passes by.
pub struct Target {
    pub relation: pg_sys::Relation,
    pub estate: *mut pg_sys::EState,
    pub result: *mut pg_sys::ResultRelInfo,
    name: &'static str,
}

impl Target {
    /// Opens `ledger.<name>` and refuses properties that native writes would ignore.
    pub fn open(name: &'static str, columns: &[Column]) -> Self {
        let relation = open(name, pg_sys::RowExclusiveLock as _);
        // SAFETY: the relation is open, and its cache entries stay valid while it is open.
        unsafe {
            refuse_unsupported(relation, name, columns);
            let estate = pg_sys::CreateExecutorState();
            init_range_table(estate, relation);
            let result =
                pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*result).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(result, relation, 1, null_mut(), 0);
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

    /// The index of a column in a row, from 0.
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

    /// Writes a new version of the row at `at`, as ExecSimpleRelationUpdate does for a table without triggers and
    /// computed columns, except that the entry in `unchanged` is inserted without a uniqueness check. Returns where that
    /// entry points to, if one was needed.
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
            let unchanged = std::mem::replace(&mut indexes[place], null_mut());
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

    /// For a table that only the apply writes, and that has so many `columns`.
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

    /// For a table whose insert is repeated after a conflict of its primary key, the first column: another unique key
    /// would conflict each time.
    pub fn refuse_uniqueness_beyond_primary_key(&self) {
        // SAFETY: `open` has opened all indexes.
        let indexes = unsafe {
            let count = (*self.result).ri_NumIndices as usize;
            (0..count).map(|place| *(*self.result).ri_IndexRelationDescs.add(place))
        };
        for index in indexes {
            // SAFETY: the index is open.
            let (form, name) = unsafe { (&*(*index).rd_index, &(*(*index).rd_rel).relname) };
            // SAFETY: indkey has as many places, of which those of the key come first.
            let key = unsafe { form.indkey.values.as_slice(form.indnkeyatts as usize) };
            if (form.indisunique || form.indisexclusion) && key != [1] {
                raise(
                    Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                    format!(
                        "ledger.{} has {}, a unique or exclusion index that the batched apply does not know: drop it to go on",
                        self.name,
                        pgrx::name_data_to_str(name),
                    ),
                );
            }
        }
    }

    /// A look-up by the primary key, whose columns are the table's first, each with its equality; `named` is its name
    /// in messages.
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

/// Opens `ledger.<name>`. If the table is renamed while we wait for its lock, PostgreSQL looks the name up again.
pub fn open(name: &str, lock: pg_sys::LOCKMODE) -> pg_sys::Relation {
    let c_name = CString::new(name).expect("a table name has no NUL");
    // SAFETY: the names are NUL-terminated, live through the calls and are not written to; a missing schema or table is an
    // answer, checked before table_open.
    unsafe {
        let (schema, table) = (SCHEMA.as_ptr().cast_mut(), c_name.as_ptr().cast_mut());
        let oid = pg_sys::RangeVarGetRelidExtended(
            pg_sys::makeRangeVar(schema, table, -1),
            lock,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            null_mut(),
        );
        if oid == pg_sys::InvalidOid {
            raise(
                Code::ERRCODE_UNDEFINED_TABLE,
                format!("table ledger.{name} does not exist: run `sluice migrate`"),
            );
        }
        pg_sys::table_open(oid, pg_sys::NoLock as _)
    }
}

/// # Safety
/// `relation` is open.
unsafe fn refuse_unsupported(relation: pg_sys::Relation, name: &str, columns: &[Column]) {
    // SAFETY: by contract the relation and with it rd_rel and rd_att are valid.
    let (form, descriptor) = unsafe { (*(*relation).rd_rel, &*(*relation).rd_att) };
    let refusal = if form.relkind != pg_sys::RELKIND_RELATION as std::ffi::c_char {
        "is partitioned or is not a plain table"
    } else if form.relam != pg_sys::HEAP_TABLE_AM_OID {
        "does not use the heap access method"
    } else if form.relpersistence != pg_sys::RELPERSISTENCE_PERMANENT as std::ffi::c_char {
        "is unlogged, so that a crash would empty it"
    } else if form.relispartition {
        "is a partition of another table, with a constraint"
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
    let fits = attributes.len() >= columns.len()
        && attributes
            .iter()
            .zip(columns)
            .all(|(a, wanted)| a.atttypid == wanted.type_id && !a.attisdropped);
    if !fits {
        misfit(name);
    }
    for (attribute, wanted) in attributes.iter().zip(columns) {
        if attribute.atttypmod != wanted.modifier {
            let column = pgrx::name_data_to_str(&attribute.attname);
            raise(
                Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!(
                    "column {column} of ledger.{name} has another precision than migrations gave it, which the batched apply would pass over: undo that to go on"
                ),
            );
        }
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

/// Constraint errors use the range table to describe the failing row.
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
