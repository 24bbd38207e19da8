//! What an operator can ask and do, for the command line and the page alike. It knows neither arguments nor
//! answers of HTTP, and prints nothing.

pub mod dead_letters;
pub mod event_check;
pub mod events;
pub mod jobs;
pub mod overview;
pub mod partitions;
pub mod plan;
pub mod prune;
pub mod rows;
pub mod session;
