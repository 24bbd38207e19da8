//! Appends to `ledger.balance_log`.

use std::ffi::CStr;

use ledger::amount::Amount;
use ledger::event::Change;
use ledger::fold::Balance;
use pgrx::pg_sys;

use super::append::Append;
use super::target::{Column, Target};
use super::varlena::Varlenas;

const COLUMNS: [Column; 17] = [
    Column::of(pg_sys::INT8OID),
    Column::of(pg_sys::INT8OID),
    Column::of(pg_sys::TIMESTAMPTZOID),
    Column::of(pg_sys::INT4OID),
    Column::of(pg_sys::INT4OID),
    Column::of(pg_sys::INT2OID),
    Column::of(pg_sys::TEXTOID),
    Column::of(pg_sys::TEXTOID),
    Column::AMOUNT,
    Column::AMOUNT,
    Column::AMOUNT,
    Column::AMOUNT,
    Column::of(pg_sys::TEXTOID),
    Column::of(pg_sys::TEXTOID),
    Column::of(pg_sys::INT8OID),
    Column::of(pg_sys::INT4OID),
    Column::of(pg_sys::INT2OID),
];

/// A column that the upgrade from 0.6.0 adds behind them.
const EVENT_TIME: &CStr = c"event_time";

/// The primary key of a row of the log.
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
    /// The event's own time, if it gives one, in the units of timestamptz.
    pub event_time: Option<i64>,
    pub change: Change,
    pub after: Balance,
    pub reject_reason: Option<&'static str>,
    /// The last applied change of the same balance before this one.
    pub previous: Option<Place>,
}

/// The log, open for one batch of one partition.
pub struct Log {
    append: Append,
    partition_id: i32,
    created_at: i64,
    columns: usize,
    varlenas: Varlenas,
}

impl Log {
    /// `created_at` in microseconds since 2000-01-01, the units of timestamptz.
    pub fn open(partition_id: i32, created_at: i64) -> Self {
        let target = Target::open("balance_log", &COLUMNS);
        // Until the migration runs, instances go on with this version of the extension.
        let columns = target.columns().min(COLUMNS.len() + 1);
        if columns > COLUMNS.len() {
            target.column(EVENT_TIME);
        }
        target.refuse_additions(columns);
        Self {
            columns,
            append: Append::new(target),
            partition_id,
            created_at,
            varlenas: Varlenas::default(),
        }
    }

    pub fn partition_id(&self) -> i32 {
        self.partition_id
    }

    pub fn append(&mut self, row: &LogRow<'_>) {
        if self.append.is_full() {
            self.append.flush();
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
        let values: [Option<pg_sys::Datum>; COLUMNS.len() + 1] = [
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
            row.event_time.map(Into::into),
        ];
        // SAFETY: the table has these columns; the values live in `varlenas` through the call.
        unsafe { self.append.push(&values[..self.columns]) };
    }

    /// Writes the remaining rows and returns how many rows the batch logged.
    pub fn close(mut self) -> u64 {
        self.append.flush();
        self.append.close()
    }
}
