//! A real `sluice run`, and the clock from its first COMMIT to its last.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::sample::{Clock, Sample};
use crate::stack::{Result, Stack};

/// Without any COMMIT.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Lines of the log that an error shows.
const TAIL: usize = 10;

/// A running ingester; it ends with this value, come what may.
pub struct Ingester {
    process: Child,
    log: PathBuf,
}

impl Ingester {
    /// With default settings, but for which topics are read and where marks are set.
    pub fn start(
        stack: &Stack,
        balance_topics: &str,
        event_topics: &str,
        redis_url: Option<&str>,
    ) -> Result<Self> {
        Self::start_with(
            stack,
            &[
                ("BALANCE_TOPICS", balance_topics),
                ("EVENT_TOPICS", event_topics),
                ("REDIS_URL", redis_url.unwrap_or_default()),
            ],
        )
    }

    /// With default settings, but for these.
    pub fn start_with(stack: &Stack, settings: &[(&str, &str)]) -> Result<Self> {
        let path = stack.dir.join("bench-ingester.log");
        let log = File::options().create(true).append(true).open(&path)?;
        let process = Command::new(stack.sluice()?)
            .arg("run")
            .env("REDIS_URL", "")
            .envs(settings.iter().copied())
            .env("SERVICE_ID", "bench-ingester")
            .env("DB_WRITER_SERVICE_PORT", "0")
            .env("LOG_FORMAT", "text")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self { process, log: path })
    }

    /// Watches the committed offsets of `topics`, taken together, go from one to the other.
    pub async fn drain(
        &mut self,
        stack: &Stack,
        topics: &[&str],
        from_offset: i64,
        to_offset: i64,
    ) -> Result<Sample> {
        let admin = stack.admin().await?;
        let committed = admin
            .prepare(
                "SELECT coalesce(sum(commit_offset), 0)::bigint FROM ledger.partition_leader_locks WHERE topic = ANY ($1)",
            )
            .await?;
        let mut last_commit = (Instant::now(), from_offset);
        let mut clock = Clock::new(from_offset, to_offset);
        loop {
            let offset: i64 = admin.query_one(&committed, &[&topics]).await?.get(0);
            if let Some(sample) = clock.see(offset)? {
                return Ok(sample);
            }
            let missing = to_offset - offset;
            if offset > last_commit.1 {
                last_commit = (Instant::now(), offset);
            }
            self.check(missing, last_commit.0)?;
            // Often enough for a per mille of the time measured, rarely enough not to disturb.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// That it runs, and has committed something lately while events are missing.
    pub fn check(&mut self, missing: i64, last_commit: Instant) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            let what = format!("the ingester ended ({status}) with {missing} events to go");
            return Err(self.with_log(&what).into());
        }
        if last_commit.elapsed() > TIMEOUT {
            let what = format!(
                "{missing} events wait, no COMMIT for {} s",
                TIMEOUT.as_secs()
            );
            return Err(self.with_log(&what).into());
        }
        Ok(())
    }

    /// Its peak of resident memory.
    pub fn peak_memory_mb(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let peak_kib: Option<f64> = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok());
        Ok(peak_kib.ok_or("/proc tells no VmHWM")? * 1024.0 / 1e6)
    }

    fn with_log(&self, what: &str) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        format!(
            "{what}; the end of the ingester's log:\n{}",
            tail.join("\n")
        )
    }

    /// Asks it to stop, so that it gives its partitions back.
    pub fn stop(mut self) {
        let asked = Command::new("kill")
            .args(["-TERM", &self.process.id().to_string()])
            .status();
        if asked.is_ok_and(|status| status.success()) {
            // It promises to end within 5 s; Drop sees to it where it does not.
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && matches!(self.process.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Ingester {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
