//! A running service: it starts the parts, and one loop acquires partitions, gives them to lanes and releases them.
//! It decides nothing about records.

pub mod conductor;
mod handover;
pub mod renewals;
pub mod service;
pub mod start;
pub mod topic_watch;
