//! The commands besides `run`.

pub mod check;
pub mod events;
pub mod migrate;
