//! The ingester of Sluice: gathers Kafka records, stages them, and has them applied.
//!
//! A record's way: [`source`] → [`staging`] → [`gate`] → [`apply`], within the [`lane`] of
//! its partition; [`run`] decides which lanes there are, by what [`lease`] tells.

// First, for its macros.
#[macro_use]
mod fault;

pub mod aftercare;
pub mod apply;
pub mod commands;
pub mod config;
pub mod db;
pub mod error;
pub mod gate;
pub mod group;
pub mod hint;
pub mod history;
pub mod http;
pub mod lane;
pub mod lease;
pub mod look;
pub mod metrics;
pub mod objects;
pub mod outlet;
pub mod partition;
pub mod pool;
pub mod pooler;
pub mod recognise;
pub mod renewals;
pub mod report;
pub mod results;
pub mod run;
pub mod schema;
pub mod share;
pub mod shipped;
pub mod source;
pub mod staging;
pub mod status;
pub mod terminal;
pub mod tls;
pub mod topics;
pub mod watcher;
