//! Checks of the arguments from SQL. A bad argument is refused before anything is read or written.

use ledger::span::Span;
use pgrx::PgSqlErrorCode as Code;
use pgrx::datum::Interval;

use crate::error::raise;

const LEASE_MIN_US: i128 = 100_000;
const LEASE_MAX_US: i128 = 86_400_000_000;

/// The value of an argument that must not be NULL.
pub fn given<T>(argument: &str, value: Option<T>) -> T {
    value.unwrap_or_else(|| {
        raise(
            Code::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("{argument} must not be NULL"),
        )
    })
}

/// The elements of an array none of which may be NULL.
pub fn all_given<T>(argument: &str, values: Option<Vec<Option<T>>>) -> Vec<T> {
    let values = given(argument, values);
    values
        .into_iter()
        .map(|value| given(argument, value))
        .collect()
}

/// Refuses an empty text, and one of more than `max_bytes`.
pub fn check_text(argument: &str, value: &str, max_bytes: usize) {
    if value.is_empty() || value.len() > max_bytes {
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("{argument} must have 1 to {max_bytes} bytes"),
        );
    }
}

/// The offsets of a batch.
pub fn span(from_offset: Option<i64>, next_offset: Option<i64>) -> Span {
    let (from, next) = (
        given("from_offset", from_offset),
        given("next_offset", next_offset),
    );
    Span::new(from, next).unwrap_or_else(|| {
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "offsets must satisfy 0 <= from_offset <= next_offset",
        )
    })
}

/// The duration of a lease in microseconds; refuses an implausible one.
pub fn lease_us(lease: &Interval) -> i64 {
    let micros = lease.as_micros();
    if !(LEASE_MIN_US..=LEASE_MAX_US).contains(&micros) {
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "lease must be between 100 milliseconds and one day",
        );
    }
    micros as i64
}
