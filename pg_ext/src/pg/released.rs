//! Symbols that the script of a released version names for a function of other arguments than today.
//!
//! Where the library is new and the extension was not updated yet, PostgreSQL still calls them as that script declared
//! them. Each refuses then and says what to run; to read arguments of other types would end the server.

use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;
use pgrx::{pg_guard, pg_sys};

use crate::error::raise;

finfo!(pg_finfo_replay_letters_wrapper);

unsafe extern "C-unwind" {
    /// What `api::replay_letters_by_id` is for PostgreSQL.
    fn replay_letters_by_id_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}

/// `sluice.replay_letters(ids bigint[], payload bytea)`. Until version 0.6.0 topic and partition came before them.
///
/// # Safety
/// PostgreSQL calls it with the call information of these arguments, or of those of 0.6.0.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn replay_letters_wrapper(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: fcinfo is valid for this call.
    if unsafe { (*fcinfo).nargs } != 2 {
        refuse("sluice.replay_letters");
    }
    // SAFETY: these are the arguments that it reads.
    unsafe { replay_letters_by_id_wrapper(fcinfo) }
}

fn refuse(function: &str) -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "{function} is declared as in an earlier version of the extension than the library that is installed: run \
             `sluice migrate`, or ALTER EXTENSION sluice UPDATE"
        ),
    )
}
