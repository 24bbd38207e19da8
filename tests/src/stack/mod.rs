//! The private PostgreSQL and Kafka that `scripts/with-stack.sh` has started for us.

pub mod browser;
pub mod database;
pub mod fault_points;
pub mod ingester;
pub mod kafka;
pub mod proxy;
pub mod wait;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::config::Host;

use crate::kafka::Kafka;

#[derive(Clone)]
pub struct Stack {
    pub dir: PathBuf,
    pub kafka: Kafka,
    pub redis_url: String,
    pub postgres_port: u16,
    pub admin: Login,
    pub ingester: Login,
}

#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// A stack that is reached by TLS and password, and what a client of it sets.
pub struct SecureStack {
    pub stack: Stack,
    settings: Vec<(String, String)>,
    ports: Vec<(String, String)>,
}

impl SecureStack {
    /// One for all tests of a program, inside the folder of the plain one, which ends it.
    pub fn get() -> &'static Self {
        static STACK: OnceLock<SecureStack> = OnceLock::new();
        STACK.get_or_init(Self::start)
    }

    fn start() -> Self {
        let dir = PathBuf::from(variable("SLUICE_STACK_DIR")).join("secure");
        let started = Command::new(repository().join("scripts/stack.sh"))
            .arg(&dir)
            .args(["up", "--no-migrate", "--tls"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(started.expect("scripts/stack.sh can be run").success());
        let settings = pairs(&dir.join("env"));
        let ports = pairs(&dir.join("settings"));
        let admin: tokio_postgres::Config = value(&settings, "ADMIN_DATABASE_URL")
            .parse()
            .expect("an address");
        let ingester: tokio_postgres::Config = value(&settings, "DATABASE_URL")
            .parse()
            .expect("an address");
        let stack = Stack {
            kafka: Kafka::new(format!("127.0.0.1:{}", value(&ports, "KAFKA_PORT"))),
            redis_url: value(&settings, "REDIS_URL").to_owned(),
            postgres_port: admin.get_ports()[0],
            admin: login(&admin),
            ingester: login(&ingester),
            dir,
        };
        Self {
            stack,
            settings,
            ports,
        }
    }

    /// All that a client sets, but for what `other` sets instead.
    pub fn settings<'s>(&'s self, other: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
        let ours = self.settings.iter();
        let mut settings: Vec<(&str, &str)> = ours
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| other.iter().all(|(another, _)| another != name))
            .collect();
        settings.extend(other);
        settings
    }

    pub fn setting(&self, name: &str) -> &str {
        value(&self.settings, name)
    }

    /// For example `KAFKA_SSL_PORT`.
    pub fn port(&self, name: &str) -> &str {
        value(&self.ports, name)
    }

    /// A file of the stack's certificates.
    pub fn certificate(&self, name: &str) -> String {
        self.stack.dir.join("tls").join(name).display().to_string()
    }
}

/// A file of `NAME=value` lines; the last of a name counts.
fn pairs(file: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(file).expect("a file of the stack");
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn value<'p>(pairs: &'p [(String, String)], name: &str) -> &'p str {
    let found = pairs.iter().rev().find(|(known, _)| known == name);
    &found
        .unwrap_or_else(|| panic!("the stack does not say {name}"))
        .1
}

impl Stack {
    /// Panics without a stack: a proof that is skipped in silence proves nothing.
    pub fn get() -> Self {
        let admin = address("ADMIN_DATABASE_URL");
        let ingester = address("DATABASE_URL");
        assert_eq!(
            admin.get_hosts(),
            [Host::Tcp("127.0.0.1".into())],
            "the stack listens on 127.0.0.1 only"
        );
        Self {
            dir: PathBuf::from(variable("SLUICE_STACK_DIR")),
            kafka: Kafka::new(variable("KAFKA_BROKERS")),
            redis_url: variable("REDIS_URL"),
            postgres_port: admin.get_ports()[0],
            admin: login(&admin),
            ingester: login(&ingester),
        }
    }

    pub fn url(&self, login: &Login, port: u16, database: &str) -> String {
        format!(
            "postgres://{}:{}@127.0.0.1:{port}/{database}",
            login.user, login.password
        )
    }

    pub fn admin_url(&self, database: &str) -> String {
        self.url(&self.admin, self.postgres_port, database)
    }

    /// `scripts/stack.sh DIR …`, for example `["postgres-stop", "immediate"]`.
    pub async fn control(&self, arguments: &[&str]) {
        self.control_with(arguments, &[]).await;
    }

    /// The same with more in its environment.
    pub async fn control_with(&self, arguments: &[&str], environment: &[(&str, &str)]) {
        let mut command = tokio::process::Command::new(repository().join("scripts/stack.sh"));
        // The services outlive this command and must not hold our pipes open.
        let status = command
            .arg(&self.dir)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .await;
        assert!(
            status.expect("scripts/stack.sh can be run").success(),
            "scripts/stack.sh {arguments:?} failed"
        );
    }

    /// What `redis-cli` answers.
    pub fn redis(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-u", &self.redis_url])
            .args(arguments)
            .output()
            .expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A folder for the logs of this run's ingesters.
    pub fn logs(&self) -> PathBuf {
        let logs = self.dir.join("ingesters");
        std::fs::create_dir_all(&logs).expect("the stack's folder is writable");
        logs
    }
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
}

/// A program of PostgreSQL's, as `psql`.
pub fn postgres_program(name: &str) -> PathBuf {
    let config = std::env::var_os("PG_CONFIG")
        .unwrap_or_else(|| "/usr/lib/postgresql/15/bin/pg_config".into());
    let output = Command::new(config).arg("--bindir").output();
    let output = output.expect("pg_config: run make setup");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join(name)
}

/// The binary under test; `SLUICE_BIN` names another build.
pub fn sluice() -> PathBuf {
    let path = std::env::var_os("SLUICE_BIN")
        .map_or_else(|| repository().join("target/release/sluice"), PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: run make build",
        path.display()
    );
    path
}

/// A blocking call of `sluice` with nothing in its environment but what is given.
pub fn sluice_command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    command_of(&sluice(), arguments, environment)
}

/// The same for another build of it.
pub fn command_of(binary: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).env_clear();
    // The last one is for make coverage.
    for kept in ["PATH", "SLUICE_STACK_DIR", "HOME", "LLVM_PROFILE_FILE"] {
        command.envs(std::env::var_os(kept).map(|value| (kept, value)));
    }
    command.envs(environment.iter().copied());
    command
}

/// A name that no other test of this stack has.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{prefix}_{}_{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run make test, or scripts/with-stack.sh COMMAND")
    })
}

fn address(name: &str) -> tokio_postgres::Config {
    variable(name)
        .parse()
        .unwrap_or_else(|error| panic!("{name} is no PostgreSQL address: {error}"))
}

fn login(config: &tokio_postgres::Config) -> Login {
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).expect("the stack's passwords are hexadecimal")
    };
    Login {
        user: config
            .get_user()
            .expect("the address names a user")
            .to_owned(),
        password: text(config.get_password().expect("the address has a password")),
    }
}
