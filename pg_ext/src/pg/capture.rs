//! Staged rows, kept in backend memory from the COPY to the apply of the same transaction.
//!
//! A trigger on the staging table hands each row to [`capture_staged_row`] and tells
//! PostgreSQL to store nothing. A batch therefore writes no page, no WAL and no dead tuple
//! for its staging, holds no lock that TRUNCATE or VACUUM could want, and cannot be seen by
//! anyone else. The price is memory, so both rows and bytes are bounded.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ops::Range;

use ledger::account::{AccountKey, Currency};
use ledger::amount::Amount;
use ledger::contract::{MAX_BATCH_BYTES, MAX_BATCH_ROWS, StagedRow};
use ledger::event::Change;
use ledger::identity::{Identity, PayloadHash};
use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;
use pgrx::{pg_guard, pg_sys};

use super::numeric;
use crate::error::raise;

const COLUMNS: usize = 17;

/// One row of the staging table; text and bytes lie in [`Staged::bytes`].
pub struct Row {
    pub kafka_offset: i64,
    pub change_no: i16,
    pub event_id: Option<Range<usize>>,
    pub source: Option<Range<usize>>,
    pub identity: Option<Identity>,
    pub payload_hash: Option<PayloadHash>,
    pub change: Option<Change>,
    pub dead: Option<Box<DeadRow>>,
}

/// What only a dead record carries.
pub struct DeadRow {
    pub error_code: Range<usize>,
    pub error_message: Range<usize>,
    pub attempts: i32,
    pub key: Option<Range<usize>>,
    pub payload: Option<Range<usize>>,
    pub headers: Option<Range<usize>>,
}

/// Everything that this transaction has staged so far.
#[derive(Default)]
pub struct Staged {
    pub rows: Vec<Row>,
    pub bytes: Vec<u8>,
}

impl Staged {
    pub fn slice(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    /// Takes in text or bytes of a row.
    pub fn keep(&mut self, value: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        start..self.bytes.len()
    }

    /// The row in the form that both ends of the COPY digest.
    pub fn contract_row(&self, row: &Row) -> StagedRow<'_> {
        StagedRow {
            kafka_offset: row.kafka_offset,
            change_no: row.change_no,
            event_id: row.event_id.as_ref().map(|r| &self.bytes[r.clone()]),
            source: row.source.as_ref().map(|r| &self.bytes[r.clone()]),
            identity: row.identity,
            payload_hash: row.payload_hash,
            change: row.change,
            error_code: row.dead.as_ref().map(|d| &self.bytes[d.error_code.clone()]),
            payload: row
                .dead
                .as_ref()
                .and_then(|d| d.payload.as_ref())
                .map(|r| &self.bytes[r.clone()]),
        }
    }
}

thread_local! {
    static STAGED: RefCell<Staged> = RefCell::default();
    static CALLBACKS_REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Hands over what was staged; staging is empty afterwards.
pub fn take() -> Staged {
    STAGED.with_borrow_mut(std::mem::take)
}

fn forget() {
    drop(take());
}

fn register_callbacks() {
    if !CALLBACKS_REGISTERED.replace(true) {
        // SAFETY: both callbacks are `extern "C-unwind"` functions of this library, which PostgreSQL never unloads.
        unsafe {
            pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_subtransaction_end), std::ptr::null_mut());
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction_end(_event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    forget();
}

#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    _mine: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    // Which of the rows came inside the savepoint is not known: none stays, and the
    // promised row count of the apply will say so.
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        forget();
    }
}

#[unsafe(no_mangle)]
#[doc(hidden)]
pub extern "C" fn pg_finfo_capture_staged_row() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `BEFORE INSERT FOR EACH ROW` trigger of the staging table.
///
/// # Safety
/// PostgreSQL calls it with the call information of a trigger.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn capture_staged_row(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: fcinfo is valid for this call; the context is inspected before it is taken for TriggerData.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            not_a_staging_trigger();
        }
        let trigger = context.cast::<pg_sys::TriggerData>();
        let descriptor = (*(*trigger).tg_relation).rd_att;
        let wanted =
            pg_sys::TRIGGER_EVENT_INSERT | pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_BEFORE;
        let mask = pg_sys::TRIGGER_EVENT_OPMASK
            | pg_sys::TRIGGER_EVENT_ROW
            | pg_sys::TRIGGER_EVENT_TIMINGMASK;
        if (*trigger).tg_event & mask != wanted || (*descriptor).natts as usize != COLUMNS {
            not_a_staging_trigger();
        }
        let mut values = [pg_sys::Datum::from(0usize); COLUMNS];
        let mut nulls = [true; COLUMNS];
        pg_sys::heap_deform_tuple(
            (*trigger).tg_trigtuple,
            descriptor,
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
        );
        register_callbacks();
        STAGED.with_borrow_mut(|staged| stage(staged, &Columns { values, nulls }));
        (*fcinfo).isnull = false;
        // A NULL pointer, not SQL NULL: the row goes no further.
        pg_sys::Datum::from(0usize)
    }
}

