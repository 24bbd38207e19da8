//! A model of leadership and of dead letters: the write protocol of docs/contract.md as a small
//! state machine whose every reachable state is visited.
//!
//! Two instances lead one partition, freeze, crash and lose answers. Operators replay, correct,
//! discard and restore dead letters meanwhile. Each step is what one transaction, one process or
//! the network does at once; where another session can interleave there are two steps. The model
//! shares no code with the product: it implements the contract, and [`defects`] shows what goes
//! wrong without each safeguard.
//!
//! The search is our own, sixty lines, breadth first, and not `stateright`: that crate checks
//! "eventually" correctly only for graphs without a cycle, and this one is full of them (acquire,
//! lose, acquire). Here [`search::Explored::stuck`] checks it backwards, from the drained states.
//!
//! The number of states is finite without a bound on steps: a fencing token is only ever compared
//! with the current one, so a credential is current, released or stale and needs no number; tries
//! are counted up to the limit at which the leader stops.
//!
//! Left out: other partitions (they share balances, which `bank::` tests), parked keys, prune.

pub mod defects;
pub mod instances;
pub mod invariants;
pub mod letters;
pub mod operators;
pub mod search;
pub mod state;
pub mod steps;
