//! From a batch to a committed transaction, behind the fence: once, in parts, or not at all.
//! A verdict that depends on a balance is never decided here.

pub mod applier;
pub mod call;
pub mod edge;
pub mod group;
mod parts;
pub mod statements;
pub mod transaction;
