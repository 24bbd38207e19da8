//! Appends to `ledger.verdicts`.

use pgrx::pg_sys;

use super::append::{Append, Unique};
use super::target::Target;
use super::varlena::Varlenas;

const COLUMN_TYPES: [pg_sys::Oid; 6] = [
    pg_sys::INT4OID,
    pg_sys::INT8OID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
];

/// The verdict of a record that has no row in the log.
pub struct VerdictRow {
    pub kafka_offset: i64,
    pub event_id: Option<String>,
    pub source: Option<String>,
    pub verdict: &'static str,
    pub reason: Option<String>,
}

/// Writes the verdicts of one partition; answers how many.
pub fn append(partition_id: i32, rows: &[VerdictRow]) -> u64 {
    let target = Target::open("verdicts", &COLUMN_TYPES);
    target.refuse_additions(COLUMN_TYPES.len());
    let mut append = Append::new(target, Unique::Enforced);
    let mut varlenas = Varlenas::default();
    for row in rows {
        if append.is_full() {
            append.flush(|_, _| ());
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
        ];
        // SAFETY: the table has these columns; the values live in `varlenas` through the call.
        unsafe { append.push(&values) };
    }
    append.flush(|_, _| ());
    append.close()
}
