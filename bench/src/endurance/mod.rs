//! What shows with time and size only: memory over a long backlog, a transaction that stays
//! open, a log that has grown.

pub mod log_rows;
pub mod memory;
pub mod open_transaction;
