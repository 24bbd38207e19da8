//! Staged rows of a transaction, kept in backend memory from the COPY to the apply.
//!
//! A trigger on the staging table passes each piece to [`capture_staged_row`] and tells
//! PostgreSQL to store nothing. So staging writes no page, no WAL and no dead tuple, takes no
//! lock that TRUNCATE or VACUUM need, and is invisible to other sessions. The price is memory,
//! so the bytes are bounded.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;

use ledger::contract::MAX_BATCH_BYTES;
use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;
use pgrx::{pg_guard, pg_sys};

use crate::error::raise;
use crate::memory;

/// Bytes that a backend keeps allocated between batches, so that not every batch allocates them again.
const KEPT_BYTES: usize = 4 << 20;

thread_local! {
    static STAGED: RefCell<Vec<u8>> = RefCell::default();
    static CALLBACKS_REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on the staged bytes; staging is empty afterwards.
pub fn take<T>(work: impl FnOnce(&[u8]) -> T) -> T {
    // Not borrowed meanwhile: a terminated backend ends its transaction from within `work`.
    let staged = STAGED.take();
    let done = work(&staged);
    STAGED.set(staged);
    forget();
    done
}

fn forget() {
    STAGED.with_borrow_mut(|staged| {
        staged.clear();
        staged.shrink_to(KEPT_BYTES);
    });
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
    // It is not known which pieces came inside the savepoint, so all are dropped; the promised checksum then refuses the
    // batch.
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        forget();
    }
}

finfo!(pg_finfo_capture_staged_row);

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
        if (*trigger).tg_event & mask != wanted || (*descriptor).natts != 1 {
            not_a_staging_trigger();
        }
        let (mut piece, mut is_null) = ([pg_sys::Datum::from(0usize)], [true]);
        pg_sys::heap_deform_tuple(
            (*trigger).tg_trigtuple,
            descriptor,
            piece.as_mut_ptr(),
            is_null.as_mut_ptr(),
        );
        register_callbacks();
        if !is_null[0] {
            // A tuple that was never stored has its one bytea inline, neither compressed nor external.
            stage(pgrx::varlena::varlena_to_byte_slice(
                piece[0].cast_mut_ptr(),
            ));
        }
        (*fcinfo).isnull = false;
        // A NULL pointer, not SQL NULL: the row is not stored.
        pg_sys::Datum::from(0usize)
    }
}

fn stage(piece: &[u8]) {
    let fits = STAGED.with_borrow_mut(|staged| {
        let fits = staged.len() + piece.len() <= MAX_BATCH_BYTES;
        if fits {
            memory::reserve(staged, piece.len());
            staged.extend_from_slice(piece);
        }
        fits
    });
    if !fits {
        raise(
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!(
                "a batch may stage at most {MAX_BATCH_BYTES} bytes: lower BATCH_SIZE or BATCH_BYTES"
            ),
        );
    }
}

fn not_a_staging_trigger() -> ! {
    raise(
        Code::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        "sluice.capture_staged_row is the BEFORE INSERT FOR EACH ROW trigger of ledger.staging_balance_changes only",
    )
}
