//! The commands besides `run`.

pub mod check;
pub mod migrate;
