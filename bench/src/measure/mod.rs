//! How it is measured and reported: samples and their spread, the processors' time, targets, tables and curves.

pub mod plot;
pub mod processors;
pub mod random;
pub mod report;
pub mod sample;
pub mod targets;
