//! Errors as messages for people: what happened. People never see a library's own messages: the room that names a
//! library has one function that translates its errors (`postgres::error::describe`, `kafka::words`, `tls::words`,
//! `redis_marks`, `schema::lines::words`).

use std::error::Error;
use std::io::{self, ErrorKind};

/// The message for an error of the operating system.
pub fn of_io(error: &io::Error) -> String {
    let text = error.to_string();
    if text.contains("lookup address") {
        return "the host name is not known".to_owned();
    }
    let known = match error.kind() {
        ErrorKind::NotFound => "there is no such file",
        ErrorKind::PermissionDenied => "permission denied",
        ErrorKind::ConnectionRefused => "connection refused: nothing listens there",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            "the other side closed the connection"
        }
        ErrorKind::UnexpectedEof => {
            "the other side closed the connection in the middle of an answer"
        }
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            "there is no route to the host"
        }
        ErrorKind::TimedOut => "no answer in time",
        ErrorKind::AddrInUse => "another process listens there",
        ErrorKind::AddrNotAvailable => "this machine has no such address",
        ErrorKind::InvalidData => "it is not UTF-8 text",
        ErrorKind::IsADirectory => "it is a folder",
        ErrorKind::NotADirectory => "a part of the path is not a folder",
        ErrorKind::StorageFull => "no space left on the disk",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only",
        _ => {
            let words = text.split(" (os error").next().unwrap_or_default();
            return words.replace('\n', " ");
        }
    };
    known.to_owned()
}

/// The first of an error's causes that is of a type.
pub fn cause<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// An error and its causes in one line, to recognise what happened; not for people.
pub fn raw(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// A source file without the folders of the machine that built it: from the folder of its crate on.
pub fn place(file: &str) -> &str {
    let Some(source) = file.rfind("/src/") else {
        return file;
    };
    let before = file[..source].rfind('/').map_or(0, |slash| slash + 1);
    &file[before..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operating_systems_failures_are_told_without_its_numbers() {
        for (code, words) in [
            (libc_code::ECONNREFUSED, "connection refused"),
            (libc_code::ENOENT, "no such file"),
            (libc_code::ENOSPC, "no space left"),
            (libc_code::EMFILE, "Too many open files"),
        ] {
            let told = of_io(&io::Error::from_raw_os_error(code));
            assert!(told.contains(words) && !told.contains("os error"), "{told}");
        }
        let unknown = "failed to lookup address information: Name or service not known";
        assert_eq!(
            of_io(&io::Error::other(unknown)),
            "the host name is not known"
        );
    }

    /// As Linux numbers them.
    mod libc_code {
        pub const ENOENT: i32 = 2;
        pub const EMFILE: i32 = 24;
        pub const ENOSPC: i32 = 28;
        pub const ECONNREFUSED: i32 = 111;
    }

    #[test]
    fn a_source_file_is_told_without_the_builders_folders() {
        for (file, told) in [
            (
                "/home/ann/sluice/ingester/src/lanes/gate.rs",
                "ingester/src/lanes/gate.rs",
            ),
            ("ingester/src/main.rs", "ingester/src/main.rs"),
            (
                "/root/.cargo/registry/src/index-1/tokio-1.48.0/src/time/sleep.rs",
                "tokio-1.48.0/src/time/sleep.rs",
            ),
            (
                "/rustc/ab12/library/core/src/option.rs",
                "core/src/option.rs",
            ),
            ("build.rs", "build.rs"),
        ] {
            assert_eq!(place(file), told);
        }
    }
}
