//! The extension and the tables that this binary was built for: whether a database has them, and how it gets them.

pub mod lines;
pub mod migrations;
pub mod objects;
pub mod shipped;
pub mod views;
