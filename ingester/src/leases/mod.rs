//! Leadership of partitions: leases, the topics and number of partitions that are an instance's share, and its report.
//! It knows nothing of records.

pub mod lease;
pub mod report;
pub mod shares;
pub mod token;
pub mod topics;
