//! Named fault points of test builds. In other builds the macro below expands to nothing.

/// A point that may crash or freeze the backend, delay it, or raise an error.
macro_rules! fault_point {
    ($name:literal) => {
        #[cfg(feature = "fault-points")]
        $crate::fault::point($name);
    };
}

#[cfg(feature = "fault-points")]
pub use points::{at_commit, point};

#[cfg(feature = "fault-points")]
mod points {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use faults::Action;
    use pgrx::PgSqlErrorCode as Code;
    use pgrx::{PgXactCallbackEvent, register_xact_callback};

    use crate::error::raise;
    use crate::settings;

    pub fn point(name: &str) {
        let Some(folder) = settings::fault_points() else {
            return;
        };
        match faults::take(Path::new(OsStr::from_bytes(folder.to_bytes())), name) {
            None => {}
            Some(Action::Crash) => faults::crash(),
            Some(Action::Freeze) => faults::freeze(),
            Some(Action::Raise) => raise(
                Code::ERRCODE_IO_ERROR,
                format!("{} at {name}", faults::RAISED),
            ),
            Some(Action::Delay(time)) => {
                let began = Instant::now();
                while began.elapsed() < time {
                    pgrx::check_for_interrupts!();
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    /// Two more points at this transaction's end: before its commit record is written, and once it is on disk.
    pub fn at_commit() {
        register_xact_callback(PgXactCallbackEvent::PreCommit, || point("commit.before"));
        register_xact_callback(PgXactCallbackEvent::Commit, || point("commit.durable"));
    }
}
