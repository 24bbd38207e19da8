//! Connections to PostgreSQL: opening, pooling, watching and dropping them, and the consequence of an error.
//! It knows no statement of the write protocol.

pub mod database;
pub mod error;
pub mod life;
pub mod pool;
pub mod pooler;
pub mod precedence;
pub mod session;
pub mod watcher;
