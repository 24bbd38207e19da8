//! What is told after the commit, again until it is told: results to senders, dead letters to their topic.
//! Nothing here is needed for a batch to be right.

pub mod dead_letters;
pub mod results;