fn not_a_staging_trigger() -> ! {
    raise(
        Code::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        "sluice.capture_staged_row is the BEFORE INSERT FOR EACH ROW trigger of ledger.staging_balance_changes only",
    )
}

/// The deformed columns of a staged tuple, which outlives them.
struct Columns {
    values: [pg_sys::Datum; COLUMNS],
    nulls: [bool; COLUMNS],
}

impl Columns {
    fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        (!self.nulls[column]).then_some(self.values[column])
    }

    fn int(&self, column: usize) -> Option<i64> {
        self.datum(column).map(|d| d.value() as i64)
    }

    fn bytes(&self, column: usize) -> Option<&[u8]> {
        // SAFETY: the column is of a varlena type by the table's definition (checked by column count, owned by
        // sluice_owner); a tuple that was never stored holds it inline, so it is neither compressed nor external.
        self.datum(column)
            .map(|d| unsafe { pgrx::varlena::varlena_to_byte_slice(d.cast_mut_ptr()) })
    }

    fn uuid(&self, column: usize) -> Option<[u8; 16]> {
        // SAFETY: a uuid datum points to 16 bytes inside the tuple.
        self.datum(column)
            .map(|d| unsafe { *d.cast_mut_ptr::<[u8; 16]>() })
    }
}

fn stage(staged: &mut Staged, columns: &Columns) {
    if staged.rows.len() >= MAX_BATCH_ROWS || staged.bytes.len() >= MAX_BATCH_BYTES {
        raise(
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!(
                "a batch may stage at most {MAX_BATCH_ROWS} rows and {MAX_BATCH_BYTES} bytes: lower BATCH_SIZE or BATCH_BYTES"
            ),
        );
    }
    let row = Row {
        kafka_offset: columns.int(0).unwrap_or_else(|| malformed("kafka_offset")),
        change_no: columns.int(1).unwrap_or_else(|| malformed("change_no")) as i16,
        event_id: columns.bytes(2).map(|id| staged.keep(id)),
        source: columns.bytes(16).map(|source| staged.keep(source)),
        identity: columns.uuid(3).map(Identity::from_bytes),
        payload_hash: columns.uuid(4).map(PayloadHash::from_bytes),
        change: change(columns),
        dead: columns.bytes(10).map(|code| dead(staged, code, columns)),
    };
    let shape = (
        row.dead.is_some(),
        row.change.is_some(),
        row.identity.is_some(),
        row.payload_hash.is_some(),
    );
    if !matches!(
        shape,
        (true, false, false, false) | (false, true, true, true)
    ) {
        malformed("a row is a change with its identity, or a dead record");
    }
    if row.dead.is_none() && row.event_id.is_none() {
        malformed("event_id");
    }
    staged.rows.push(row);
}

fn change(columns: &Columns) -> Option<Change> {
    let account_id = columns.int(5)?;
    let currency = columns
        .bytes(7)
        .and_then(|code| Currency::new(std::str::from_utf8(code).ok()?));
    Some(Change {
        key: AccountKey {
            account_id,
            shard_id: columns.int(6).unwrap_or_else(|| malformed("shard_id")) as i32,
            currency: currency.unwrap_or_else(|| malformed("currency_code")),
        },
        available_delta: delta(columns, 8, "available_delta"),
        frozen_delta: delta(columns, 9, "frozen_delta"),
    })
}

fn delta(columns: &Columns, column: usize, name: &str) -> Amount {
    columns
        .bytes(column)
        .and_then(numeric::decode)
        .unwrap_or_else(|| malformed(name))
}

fn dead(staged: &mut Staged, code: &[u8], columns: &Columns) -> Box<DeadRow> {
    let message = columns
        .bytes(11)
        .unwrap_or_else(|| malformed("error_message"));
    Box::new(DeadRow {
        error_code: staged.keep(code),
        error_message: staged.keep(message),
        attempts: columns.int(12).unwrap_or_else(|| malformed("attempts")) as i32,
        key: columns.bytes(13).map(|key| staged.keep(key)),
        payload: columns.bytes(14).map(|payload| staged.keep(payload)),
        headers: columns.bytes(15).map(|headers| staged.keep(headers)),
    })
}

fn malformed(what: &str) -> ! {
    raise(
        Code::ERRCODE_DATA_CORRUPTED,
        format!("staged row is not usable: {what}"),
    )
}
