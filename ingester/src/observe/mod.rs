//! What is told of this instance: its state, its metrics, and the last minutes for the page.
//! Nothing is decided by it.

pub mod counts;
pub mod history;
mod labels;
mod matters;
pub mod metrics;
pub mod open;
mod process;
mod scrape;
pub mod snapshot;
pub mod status;
pub mod trend;
