//! A migrated database of its own for each test, and what is asked of it again and again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use tokio_postgres::{Client, NoTls};

use crate::kafka::Kafka;
use crate::stack::{Login, Stack, repository, sluice_command, unique};

/// Progress of one partition, as `ledger.partition_leader_locks` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub leader: Option<String>,
    pub fencing_token: i64,
    pub commit_offset: i64,
}

pub struct Database {
    pub name: String,
    /// As superuser.
    pub client: Client,
    /// For the ingester: a member of `sluice_writer`.
    pub url: String,
    pub admin_url: String,
    /// The port of the server that it was made on for one test.
    made_on: Option<u16>,
}

impl Database {
    /// A copy of a database that `sluice migrate` made once for the whole stack.
    pub async fn create(stack: &Stack) -> Self {
        ensure_template(stack).await;
        let name = unique("proof");
        let server = connect(&stack.admin_url("postgres")).await;
        drop_done(&server, stack.postgres_port).await;
        server
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
            .await
            .expect("the template can be copied");
        let mut database = Self::open(stack, &name).await;
        database.made_on = Some(stack.postgres_port);
        database
    }

    /// An empty one, to be migrated or restored into.
    pub async fn create_empty(stack: &Stack) -> Self {
        let name = unique("proof");
        connect(&stack.admin_url("postgres"))
            .await
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .expect("a new database");
        let mut database = Self::open(stack, &name).await;
        database.made_on = Some(stack.postgres_port);
        database
    }

    /// The stack's own database `sluice`, migrated: what a demo leaves for a person to look at.
    pub async fn stack_default(stack: &Stack) -> Self {
        migrate(stack, "sluice").await;
        Self::open(stack, "sluice").await
    }

    pub async fn open(stack: &Stack, name: &str) -> Self {
        let admin_url = stack.admin_url(name);
        Self {
            name: name.to_owned(),
            client: connect(&admin_url).await,
            url: stack.url(&stack.ingester, stack.postgres_port, name),
            admin_url,
            made_on: None,
        }
    }

    /// The ingester's address by way of a proxy on `port`.
    pub fn url_through(&self, stack: &Stack, port: u16) -> String {
        stack.url(&stack.ingester, port, &self.name)
    }

    /// A further session as superuser.
    pub async fn session(&self) -> Client {
        connect(&self.admin_url).await
    }

    /// A session with the ingester's rights.
    pub async fn writer(&self) -> Client {
        connect(&self.url).await
    }

    /// A new session after the server was down.
    pub async fn reconnect(&mut self) {
        self.client = connect(&self.admin_url).await;
    }

    pub async fn progress(&self, topic: &str) -> BTreeMap<i32, Progress> {
        const PROGRESS: &str = "SELECT partition, leader_svc_id, fencing_token, commit_offset FROM ledger.partition_leader_locks WHERE topic = $1";
        let rows = self
            .client
            .query(PROGRESS, &[&topic])
            .await
            .expect("the view partition_leader_locks");
        let progress = |row: &tokio_postgres::Row| Progress {
            leader: row.get(1),
            fencing_token: row.get(2),
            commit_offset: row.get(3),
        };
        rows.iter().map(|row| (row.get(0), progress(row))).collect()
    }

    /// Records committed in all partitions of a topic together.
    pub async fn committed(&self, topic: &str) -> i64 {
        self.progress(topic)
            .await
            .values()
            .map(|progress| progress.commit_offset)
            .sum()
    }

    /// That the audits of schema `sluice` find nothing.
    pub async fn audit(&self, topic: &str) {
        let differing = "SELECT count(*) FROM sluice.verify_balances()";
        assert_eq!(self.count(differing).await, 0, "verify_balances");
        let gaps = format!(
            "SELECT count(*) FROM ledger.partition_leases l, sluice.offset_gaps(l.topic, l.partition) WHERE l.topic = '{topic}'"
        );
        assert_eq!(self.count(&gaps).await, 0, "offset_gaps");
    }

    pub async fn count(&self, query: &str) -> i64 {
        self.client
            .query_one(query, &[])
            .await
            .unwrap_or_else(|error| panic!("{query}: {error:?}"))
            .get(0)
    }

