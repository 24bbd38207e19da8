//! What is told of this instance: its state, its metrics, and the last minutes for the page.
//! Nothing is decided by it.

pub mod history;
pub mod metrics;
pub mod status;
