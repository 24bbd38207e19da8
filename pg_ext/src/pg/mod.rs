//! The only place where Rust touches PostgreSQL's memory and C functions, and so the
//! only `unsafe` of the extension. What leaves this module is safe to use.
#![allow(unsafe_code)]

mod append;
pub mod balances;
pub mod capture;
mod hints;
pub mod identities;
pub mod log;
mod lookup;
pub mod numeric;
pub mod session;
mod target;
mod varlena;
pub mod verdicts;
mod versions;