    /// Waits until every partition is committed to its end. Fails only when nothing moves for `stall`.
    pub async fn caught_up(&self, kafka: &Kafka, topic: &str, partitions: i32, stall: Duration) {
        let ends = kafka.ends(topic, partitions);
        let mut last = (-1, Instant::now());
        loop {
            let progress = self.progress(topic).await;
            let offsets: Vec<i64> = (0..partitions)
                .map(|p| {
                    progress
                        .get(&p)
                        .map_or(0, |progress| progress.commit_offset)
                })
                .collect();
            if offsets == ends {
                return;
            }
            let sum = offsets.iter().sum();
            if sum != last.0 {
                last = (sum, Instant::now());
            }
            assert!(
                last.1.elapsed() < stall,
                "no progress for {stall:?}: committed {offsets:?} of {ends:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs `check_*.sql` of Sluice and of the platform's family; answers name and first offending row of each, where there
    /// is one.
    pub async fn run_checks(&self) -> Vec<(String, Option<String>)> {
        let mut results = self.run_checks_of("sql").await;
        assert!(
            results.len() >= 6,
            "the checks of sql/ are gone: {results:?}"
        );
        results.extend(self.run_checks_of("families/platform").await);
        results
    }

    pub async fn run_checks_of(&self, folder: &str) -> Vec<(String, Option<String>)> {
        let mut files: Vec<_> = std::fs::read_dir(repository().join(folder))
            .expect("a folder of checks")
            .map(|entry| entry.expect("a readable folder").path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("check_"))
            })
            .collect();
        files.sort();
        let mut results = Vec::new();
        for file in files {
            let name = file
                .file_stem()
                .expect("a file name")
                .to_string_lossy()
                .into_owned();
            let query = std::fs::read_to_string(&file).expect("a readable check");
            let query = query.trim_end().trim_end_matches(';');
            let counted = format!("SELECT count(*), min(found::text) FROM (\n{query}\n) found");
            let row = self
                .client
                .query_one(&counted, &[])
                .await
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
            let found: i64 = row.get(0);
            results.push((
                name,
                (found > 0)
                    .then(|| format!("{found} rows, one of them {}", row.get::<_, String>(1))),
            ));
        }
        results
    }
}

/// The lines of a COPY … TO STDOUT in text format.
pub struct Lines {
    stream: std::pin::Pin<Box<tokio_postgres::CopyOutStream>>,
    buffer: bytes::Bytes,
}

impl Lines {
    pub async fn of(client: &Client, query: &str) -> Self {
        let copy = format!("COPY ({query}) TO STDOUT");
        let stream = client
            .copy_out(&copy)
            .await
            .unwrap_or_else(|error| panic!("{query}: {error:?}"));
        Self {
            stream: Box::pin(stream),
            buffer: bytes::Bytes::new(),
        }
    }

    /// PostgreSQL sends each row as one message.
    pub async fn next(&mut self) -> Option<&str> {
        self.buffer = self.stream.try_next().await.expect("the stream of rows")?;
        let line = std::str::from_utf8(&self.buffer).expect("the database's encoding is UTF-8");
        Some(line.strip_suffix('\n').unwrap_or(line))
    }
}

/// A field of a text COPY: NULL, or what it stood for.
pub fn unescape(field: &str) -> Option<String> {
    if field == "\\N" {
        return None;
    }
    if !field.contains('\\') {
        return Some(field.to_owned());
    }
    let mut text = String::new();
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next() {
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('v') => '\u{b}',
                Some(other) => other,
                None => '\\',
            },
            c => c,
        });
    }
    Some(text)
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .unwrap_or_else(|error| panic!("cannot connect: {error:?}"));
    // It ends with the client, or with the server.
    tokio::spawn(async move { drop(connection.await) });
    client
}

/// Ports and databases of tests that have passed; a failed one is left to be looked at.
static DONE: Mutex<Vec<(u16, String)>> = Mutex::new(Vec::new());

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(port) = self.made_on
            && !std::thread::panicking()
        {
            DONE.lock()
                .expect("no one panics with it")
                .push((port, self.name.clone()));
        }
    }
}

/// Crash recovery syncs every file of every database, so none is kept for nothing.
async fn drop_done(server: &Client, port: u16) {
    let done = DONE
        .lock()
        .expect("no one panics with it")
        .extract_if(.., |(made_on, _)| *made_on == port)
        .collect::<Vec<(u16, String)>>();
    for (_, name) in done {
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        server
            .batch_execute(&drop)
            .await
            .expect("a superuser may drop a database");
    }
}

const TEMPLATE: &str = "proofs_template";

/// Runs `sluice migrate` on an existing database and lets the ingester's login in.
pub async fn migrate(stack: &Stack, database: &str) {
    let url = stack.admin_url(database);
    let output = sluice_command(&["migrate"], &[("ADMIN_DATABASE_URL", &url)])
        .output()
        .expect("sluice can be run");
    assert!(
        output.status.success(),
        "sluice migrate failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let Login { user, .. } = &stack.ingester;
    connect(&url)
        .await
        .batch_execute(&format!("GRANT sluice_writer TO {user}"))
        .await
        .expect("the role sluice_writer");
}

async fn ensure_template(stack: &Stack) {
    let server = connect(&stack.admin_url("postgres")).await;
    // Several test programs may start on one stack: the first makes the template, the others wait.
    server
        .batch_execute("SELECT pg_advisory_lock(7)")
        .await
        .expect("a lock");
    let found = server
        .query("SELECT 1 FROM pg_database WHERE datname = $1", &[&TEMPLATE])
        .await
        .expect("pg_database");
    if found.is_empty() {
        let name = unique("proofs_new");
        server
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .expect("a new database");
        migrate(stack, &name).await;
        // The rename waits until the migration's sessions are gone, and marks the template as complete.
        let rename = format!("ALTER DATABASE {name} RENAME TO {TEMPLATE}");
        crate::wait::wait_until(
            "the template to be free",
            Duration::from_secs(10),
            async || server.batch_execute(&rename).await.is_ok(),
        )
        .await;
    }
}
