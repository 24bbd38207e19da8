//! How a broken promise becomes an ERROR with a standard SQLSTATE.

use ledger::contract::routine;
use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

/// Raises an ERROR that undoes the transaction.
pub fn raise(code: PgSqlErrorCode, message: impl Into<String>) -> ! {
    report(ErrorReport::new(code, message.into(), routine::SLUICE))
}

/// The same with a DETAIL for programs.
pub fn raise_with(code: PgSqlErrorCode, message: String, detail: String) -> ! {
    report(ErrorReport::new(code, message, routine::SLUICE).set_detail(detail))
}

/// A refusal by the fence: only this error means that leadership is lost.
pub fn raise_stale(message: String) -> ! {
    let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    report(ErrorReport::new(code, message, routine::FENCE))
}

fn report(report: ErrorReport) -> ! {
    report.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Planned and written rows are counted separately, and must agree.
pub fn assert_count(what: &str, written: i64, expected: i64) {
    if written != expected {
        raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("{what}: wrote {written}, expected {expected}"),
        );
    }
}
