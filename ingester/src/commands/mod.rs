//! The commands besides `run`.

pub mod check;
pub mod dlq;
pub mod events;
pub mod migrate;
