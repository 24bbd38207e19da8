//! Leadership of partitions: what a leader holds, which topics and how many partitions are an instance's share, and what
//! it reports. Records are none of its business.

pub mod lease;
pub mod report;
pub mod shares;
pub mod token;
pub mod topics;
