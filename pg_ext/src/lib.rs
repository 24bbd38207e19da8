//! The extension `sluice`: taking a partition's lock with a fencing token, and applying a
//! batch of balance changes or domain events, natively. Tables belong to `migrations/`; rules to `ledger`.

// First, for its macro.
#[macro_use]
mod fault;

mod accounts;
mod api;
mod apply;
mod breaker;
mod burials;
mod correct;
mod error;
mod events;
mod fence;
mod handlers;
mod identities;
mod instances;
mod leader;
mod letters;
mod memory;
mod outcome;
mod pg;
mod records;
mod rejections;
mod replay;
mod statements;
mod steps;

::pgrx::pg_module_magic!();
