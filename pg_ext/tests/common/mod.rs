//! Batches staged by plain INSERT, so that each function of the extension is tested in SQL.
#![allow(dead_code)] // each test file uses its own part

pub mod notes;

use ledger::account::{AccountKey, Currency};
use ledger::amount::Amount;
use ledger::event::Change;
use ledger::identity::{Identity, PayloadHash};
use ledger::staging;
use std::time::Duration;

use proofs::database::connect;
use proofs::stack::{Login, Stack, unique};
use proofs::wait::wait_until;
use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

pub const TOPIC: &str = "balance.changed";
const PATIENCE: Duration = Duration::from_secs(20);

/// A migrated database of the test's own.
pub struct Database(proofs::database::Database);

impl Database {
    pub async fn create() -> Self {
        Self(proofs::database::Database::create(&Stack::get()).await)
    }

    /// A new session as superuser.
    pub async fn admin(&self) -> Client {
        self.0.session().await
    }

    pub fn superuser_url(&self) -> &str {
        &self.0.admin_url
    }

    /// A new session as the ingester's login.
    pub async fn writer(&self) -> Client {
        self.0.writer().await
    }

    /// A session of a new login that is a member of `role`.
    pub async fn member(&self, role: &str) -> Client {
        let login = Login {
            user: unique("member"),
            password: "member".to_owned(),
        };
        let create = format!(
            "CREATE ROLE {} LOGIN PASSWORD 'member' IN ROLE {role}",
            login.user
        );
        self.admin()
            .await
            .batch_execute(&create)
            .await
            .expect("a login");
        let stack = Stack::get();
        connect(&stack.url(&login, stack.postgres_port, &self.0.name)).await
    }

    pub async fn assert_invariants(&self) {
        for (check, found) in self.0.run_checks().await {
            assert_eq!(found, None, "{check}");
        }
    }

    /// The names of the checks of `sql/` that find something.
    pub async fn findings(&self) -> Vec<String> {
        let checks = self.0.run_checks().await.into_iter();
        checks
            .filter_map(|(check, found)| found.map(|_| check))
            .collect()
    }

    /// Waits until so many sessions wait for a lock.
    pub async fn wait_until_blocked(&self, sessions: i64) {
        self.wait_for("blocked sessions", "wait_event_type = 'Lock'", sessions)
            .await;
    }

    /// Waits until so many sessions of the ingester's login are left.
    pub async fn wait_for_sessions(&self, sessions: i64) {
        self.wait_for("sessions", "usename <> 'postgres'", sessions)
            .await;
    }

    async fn wait_for(&self, what: &str, condition: &str, sessions: i64) {
        let count = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND {condition}"
        );
        let admin = self.admin().await;
        wait_until(what, PATIENCE, async || {
            admin
                .query_one(&count, &[])
                .await
                .expect("pg_stat_activity")
                .get::<_, i64>(0)
                == sessions
        })
        .await;
    }
}

/// A leader's credentials for partition `partition` of [`TOPIC`].
#[derive(Clone, Copy, Debug)]
pub struct Leader {
    pub partition: i32,
    pub fencing_token: i64,
    pub lease_id: Uuid,
    pub commit_offset: i64,
}

/// Acquires, and panics when refused.
pub async fn lead(client: &Client, partition: i32, service_id: &str) -> Leader {
    let row = acquire(client, partition, service_id)
        .await
        .expect("acquire answers");
    assert!(
        row.get::<_, bool>("acquired"),
        "{service_id} was refused partition {partition}"
    );
    leader(partition, &row)
}

pub fn leader(partition: i32, row: &Row) -> Leader {
    Leader {
        partition,
        fencing_token: row.get("fencing_token"),
        lease_id: row.get("lease_id"),
        commit_offset: row.get("commit_offset"),
    }
}

pub async fn acquire(client: &Client, partition: i32, service_id: &str) -> Result<Row, Error> {
    let statement = "SELECT * FROM sluice.acquire_partition_lock($1, $2, $3, interval '60 s')";
    client
        .query_one(statement, &[&TOPIC, &partition, &service_id])
        .await
}

/// Rows to stage, and what is promised of them.
#[derive(Clone, Default)]
pub struct Batch {
    rows: Vec<StagedRecord>,
}

#[derive(Clone)]
struct StagedRecord {
    offset: i64,
    event_id: String,
    payload: String,
    changes: Vec<Change>,
    time_us: Option<i64>,
    error_code: Option<String>,
}

pub fn change(account_id: i64, available: &str, frozen: &str) -> Change {
    let amount = |text: &str| Amount::parse(text).expect("an amount");
    Change {
        key: AccountKey {
            account_id,
            shard_id: 0,
            currency: Currency::new("USD").expect("a currency"),
        },
        available_delta: amount(available),
        frozen_delta: amount(frozen),
    }
}

impl Batch {
    /// One event whose payload is its id and its changes.
    pub fn event(self, offset: i64, event_id: &str, changes: &[Change]) -> Self {
        let payload = format!("{event_id}{changes:?}");
        self.event_with_payload(offset, event_id, &payload, changes)
    }

    pub fn event_with_payload(
        mut self,
        offset: i64,
        event_id: &str,
        payload: &str,
        changes: &[Change],
    ) -> Self {
        self.rows.push(StagedRecord {
            offset,
            event_id: event_id.to_owned(),
            payload: payload.to_owned(),
            changes: changes.to_vec(),
            time_us: None,
            error_code: None,
        });
        self
    }

