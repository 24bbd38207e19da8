//! The ingester of Sluice: gathers Kafka records, stages them, and has them applied.
//!
//! The rooms stand in the order in which they build on each other: none names one that comes later.
//! A record's way: [`kafka`] → [`batch`] → [`commit`], within the [`lanes`] of its partition; [`run`]
//! decides which lanes there are, by what [`leases`] tells.

// First, for its macros.
#[macro_use]
mod fault;

pub mod instance;
pub mod words;

pub mod back_off;
pub mod partition;
pub mod terminal;
pub mod throttle;
pub mod tls;

pub mod postgres;

pub mod observe;

pub mod redis_marks;

pub mod batch;

pub mod config;

pub mod leases;

pub mod kafka;

pub mod commit;

pub mod outbox;

pub mod lanes;

pub mod schema;

pub mod operator;

pub mod http;

pub mod run;

pub mod cli;
