//! A running service: it starts the parts, and one loop gives partitions to lanes and takes them back.
//! It decides nothing about records.

pub mod conductor;
mod handover;
pub mod renewals;
pub mod service;
pub mod start;
pub mod topic_watch;
