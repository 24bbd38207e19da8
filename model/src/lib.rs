//! A model of leadership and of dead letters: the write protocol of docs/contract.md as a small
//! state machine, of which every reachable state is visited.
//!
//! Two instances lead one partition, freeze, crash and lose answers. Operators replay, correct,
//! discard and restore dead letters meanwhile. Each step is what one transaction, one process or
//! the network does at once; whatever another session can come between is two steps. The model
//! shares no code with the product: it says what the contract wants, and [`defects`] says what
//! goes wrong without each safeguard.
//!
//! The search is our own, sixty lines breadth first, and not `stateright`: that crate answers
//! "eventually" rightly only for graphs without a cycle, and this one is full of them (acquire,
//! lose, acquire). Here [`search::Explored::stuck`] asks it backwards, from the drained states.
//!
//! What keeps the number of states finite without a bound on steps: a fencing token is only ever
//! compared with the current one, so a credential is current, released or stale and needs no
//! number; tries are counted up to the limit at which the leader stops.
//!
//! Left out: other partitions (they meet at balances, which `bank::` tests), parked keys, prune.

pub mod defects;
pub mod instances;
pub mod invariants;
pub mod letters;
pub mod operators;
pub mod search;
pub mod state;
pub mod steps;
