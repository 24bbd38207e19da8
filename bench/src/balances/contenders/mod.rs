//! Who is measured: the native apply, its floor, and the same job in one statement of plain SQL.
//!
//! All three use one connection, and wait for no answer that they can do without. Batches are
//! prepared in memory; the clock runs from the first BEGIN to the last COMMIT's answer.

mod batch;
mod floor;
mod native;
mod single_statement;

pub use floor::Floor;
pub use native::Apply;
pub use single_statement::SingleStatement;
