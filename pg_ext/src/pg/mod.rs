//! The only place where Rust touches PostgreSQL's memory and C functions, and so the
//! only `unsafe` of the extension. What leaves this module is safe to use.
#![allow(unsafe_code)]

/// Declares the calling convention of the C function of this name to PostgreSQL.
macro_rules! finfo {
    ($name:ident) => {
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        pub extern "C" fn $name() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const V1: pgrx::pg_sys::Pg_finfo_record =
                pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }
    };
}

mod append;
pub mod balances;
pub mod capture;
pub mod confine;
mod hints;
pub mod holders;
pub mod identities;
mod json;
pub mod log;
mod lookup;
pub mod numeric;
pub mod references;
mod released;
pub mod session;
mod subtransaction;
mod target;
mod varlena;
pub mod verdicts;
mod versions;
