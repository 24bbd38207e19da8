//! Work that may fail in one expected way, and is then undone.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;
use pgrx::{PgTryBuilder, pg_sys};

/// Runs `work` in a subtransaction. If it raises `expected`, all its writes are undone, and the result is `None`.
pub fn unless<T>(expected: Code, work: impl FnOnce() -> T) -> Option<T> {
    let place = Place::begin();
    PgTryBuilder::new(AssertUnwindSafe(|| {
        let done = work();
        place.release();
        Some(done)
    }))
    .catch_when(expected, |_| {
        place.roll_back();
        None
    })
    .catch_others(|cause| {
        place.roll_back();
        cause.rethrow()
    })
    .execute()
}

/// The state to restore after the subtransaction, as PL/pgSQL does around an EXCEPTION block.
#[derive(Clone, Copy)]
struct Place {
    memory: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
}

impl Place {
    fn begin() -> Self {
        // SAFETY: within a transaction; the work allocates where its caller does.
        unsafe {
            let place = Self {
                memory: pg_sys::CurrentMemoryContext,
                owner: pg_sys::CurrentResourceOwner,
            };
            pg_sys::BeginInternalSubTransaction(std::ptr::null());
            pg_sys::MemoryContextSwitchTo(place.memory);
            place
        }
    }

    fn release(self) {
        // SAFETY: the innermost subtransaction is the one of `begin`.
        unsafe { pg_sys::ReleaseCurrentSubTransaction() };
        self.go_on();
    }

    fn roll_back(self) {
        // SAFETY: as above; inner subtransactions have been undone by the time an ERROR arrives here.
        unsafe {
            pg_sys::MemoryContextSwitchTo(self.memory);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        self.go_on();
    }

    fn go_on(self) {
        // SAFETY: both were current before the subtransaction began, and outlive it.
        unsafe {
            pg_sys::MemoryContextSwitchTo(self.memory);
            pg_sys::CurrentResourceOwner = self.owner;
        }
    }
}
