//! The settings of a session whose names begin with `sluice.`.
//!
//! Each is declared with its type, and the prefix is reserved: PostgreSQL refuses a misspelt name and a value that is
//! none. What was set before the library was loaded is taken over.

use std::ffi::CString;

use ledger::contract::MAX_EVENT_BYTES_SETTING;
use pgrx::PgSqlErrorCode as Code;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::error::raise;
use crate::pg::session;

/// No limit: more than one `bytea` can hold.
const UNLIMITED: i32 = i32::MAX;

static MAX_EVENT_BYTES: GucSetting<i32> = GucSetting::<i32>::new(UNLIMITED);
static WHY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
#[cfg(feature = "fault-points")]
static FAULT_POINTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// PostgreSQL calls it once per session, when it loads the library.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    refuse_what_is_no_number();
    GucRegistry::define_int_guc(
        c"sluice.max_event_bytes",
        c"Payloads of domain events that are larger become dead letters.",
        c"The ingester sets it to its MAX_EVENT_BYTES. A replay by hand has no limit.",
        &MAX_EVENT_BYTES,
        1,
        UNLIMITED,
        GucContext::Userset,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_string_guc(
        c"sluice.why",
        c"Why an operator pauses, resumes, moves or prunes partitions.",
        c"It is recorded with the action, in ledger.partition_actions.",
        &WHY,
        GucContext::Userset,
        GucFlags::empty(),
    );
    #[cfg(feature = "fault-points")]
    GucRegistry::define_string_guc(
        c"sluice.fault_points",
        c"The folder in which fault points are armed. Test builds only.",
        c"",
        &FAULT_POINTS,
        GucContext::Userset,
        GucFlags::empty(),
    );
    session::reserve_settings(c"sluice");
}

/// PostgreSQL only warns where a value that was set before the library was loaded does not fit the type, and goes on
/// with the default, which is no limit. Refused before anything is declared, because nothing can be declared twice.
fn refuse_what_is_no_number() {
    let before = session::setting(MAX_EVENT_BYTES_SETTING).filter(|value| !value.is_empty());
    if let Some(value) = before
        && session::parse_bytes(&value).is_none_or(|bytes| bytes < 1)
    {
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "{MAX_EVENT_BYTES_SETTING} is set to \"{value}\", which is no number of bytes from 1 to {UNLIMITED}: set \
                 it to a number, with or without kB, MB or GB, and connect again"
            ),
        );
    }
}

/// How large the payload of a domain event may be.
pub fn max_event_bytes() -> usize {
    MAX_EVENT_BYTES.get() as usize
}

/// Where fault points are armed.
#[cfg(feature = "fault-points")]
pub fn fault_points() -> Option<CString> {
    FAULT_POINTS.get().filter(|folder| !folder.is_empty())
}
