//! How a broken promise becomes an ERROR with a standard SQLSTATE.

use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

/// Raises an ERROR that undoes the transaction.
pub fn raise(code: PgSqlErrorCode, message: impl Into<String>) -> ! {
    ErrorReport::new(code, message.into(), "sluice").report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// The value of an argument that must not be NULL.
pub fn given<T>(argument: &str, value: Option<T>) -> T {
    value.unwrap_or_else(|| {
        raise(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("{argument} must not be NULL"),
        )
    })
}
