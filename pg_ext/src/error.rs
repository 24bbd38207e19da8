//! How a broken promise becomes an ERROR with a standard SQLSTATE.

use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

/// Raises an ERROR that undoes the transaction.
pub fn raise(code: PgSqlErrorCode, message: impl Into<String>) -> ! {
    ErrorReport::new(code, message.into(), "sluice").report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}
