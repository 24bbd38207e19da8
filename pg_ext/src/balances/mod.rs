//! Balance events: their batches, their replays, and manual corrections.
//!
//! This folder locks and writes `ledger.account_balances` and `ledger.balance_log`, and nobody else does.

mod accounts;
pub mod again;
pub mod apply;
pub mod correct;
mod fold;
