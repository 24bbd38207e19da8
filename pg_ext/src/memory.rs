//! Room for what grows with a batch.
//!
//! Where an allocation fails Rust ends the process, and PostgreSQL then ends all sessions of the server. So whatever
//! can become large asks first, and the batch is refused (SQLSTATE 53200) where there is no room.

use std::collections::TryReserveError;

use pgrx::PgSqlErrorCode as Code;

use crate::error::raise;

/// What a change, a record or a reference takes at most, all steps together, without what it carries.
pub const BYTES_PER_ROW: usize = 1_000;
/// How often what a record carries is in memory besides where it came from: as a dead letter, as an argument of the
/// statement that writes it, and taken apart.
pub const COPIES: usize = 3;

/// Makes room for `more` elements.
pub fn reserve<T>(vec: &mut Vec<T>, more: usize) {
    if vec.capacity() - vec.len() < more {
        vec.try_reserve(more).unwrap_or_else(|_| refuse());
    }
}

/// An empty vector with room for so many elements.
pub fn vec<T>(elements: usize) -> Vec<T> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(elements).unwrap_or_else(|_| refuse());
    vec
}

/// So many times the same.
pub fn filled<T: Clone>(element: T, times: usize) -> Vec<T> {
    let mut filled = vec(times);
    filled.resize(times, element);
    filled
}

/// Asks once for the sum of what will be needed in small pieces, and gives it back: a backend has one thread, so what
/// its allocator has had it gets again.
pub fn ensure(bytes: usize) {
    drop(vec::<u8>(bytes));
}

/// For what asked elsewhere.
pub fn or_refuse<T>(answer: Result<T, TryReserveError>) -> T {
    answer.unwrap_or_else(|_| refuse())
}

fn refuse() -> ! {
    raise(
        Code::ERRCODE_OUT_OF_MEMORY,
        "out of memory for a batch: give the server more, or lower BATCH_SIZE or BATCH_BYTES",
    )
}
