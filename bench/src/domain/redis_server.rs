//! The stack's Redis: asked for its keys, emptied, and frozen for a while.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use crate::stack::{Result, Stack};

const PATIENCE: Duration = Duration::from_secs(5);

pub async fn connect(stack: &Stack) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(stack.redis_url.as_str())?;
    Ok(client.get_multiplexed_async_connection().await?)
}

pub async fn empty(stack: &Stack) -> Result<()> {
    Ok(connect(stack).await?.flushall().await?)
}

/// How many keys there are.
pub async fn keys(stack: &Stack) -> Result<u64> {
    let mut connection = connect(stack).await?;
    Ok(redis::cmd("DBSIZE").query_async(&mut connection).await?)
}

/// A Redis that takes connections and answers nothing. It goes on with the end of this value.
pub struct Frozen(String);

impl Frozen {
    pub fn new(stack: &Stack) -> Result<Self> {
        let pid = std::fs::read_to_string(stack.dir.join("redis.pid"))?;
        let pid = pid.trim().to_owned();
        let process = PathBuf::from("/proc").join(&pid);
        // A pid may by now belong to a stranger; the stack's own Redis carries the folder in its command line.
        let command = std::fs::read(process.join("cmdline"))?;
        let folder = format!("{}/", stack.dir.display());
        if !String::from_utf8_lossy(&command).contains(&folder) {
            return Err(format!("process {pid} is not the Redis of {folder}").into());
        }
        let frozen = Self(pid);
        frozen.signal("-STOP")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = std::fs::read_to_string(process.join("status"))?;
            if status.lines().any(|line| line.starts_with("State:\tT")) {
                return Ok(frozen);
            }
            if Instant::now() > deadline {
                return Err("Redis does not stop".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill").args([signal, &self.0]).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("kill {signal} {} failed", self.0).into())
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.signal("-CONT");
    }
}
