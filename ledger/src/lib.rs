//! The nouns and rules of Sluice: what an event is, who owns an identity, and how a
//! balance event changes balances.
//!
//! Both sides use this crate: the ingester decodes and digests with it, the extension
//! folds with it. It knows no database, no broker and no runtime, so everything in it can
//! be tested by itself.
//!
//! The modules stand in the order in which a record meets them.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod json;

pub mod account;
pub mod amount;

pub mod storable;
pub mod timestamp;

mod fields;

pub mod event;

pub mod decode;

pub mod identity;

pub mod contract;
pub mod span;

pub mod recent;
pub mod staging;

pub mod fold;

pub mod verdict;

pub mod fault;
