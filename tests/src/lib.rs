//! What proves Sluice right: a reference ledger of its own, a workload, and handles on real
//! services, ingesters and their faults. Shares no code with the product.

pub mod families;
pub mod reference;
pub mod stack;
pub mod verify;
pub mod workload;

pub mod campaign;
pub mod nemesis;
pub mod scene;

// The names by which scenarios call them.
pub use reference::{event, json};
pub use stack::{browser, database, fault_points, ingester, kafka, proxy, wait};
pub use verify::{compare, dead_letters, deeds, replay, watch};
pub use workload::{garbage, load, rng};
