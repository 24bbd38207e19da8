//! What proves Sluice right: a reference ledger of its own, a workload, and handles on real
//! services, ingesters and their faults. Shares no code with the product.

pub mod browser;
pub mod campaign;
pub mod compare;
pub mod database;
pub mod dead_letters;
pub mod deeds;
pub mod event;
pub mod families;
pub mod fault_points;
pub mod garbage;
pub mod ingester;
pub mod json;
pub mod kafka;
pub mod load;
pub mod nemesis;
pub mod proxy;
pub mod reference;
pub mod replay;
pub mod rng;
pub mod scene;
pub mod stack;
pub mod wait;
pub mod watch;
pub mod workload;
