//! Settings: what stands in the environment or on the command line (the `…Args`), and what it
//! means once checked (the `…Settings`). A bad value is one line that names the setting.
//! Nothing is started here, and no secret is quoted.

pub mod database;
pub mod help;
pub mod kafka;
pub mod names;
pub mod redis_server;
pub mod run;
pub mod secrets;
pub mod sessions;
pub mod setting;
