//! Memory that grows with a batch.
//!
//! If an allocation fails Rust ends the process, and PostgreSQL then ends all sessions of the server. So every large
//! allocation is tried first, and the batch is refused (SQLSTATE 53200) if there is no memory.

use std::collections::TryReserveError;

use pgrx::PgSqlErrorCode as Code;

use crate::error::raise;

/// The most that a change, a record or a reference takes in all steps together, without its content.
pub const BYTES_PER_ROW: usize = 1_000;
/// How many copies of a record's content are in memory besides the original: as a dead letter, as an argument of the
/// statement that writes it, and parsed.
pub const COPIES: usize = 3;

/// Reserves memory for `more` elements.
pub fn reserve<T>(vec: &mut Vec<T>, more: usize) {
    if vec.capacity() - vec.len() < more {
        vec.try_reserve(more).unwrap_or_else(|_| refuse());
    }
}

/// An empty vector with memory for so many elements.
pub fn vec<T>(elements: usize) -> Vec<T> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(elements).unwrap_or_else(|_| refuse());
    vec
}

/// A vector of so many copies.
pub fn filled<T: Clone>(element: T, times: usize) -> Vec<T> {
    let mut filled = vec(times);
    filled.resize(times, element);
    filled
}

/// Allocates the sum of what will be needed in small pieces, and frees it: a backend has one thread, so its allocator
/// gets the same memory again.
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
