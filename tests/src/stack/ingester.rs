//! A running `sluice run`: started, stopped, frozen, killed and measured from outside.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stack::{Stack, command_of, sluice, unique};
use crate::wait::wait_until;

/// A setting of this value is left out, so that its default holds.
pub const UNSET: &str = "(unset)";

/// An answer by HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

pub struct Ingester {
    pub service_id: String,
    binary: PathBuf,
    child: Child,
    log: PathBuf,
    environment: Vec<(String, String)>,
}

impl Ingester {
    /// Starts one on `topic`; `settings` add to or replace the environment that it gets.
    pub fn start(
        stack: &Stack,
        database_url: &str,
        topic: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        Self::start_build(sluice(), stack, database_url, topic, settings)
    }

    /// The same with another build of it.
    pub fn start_build(
        binary: PathBuf,
        stack: &Stack,
        database_url: &str,
        topic: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        let service_id = unique("ingester");
        let log_filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
        let mut environment: Vec<(String, String)> = [
            ("DATABASE_URL", database_url),
            ("KAFKA_BROKERS", &stack.kafka.brokers),
            ("KAFKA_GROUP_ID", topic),
            ("BALANCE_TOPICS", topic),
            ("EVENT_TOPICS", ""),
            ("SERVICE_ID", &service_id),
            ("PORT", "0"),
            ("LOG_FORMAT", "text"),
            ("RUST_LOG", &log_filter),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        for (name, value) in settings {
            environment.retain(|(known, _)| known != name);
            if *value == UNSET {
                continue;
            }
            environment.push(((*name).to_owned(), (*value).to_owned()));
        }
        let log = stack.logs().join(format!("{service_id}.log"));
        let child = spawn(&binary, &environment, &log);
        Self {
            service_id,
            binary,
            child,
            log,
            environment,
        }
    }

    /// Starts the same again, under the same name, after it has ended.
    pub fn start_again(&mut self) {
        assert!(self.has_ended(), "{} still runs", self.service_id);
        self.child = spawn(&self.binary, &self.environment, &self.log);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id");
        kill_process(pid, signal).expect("a child that was not waited for");
    }

    pub fn catches_sigterm(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("a child that was not waited for");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.expect("a line of its own").trim(), 16);
        caught.expect("hexadecimal digits") >> (Signal::TERM.as_raw() - 1) & 1 == 1
    }

    /// Kills it with -9 and waits until it is gone.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("a child can be waited for");
    }

    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn unfreeze(&self) {
        self.signal(Signal::CONT);
    }

    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn has_ended(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("a child can be waited for")
            .is_some()
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self, timeout: Duration) -> ExitStatus {
        let what = format!("{} to end", self.service_id);
        let mut status = None;
        wait_until(&what, timeout, async || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        })
        .await;
        status.expect("waited for it")
    }

    /// Asks it to stop, and expects that it does so as it should.
    pub async fn stop(&mut self) {
        self.terminate();
        let status = self.ended(Duration::from_secs(10)).await;
        assert!(
            status.success(),
            "{} ended with {status}, signal {:?}:\n{}",
            self.service_id,
            status.signal(),
            self.log_tail()
        );
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub async fn logs(&self, text: &str, timeout: Duration) {
        self.logs_times(1, text, timeout).await;
    }

    /// Waits until `text` is that often in the log.
    pub async fn logs_times(&self, times: usize, text: &str, timeout: Duration) {
        wait_until(
            &format!("{text:?} {times} times in the log of {}", self.service_id),
            timeout,
            async || self.log().matches(text).count() >= times,
        )
        .await;
    }

    /// Where it serves HTTP.
    pub async fn address(&self) -> String {
        self.logged_after("address=").await
    }

    /// Where it answers probes, with PROBE_PORT.
    pub async fn probe_address(&self) -> String {
        self.logged_after("probes=").await
    }

    async fn logged_after(&self, name: &str) -> String {
        self.logs(name, Duration::from_secs(20)).await;
        let log = self.log();
        let (_, rest) = log.rsplit_once(name).expect("logged");
        let value = rest.split_whitespace().next();
        value.expect("a value").to_owned()
    }

    /// Status and body of an answer to GET.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let host = format!("Host: {}", self.address().await);
        let answer = self.ask(&format!("GET {path}"), &[&host], "").await;
        (answer.status, answer.body)
    }

    /// The answer to a request of this method and path, these headers and this body.
    pub async fn ask(&self, request: &str, headers: &[&str], body: &str) -> Answer {
        ask_at(&self.address().await, request, headers, body).await
    }

    /// Resident memory now, in bytes.
    pub fn rss_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most that it ever was, in bytes.
    pub fn peak_rss_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .map_or(0, |kib| kib * 1024)
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The command's name stands in brackets and may contain spaces; utime and stime are the 12th and 13th after it.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks: u64 = [11, 12]
            .iter()
            .filter_map(|at| fields.get(*at)?.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid())).map_or(0, Iterator::count)
    }
}

impl Drop for Ingester {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill9();
        }
        if std::thread::panicking() {
            eprintln!(
                "--- the last lines of {} ---\n{}",
                self.service_id,
                self.log_tail()
            );
        }
    }
}

/// The answer of whatever listens at `address`.
pub async fn ask_at(address: &str, request: &str, headers: &[&str], body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let headers: String = headers.iter().flat_map(|header| [header, "\r\n"]).collect();
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    let request = format!("{request} HTTP/1.1\r\nConnection: close\r\n{headers}{length}\r\n{body}");
    // It may have refused before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no HTTP answer: {read:?} {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer {
        status: status.expect(head),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

fn spawn(binary: &Path, environment: &[(String, String)], log: &Path) -> Child {
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .expect("the stack's folder is writable");
    let stdout = file.try_clone().expect("a second handle");
    command_of(binary, &["run"], &environment)
        .stdout(stdout)
        .stderr(file)
        .spawn()
        .expect("sluice can be run")
}
