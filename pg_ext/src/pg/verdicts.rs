//! Appends to `ledger.verdicts`.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::append::Append;
use super::session;
use super::target::{Column, Target};
use super::varlena::Varlenas;

const COLUMNS: [Column; 6] = [
    Column::of(pg_sys::INT4OID),
    Column::of(pg_sys::INT8OID),
    Column::of(pg_sys::TEXTOID),
    Column::of(pg_sys::TEXTOID),
    Column::of(pg_sys::TEXTOID),
    Column::of(pg_sys::TEXTOID),
];

/// Columns that came behind them, the last one by the upgrade from 0.6.0.
const LATER: [&CStr; 2] = [c"created_at", c"event_time"];

/// The verdict of a record that has no row in the log.
pub struct VerdictRow {
    pub kafka_offset: i64,
    pub event_id: Option<String>,
    pub source: Option<String>,
    /// The event's own time, if it gives one, in the units of timestamptz.
    pub event_time: Option<i64>,
    pub verdict: &'static str,
    pub reason: Option<String>,
}

/// Writes the verdicts of one partition; returns how many.
pub fn append(partition_id: i32, rows: &[VerdictRow]) -> u64 {
    let target = Target::open("verdicts", &COLUMNS);
    // Until the migrations run, instances go on with this version of the extension.
    let columns = target.columns().min(COLUMNS.len() + LATER.len());
    for name in &LATER[..columns - COLUMNS.len()] {
        target.column(name);
    }
    target.refuse_additions(columns);
    let created_at = session::now();
    let mut append = Append::new(target);
    let mut varlenas = Varlenas::default();
    for row in rows {
        if append.is_full() {
            append.flush();
        }
        varlenas.clear();
        let texts = [
            row.event_id.as_deref(),
            Some(row.verdict),
            row.reason.as_deref(),
            row.source.as_deref(),
        ];
        let texts = texts.map(|text| text.map(|text| varlenas.push(text.as_bytes())));
        let [event_id, verdict, reason, source] =
            texts.map(|text| text.map(|text| varlenas.datum(text)));
        let values = [
            Some(partition_id.into()),
            Some(row.kafka_offset.into()),
            event_id,
            verdict,
            reason,
            source,
            Some(created_at.into()),
            row.event_time.map(Into::into),
        ];
        // SAFETY: the table has these columns; the values live in `varlenas` through the call.
        unsafe { append.push(&values[..columns]) };
    }
    append.flush();
    append.close()
}
