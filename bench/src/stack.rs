//! The private PostgreSQL, Kafka and Redis that `scripts/with-stack.sh` started for this run.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use tokio_postgres::{Client, NoTls};

/// Every failure ends the run with its one line.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Identities that are known beforehand: an index in service is never empty.
pub const KNOWN_IDENTITIES: usize = 1_000_000;

#[derive(Clone)]
pub struct Stack {
    database_url: String,
    admin_database_url: String,
    pub kafka_brokers: String,
    pub redis_url: String,
    pub dir: PathBuf,
}

/// What figures were measured on.
pub struct Machine {
    pub date: String,
    pub lines: Vec<String>,
}

impl Machine {
    pub fn list(&self) -> String {
        let lines: Vec<String> = self.lines.iter().map(|line| format!("- {line}")).collect();
        lines.join("\n")
    }
}

impl Stack {
    pub fn from_environment() -> Result<Self> {
        let variable = |name| {
            std::env::var(name).map_err(|_| {
                format!("{name} is not set: run `make bench`, which starts the services")
            })
        };
        Ok(Self {
            database_url: variable("DATABASE_URL")?,
            admin_database_url: variable("ADMIN_DATABASE_URL")?,
            kafka_brokers: variable("KAFKA_BROKERS")?,
            redis_url: variable("REDIS_URL")?,
            dir: variable("SLUICE_STACK_DIR")?.into(),
        })
    }

    /// A connection as the ingester's login.
    pub async fn ingester(&self) -> Result<Client> {
        connect(&self.database_url).await
    }

    /// A connection as superuser.
    pub async fn admin(&self) -> Result<Client> {
        connect(&self.admin_database_url).await
    }

    /// Where a superuser connects to.
    pub fn admin_config(&self) -> Result<tokio_postgres::Config> {
        Ok(self.admin_database_url.parse()?)
    }

    /// `target/release/sluice`, which lies beside this program.
    pub fn sluice(&self) -> Result<PathBuf> {
        let path = std::env::current_exe()?.with_file_name("sluice");
        if path.exists() {
            Ok(path)
        } else {
            Err(format!("{} is missing: run `make build`", path.display()).into())
        }
    }

    /// Both sides' tables lie in one server here: with its default buffers they would push
    /// each other out. And a checkpoint makes every page's next change write the whole page
    /// to the log, which a service pays once in minutes, not in whichever round comes next.
    async fn configure(&self) -> Result<()> {
        let admin = self.admin().await?;
        for setting in [
            "shared_buffers = '1GB'",
            "checkpoint_timeout = '1h'",
            "max_wal_size = '16GB'",
        ] {
            admin
                .batch_execute(&format!("ALTER SYSTEM SET {setting}"))
                .await?;
        }
        drop(admin);
        for action in ["postgres-stop", "postgres-start"] {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/stack.sh");
            if !Command::new(script)
                .arg(&self.dir)
                .arg(action)
                .status()?
                .success()
            {
                return Err(format!("{script} {} {action} failed", self.dir.display()).into());
            }
        }
        Ok(())
    }

    /// Changes a setting that needs no restart; DEFAULT takes that back.
    pub async fn set(&self, name: &str, value: &str) -> Result<()> {
        let admin = self.admin().await?;
        let change = format!("ALTER SYSTEM SET {name} = {value}");
        admin.batch_execute(&change).await?;
        admin.batch_execute("SELECT pg_reload_conf()").await?;
        Ok(())
    }

    /// The server's own pg_dump, of all there is.
    pub fn pg_dump(&self) -> Result<Command> {
        let pg_config = std::env::var("PG_CONFIG")
            .unwrap_or_else(|_| "/usr/lib/postgresql/15/bin/pg_config".to_owned());
        let answer = Command::new(pg_config).arg("--bindir").output()?;
        let folder = PathBuf::from(String::from_utf8(answer.stdout)?.trim());
        let mut command = Command::new(folder.join("pg_dump"));
        command.arg("--dbname").arg(&self.admin_database_url);
        Ok(command)
    }

    /// Migrates, and fills what in service is never empty.
    pub async fn prepare(&self) -> Result<()> {
        self.configure().await?;
        let migrated = Command::new(self.sluice()?)
            .arg("migrate")
            .env("RUST_LOG", "warn")
            .stdout(std::process::Stdio::null())
            .status()?;
        if !migrated.success() {
            return Err("`sluice migrate` failed".into());
        }
        let admin = self.admin().await?;
        let login: tokio_postgres::Config = self.database_url.parse()?;
        let login = login.get_user().ok_or("DATABASE_URL names no user")?;
        admin
            .batch_execute(&format!("GRANT sluice_writer TO \"{login}\""))
            .await?;
        admin
            .batch_execute(&format!(
                "CREATE TABLE public.one_row AS SELECT 0 AS n;
                 INSERT INTO ledger.event_identities
                 SELECT gen_random_uuid() AS identity, gen_random_uuid() FROM generate_series(1, {KNOWN_IDENTITIES})
                 ORDER BY identity;"
            ))
            .await?;
        admin
            .batch_execute("VACUUM (FREEZE, ANALYZE) ledger.event_identities")
            .await?;
        admin.batch_execute("CHECKPOINT").await?;
        Ok(())
    }

    /// The median of 101 transactions that write one row, in milliseconds: mostly the disk.
    async fn commit_ms(&self) -> Result<f64> {
        let admin = self.admin().await?;
        let mut times = Vec::new();
        for _ in 0..101 {
            let clock = Instant::now();
            admin
                .batch_execute("UPDATE public.one_row SET n = n + 1")
                .await?;
            times.push(clock.elapsed().as_secs_f64() * 1_000.0);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    pub async fn machine(&self) -> Result<Machine> {
        let commit_ms = self.commit_ms().await?;
        let admin = self.admin().await?;
        let setting = async |name: &str| -> Result<String> {
            Ok(admin
                .query_one("SELECT current_setting($1)", &[&name])
                .await?
                .get(0))
        };
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_once(':')
                .map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let memory_kb: u64 = field(&file("/proc/meminfo"), "MemTotal")
            .trim_end_matches(" kB")
            .parse()
            .unwrap_or_default();
        let mut settings = Vec::new();
        for name in [
            "fsync",
            "synchronous_commit",
            "full_page_writes",
            "shared_buffers",
            "checkpoint_timeout",
            "max_wal_size",
        ] {
            settings.push(format!("{name} = {}", setting(name).await?));
        }
        Ok(Machine {
            date: admin
                .query_one("SELECT current_date::text", &[])
                .await?
                .get(0),
            lines: vec![
                format!(
                    "{} cores ({}), {} GiB of memory, Linux {}",
                    std::thread::available_parallelism()?,
                    field(&file("/proc/cpuinfo"), "model name"),
                    memory_kb.div_ceil(1 << 20),
                    file("/proc/sys/kernel/osrelease").trim()
                ),
                format!(
                    "PostgreSQL {}; {}",
                    setting("server_version").await?,
                    settings.join(", ")
                ),
                format!(
                    "A transaction that updates one row takes {commit_ms:.2} ms at the median: client, server and disk."
                ),
                "PostgreSQL, Kafka, Redis, the ingester and this program share the machine."
                    .to_owned(),
            ],
        })
    }
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends with its client; a failure shows in the client's own calls.
    tokio::spawn(connection);
    Ok(client)
}
