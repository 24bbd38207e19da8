//! The extension `sluice`: the lock of a partition with its fencing token, and batches of balance changes and domain
//! events, applied natively. Tables belong to `migrations/`, rules to `ledger`.
//!
//! Modules stand in the order in which they build on each other.

// A panic becomes an ERROR by unwinding. Built to abort, it would end the backend, and PostgreSQL all other sessions.
#[cfg(not(panic = "unwind"))]
compile_error!(
    "the extension must be built with panic = \"unwind\": see [profile.release] in Cargo.toml"
);

// First, for its macro.
#[macro_use]
mod fault;

mod error;
mod memory;
mod pg;

mod arguments;
mod settings;
mod spi;
mod steps;

mod partition;

mod answer;
mod holes;
mod identities;
mod verdicts;

mod dead_letters;

mod balances;
mod domain;

mod replay;

mod api;

::pgrx::pg_module_magic!();
