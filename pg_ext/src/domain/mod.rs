//! Domain events: batches of them, and the SQL handlers that they are given to.

pub mod events;
pub mod handlers;
pub mod records;
