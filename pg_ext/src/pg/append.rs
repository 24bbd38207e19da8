//! Appends rows to a table, many per page and WAL record, as COPY does.

use pgrx::pg_sys;

use super::target::Target;
use super::versions;

/// Rows that are written in one call; COPY uses up to 1000.
pub const ROWS: usize = 500;

/// A table that rows are appended to.
pub struct Append {
    target: Target,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    filled: usize,
    written: u64,
}

impl Append {
    pub fn new(target: Target) -> Self {
        Self {
            target,
            slots: Vec::new(),
            filled: 0,
            written: 0,
        }
    }

    pub fn is_full(&self) -> bool {
        self.filled == ROWS
    }

    /// Copies one row, with `None` for NULL; the next `flush` writes it.
    ///
    /// # Safety
    /// There is one value per column of the table, and each is valid for its type.
    pub unsafe fn push(&mut self, values: &[Option<pg_sys::Datum>]) {
        let slot = self.free_slot();
        // SAFETY: by contract the slot has room for the values; materializing copies each, so nothing points to them
        // afterwards.
        unsafe {
            pg_sys::ExecClearTuple(slot);
            for (column, value) in values.iter().enumerate() {
                *(*slot).tts_isnull.add(column) = value.is_none();
                *(*slot).tts_values.add(column) = value.unwrap_or(pg_sys::Datum::from(0usize));
            }
            pg_sys::ExecStoreVirtualTuple(slot);
            pg_sys::ExecConstraints(self.target.result, slot, self.target.estate);
            pg_sys::ExecMaterializeSlot(slot);
        }
        self.filled += 1;
    }

    fn free_slot(&mut self) -> *mut pg_sys::TupleTableSlot {
        if self.filled == self.slots.len() {
            // SAFETY: the relation is open; the slot is dropped in `close` or with the transaction's memory.
            self.slots.push(unsafe {
                pg_sys::table_slot_create(self.target.relation, std::ptr::null_mut())
            });
        }
        self.slots[self.filled]
    }

    /// Writes the rows pushed since the last flush. Unique indexes are enforced: a second row of a key waits for the
    /// transaction that inserted the first one, and is an error once that has committed.
    pub fn flush(&mut self) {
        // SAFETY: `filled` slots contain materialized tuples of this relation; index entries are inserted right after
        // the tuples, as in COPY, while the slots have their new tuple ids.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::table_multi_insert(
                self.target.relation,
                self.slots.as_mut_ptr(),
                self.filled as i32,
                command,
                0,
                std::ptr::null_mut(),
            );
            for &slot in &self.slots[..self.filled] {
                let Target { result, estate, .. } = self.target;
                versions::insert_index_tuples(result, slot, estate);
                pg_sys::ExecClearTuple(slot);
            }
        }
        self.target.reset_per_tuple_memory();
        self.written += self.filled as u64;
        self.filled = 0;
        pgrx::check_for_interrupts!();
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns how many rows were written. All of them are flushed.
    pub fn close(self) -> u64 {
        for &slot in &self.slots {
            // SAFETY: created by table_slot_create, empty, and not used again.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(slot) };
        }
        self.target.close();
        self.written
    }
}
