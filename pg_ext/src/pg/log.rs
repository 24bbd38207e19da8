//! Appends to `ledger.balance_log`, many rows per page and WAL record, as COPY does.

use ledger::amount::Amount;
use ledger::event::Change;
use ledger::fold::Balance;
use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;

use super::target::Target;
use super::varlena::Varlenas;
use crate::error::raise;

const COLUMN_TYPES: [pg_sys::Oid; 17] = [
    pg_sys::INT8OID,
    pg_sys::INT8OID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::INT4OID,
    pg_sys::INT4OID,
    pg_sys::INT2OID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::NUMERICOID,
    pg_sys::NUMERICOID,
    pg_sys::NUMERICOID,
    pg_sys::NUMERICOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::INT8OID,
    pg_sys::INT4OID,
    pg_sys::INT2OID,
];
/// Rows that go to the table in one call; COPY uses up to 1000.
const SLOTS: usize = 500;

/// Where a row of the log is found: its primary key.
#[derive(Clone, Copy)]
pub struct Place {
    pub partition_id: i32,
    pub kafka_offset: i64,
    pub change_no: i16,
}

/// One row of the log.
pub struct LogRow<'a> {
    pub place: Place,
    pub event_id: &'a [u8],
    pub source: Option<&'a [u8]>,
    pub change: Change,
    pub after: Balance,
    pub reject_reason: Option<&'static str>,
    /// The last applied change of the same balance before this one.
    pub previous: Option<Place>,
}

/// The log, open for one batch of one partition.
pub struct Log {
    target: Target,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    filled: usize,
    partition_id: i32,
    created_at: i64,
    varlenas: Varlenas,
    written: u64,
}

impl Log {
    /// `created_at` in microseconds since 2000-01-01, as timestamptz counts.
    pub fn open(partition_id: i32, created_at: i64) -> Self {
        let target = Target::open("balance_log", &COLUMN_TYPES);
        if target.has_triggers() {
            raise(
                Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!(
                    "ledger.{} has triggers, which the batched apply would pass over: drop them to go on",
                    target.name()
                ),
            );
        }
        // SAFETY: the relation is open.
        let natts = unsafe { (*(*target.relation).rd_att).natts as usize };
        if natts != COLUMN_TYPES.len() {
            raise(
                Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!(
                    "ledger.{} has columns that the batched apply does not know: drop them to go on",
                    target.name()
                ),
            );
        }
        Self {
            target,
            slots: Vec::new(),
            filled: 0,
            partition_id,
            created_at,
            varlenas: Varlenas::default(),
            written: 0,
        }
    }

    pub fn partition_id(&self) -> i32 {
        self.partition_id
    }

    pub fn append(&mut self, row: &LogRow<'_>) {
        if self.filled == SLOTS {
            self.flush();
        }
        self.varlenas.clear();
        let amounts: [Amount; 4] = [
            row.change.available_delta,
            row.change.frozen_delta,
            row.after.available,
            row.after.frozen,
        ];
        let event_id = self.varlenas.push(row.event_id);
        let currency = self
            .varlenas
            .push(row.change.key.currency.as_str().as_bytes());
        let amounts = amounts.map(|amount| self.varlenas.push_amount(amount));
        let reason = row
            .reject_reason
            .map(|reason| self.varlenas.push(reason.as_bytes()));
        let source = row.source.map(|source| self.varlenas.push(source));
        let datum = |index| Some(self.varlenas.datum(index));
        let values: [Option<pg_sys::Datum>; COLUMN_TYPES.len()] = [
            Some(row.place.kafka_offset.into()),
            Some(row.change.key.account_id.into()),
            Some(self.created_at.into()),
            Some(row.place.partition_id.into()),
            Some(row.change.key.shard_id.into()),
            Some(row.place.change_no.into()),
            datum(event_id),
            datum(currency),
            datum(amounts[0]),
            datum(amounts[1]),
            datum(amounts[2]),
            datum(amounts[3]),
            reason.and_then(datum),
            source.and_then(datum),
            row.previous.map(|place| place.kafka_offset.into()),
            row.previous.map(|place| place.partition_id.into()),
            row.previous.map(|place| place.change_no.into()),
        ];
        let slot = self.free_slot();
        // SAFETY: the slot has room for the table's columns, whose number was checked; materializing copies every
        // value, so nothing points into `varlenas` afterwards.
        unsafe {
            pg_sys::ExecClearTuple(slot);
            for (column, value) in values.into_iter().enumerate() {
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

    fn flush(&mut self) {
        // SAFETY: `filled` slots hold materialized tuples of this relation; index entries are made right after the
        // tuples, as in COPY, while the slots carry their new places.
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
                pg_sys::ExecInsertIndexTuples(
                    self.target.result,
                    slot,
                    self.target.estate,
                    false,
                    false,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                );
                pg_sys::ExecClearTuple(slot);
            }
        }
        self.target.reset_per_tuple_memory();
        self.written += self.filled as u64;
        self.filled = 0;
        pgrx::check_for_interrupts!();
    }

    /// Writes what is left and answers how many rows the batch logged.
    pub fn close(mut self) -> u64 {
        if self.filled > 0 {
            self.flush();
        }
        for &slot in &self.slots {
            // SAFETY: made by table_slot_create, empty, used no more.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(slot) };
        }
        self.target.close();
        self.written
    }
}
