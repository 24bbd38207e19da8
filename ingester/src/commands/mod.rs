//! The commands besides `run`.

pub mod check;
pub mod dlq;
pub mod events;
pub mod find;
pub mod migrate;
pub mod output;
pub mod partitions;
pub mod patience;
pub mod plan;
pub mod prune;

use std::io::{ErrorKind, Write};

use crate::terminal::clean;

/// A line to stdout, cleaned of what a terminal would obey; a reader that has enough, as `head`, is no failure.
pub fn write_line(text: &str) -> Result<(), String> {
    match writeln!(std::io::stdout(), "{}", clean(text)) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}
