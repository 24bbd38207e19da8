//! Kafka, and the only room that names it: reading, producing, and queries to brokers.
//! The caller gives the offsets to read from: group offsets in Kafka are never read back.

pub mod brokers;
pub mod client;
pub mod config;
mod context;
pub mod creation;
pub mod headers;
mod native;
pub mod producer;
pub mod reader;
mod words;
