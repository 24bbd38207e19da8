//! Domain events: their batches, and the SQL handlers that process them.

pub mod events;
pub mod handlers;
pub mod records;
pub mod trial;
