//! Symbols that the script of a released version names for a function of other arguments than today.
//!
//! Where the library is new and the extension was not updated yet, PostgreSQL still calls them as that script declared
//! them. Each refuses and says what to run: to read arguments of other types would end the server.

use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;
use pgrx::{pg_guard, pg_sys};

use crate::error::raise;

finfo!(pg_finfo_replay_letters_wrapper);

/// `sluice.replay_letters(topic text, partition integer, ids bigint[], payload bytea)`, until version 0.6.0.
///
/// # Safety
/// PostgreSQL calls it; nothing of the call is read.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn replay_letters_wrapper(
    _call: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    refuse("sluice.replay_letters")
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
