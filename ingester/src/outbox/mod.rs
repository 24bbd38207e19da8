//! What is produced after the commit, repeated until it succeeds: results for senders, dead letters to their topic.
//! No batch needs any of this to be correct.

pub mod dead_letters;
pub mod results;
