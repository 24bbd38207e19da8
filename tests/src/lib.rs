//! What proves Sluice right: a reference ledger of its own, a workload, and handles on real
//! services, ingesters and their faults. Shares no code with the product.

pub mod event;
pub mod garbage;
pub mod json;
pub mod rng;
pub mod workload;