    /// The last event happened then, as it says itself: seconds since 1970.
    pub fn at(mut self, seconds: i64) -> Self {
        let last = self.rows.last_mut().expect("an event");
        last.time_us = Some(seconds * 1_000_000);
        self
    }

    pub fn dead(self, offset: i64, error_code: &str, payload: &str) -> Self {
        self.dead_event(offset, "", error_code, payload)
    }

    /// A dead record that says which event it is.
    pub fn dead_event(
        mut self,
        offset: i64,
        event_id: &str,
        error_code: &str,
        payload: &str,
    ) -> Self {
        self.rows.push(StagedRecord {
            offset,
            event_id: event_id.to_owned(),
            payload: payload.to_owned(),
            changes: Vec::new(),
            time_us: None,
            error_code: Some(error_code.to_owned()),
        });
        self
    }

    pub fn row_count(&self) -> i64 {
        self.rows
            .iter()
            .map(|record| record.changes.len().max(1) as i64)
            .sum()
    }

    pub fn checksum(&self) -> i64 {
        staging::checksum(&self.bytes())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in &self.rows {
            if let Some(code) = &record.error_code {
                let dead = staging::Dead {
                    reason: code,
                    message: "a test",
                    time_ms: None,
                    event_time_us: None,
                    attempts: 1,
                    event_id: Some(&*record.event_id).filter(|id| !id.is_empty()),
                    source: None,
                    key: None,
                    payload: Some(record.payload.as_bytes()),
                    headers: None,
                };
                staging::put_dead(&mut bytes, record.offset, &dead);
            } else {
                let event = staging::StagedEvent {
                    event_id: &record.event_id,
                    source: None,
                    identity: Identity::of(None, &record.event_id),
                    payload_hash: PayloadHash::of(record.payload.as_bytes()),
                    time_us: record.time_us,
                };
                staging::put_event(&mut bytes, record.offset, &event, &record.changes);
            }
        }
        bytes
    }

    /// Stages all records in the transaction that `client` is in.
    pub async fn stage(&self, client: &Client) -> Result<(), Error> {
        let statement = "INSERT INTO ledger.staging_balance_changes VALUES ($1)";
        for piece in self.bytes().chunks(100) {
            client.execute(statement, &[&piece]).await?;
        }
        Ok(())
    }

    /// Calls the apply in the transaction that `client` is in.
    pub async fn call(
        &self,
        client: &Client,
        leader: Leader,
        from: i64,
        next: i64,
    ) -> Result<Row, Error> {
        call(
            client,
            leader,
            from,
            next,
            self.row_count(),
            self.checksum(),
        )
        .await
    }

    /// The whole transaction; an error rolls it back.
    pub async fn apply(
        &self,
        client: &Client,
        leader: Leader,
        from: i64,
        next: i64,
    ) -> Result<Row, Error> {
        client.batch_execute("BEGIN").await?;
        let outcome = async {
            self.stage(client).await?;
            self.call(client, leader, from, next).await
        }
        .await;
        client
            .batch_execute(if outcome.is_ok() {
                "COMMIT"
            } else {
                "ROLLBACK"
            })
            .await?;
        outcome
    }
}

pub async fn call(
    client: &Client,
    leader: Leader,
    from: i64,
    next: i64,
    row_count: i64,
    checksum: i64,
) -> Result<Row, Error> {
    let statement =
        "SELECT * FROM sluice.apply_balance_batch($1, $2, $3, $4, $5, $6, $7, $8, NULL)";
    let Leader {
        partition,
        fencing_token,
        lease_id,
        ..
    } = leader;
    client
        .query_one(
            statement,
            &[
                &TOPIC,
                &partition,
                &fencing_token,
                &lease_id,
                &from,
                &next,
                &row_count,
                &checksum,
            ],
        )
        .await
}

/// The SQLSTATE of a refusal.
pub fn sqlstate<T>(outcome: Result<T, Error>) -> String {
    match outcome {
        Ok(_) => panic!("this should have been refused"),
        Err(error) => error
            .code()
            .unwrap_or_else(|| panic!("no SQLSTATE: {error}"))
            .code()
            .to_owned(),
    }
}

/// The message of a refusal.
pub fn message<T>(outcome: Result<T, Error>) -> String {
    match outcome {
        Ok(_) => panic!("this should have been refused"),
        Err(error) => error
            .as_db_error()
            .map_or_else(|| error.to_string(), |error| error.message().to_owned()),
    }
}

pub async fn available(database: &Database, account_id: i64) -> Option<String> {
    let statement =
        "SELECT trim_scale(available)::text FROM ledger.account_balances WHERE account_id = $1";
    let row = database
        .admin()
        .await
        .query_opt(statement, &[&account_id])
        .await
        .expect("balances can be read");
    row.map(|row| row.get(0))
}

/// (verdict, reason) of each offset of partition 0, in order.
pub async fn verdicts(database: &Database) -> Vec<(String, Option<String>)> {
    let statement = "SELECT verdict, reason FROM ledger.event_verdicts WHERE partition = 0 ORDER BY kafka_offset";
    let rows = database
        .admin()
        .await
        .query(statement, &[])
        .await
        .expect("verdicts can be read");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
