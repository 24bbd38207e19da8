//! Kafka, and the only room that names it: what reads, what produces, and what is asked of brokers.
//! Where to begin is told from outside: nothing that Kafka keeps for a group is read back.

pub mod brokers;
pub mod client;
pub mod config;
mod context;
pub mod creation;
pub mod headers;
mod native;
pub mod producer;
pub mod reader;
