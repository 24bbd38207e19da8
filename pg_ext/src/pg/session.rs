//! This session and others: clock, durability, which sessions exist, and how to end the
//! transaction of one that makes no progress.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// Whether a backend with this process id exists on this server.
pub fn exists(pid: i32) -> bool {
    // SAFETY: BackendPidGetProc takes its own lock and answers NULL for an unknown pid; the pointer is not used.
    unsafe { !pg_sys::BackendPidGetProc(pid).is_null() }
}

/// Ends a backend as pg_terminate_backend does. A session that may acquire a partition may end
/// the transaction that blocks it, whatever role that runs as.
pub fn terminate(pid: i32) {
    if pid > 0 && exists(pid) {
        // SAFETY: kill takes no pointers; SIGTERM is how PostgreSQL asks its own backends to end.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

/// Whether COMMIT waits for its WAL to reach the disk.
pub fn commits_durably() -> bool {
    // SAFETY: a plain integer variable of the backend, written only by this thread.
    let level = unsafe { pg_sys::synchronous_commit } as u32;
    level != pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF
}

/// Whether every statement of this transaction sees what was committed before the statement began.
pub fn reads_committed() -> bool {
    // SAFETY: a plain integer variable of the backend, written only by this thread.
    let level = unsafe { pg_sys::XactIsoLevel };
    level < pg_sys::XACT_REPEATABLE_READ as i32
}

/// Whether a transaction id is that of the current transaction or of one of its subtransactions that was not undone.
pub fn is_of_this_transaction(xid: u32) -> bool {
    // SAFETY: any number may be asked for; the answer comes from this backend's own memory.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(pg_sys::TransactionId::from(xid)) }
}

/// A setting of this session, whether PostgreSQL knows it or not.
pub fn setting(name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero byte and outlives the call. What comes back is NULL or a string of the
    // backend's own, which is copied before anything can change it.
    let value = unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value))
    };
    value.map(|value| value.to_string_lossy().into_owned())
}

/// A number of bytes as PostgreSQL reads it in a setting: an integer, with or without a unit.
pub fn parse_bytes(text: &str) -> Option<i32> {
    let text = CString::new(text).ok()?;
    let mut bytes = 0;
    // SAFETY: the text ends with a zero byte; the number is written where the answer says so, and no hint is asked for.
    let parsed = unsafe {
        pg_sys::parse_int(
            text.as_ptr(),
            &raw mut bytes,
            pg_sys::GUC_UNIT_BYTE as _,
            std::ptr::null_mut(),
        )
    };
    parsed.then_some(bytes)
}

/// From here on PostgreSQL refuses settings with this prefix that are not declared, and drops those that were set before.
pub fn reserve_settings(prefix: &CStr) {
    // SAFETY: the prefix ends with a zero byte, and is copied.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) };
}

/// The database's clock, in microseconds since 2000-01-01.
pub fn now() -> i64 {
    // SAFETY: reads the clock only.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

const UNIX_EPOCH_TO_2000_US: i64 = 946_684_800_000_000;

/// A timestamp of [`now`] in milliseconds since 1970-01-01.
pub fn unix_millis(timestamp: i64) -> i64 {
    (timestamp + UNIX_EPOCH_TO_2000_US) / 1_000
}

/// Microseconds since 1970-01-01, as an envelope gives them, as a timestamp of [`now`].
pub fn timestamp(unix_us: i64) -> i64 {
    unix_us - UNIX_EPOCH_TO_2000_US
}
