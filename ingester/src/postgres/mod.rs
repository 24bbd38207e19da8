//! Connections to PostgreSQL: how they are opened, shared, watched and given up, and what follows from an error.
//! It knows no statement of the write protocol.

pub mod database;
pub mod error;
pub mod life;
pub mod pool;
pub mod pooler;
pub mod precedence;
pub mod session;
pub mod watcher;
