//! Lanes: one task for each led partition, which reads, gathers and has its batches committed in offset order.
//! A lane decides where to read from and when to send; what a batch does to the database is decided in `commit`.

pub mod flow;
pub mod gate;
pub mod lane;
pub mod reading;
pub mod recognise;
pub mod start;
