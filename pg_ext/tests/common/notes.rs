//! Notes: a type of domain events with a table and a handler of its own, and a leader that sends them.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

use super::Database;

pub const TOPIC: &str = "note.written";

pub const NOTES: &str = "
    CREATE TABLE domain.notes (id text PRIMARY KEY, body text NOT NULL, version bytea NOT NULL);
    CREATE SEQUENCE domain.calls;
    GRANT SELECT, INSERT, UPDATE ON domain.notes TO sluice_handler;
    GRANT USAGE ON SEQUENCE domain.calls TO sluice_handler;
    CREATE FUNCTION domain.on_note(events domain.event[]) RETURNS void LANGUAGE sql AS $$
        SELECT nextval('domain.calls');
        INSERT INTO domain.notes AS n
        SELECT DISTINCT ON (1) e.data->>'id', e.data->>'body', e.version FROM unnest(events) e ORDER BY 1, 3 DESC
        ON CONFLICT (id) DO UPDATE SET body = excluded.body, version = excluded.version WHERE n.version < excluded.version
    $$";

/// A leader of partition 0 of the topic, and where it stands.
pub struct Writer {
    pub client: Client,
    pub token: i64,
    pub lease_id: Uuid,
    pub next: i64,
    /// Of all records; else it rises with the offset.
    pub time_ms: Option<i64>,
}

/// Key and payload of one record.
pub type Note = (Option<Vec<u8>>, Option<Vec<u8>>);

pub fn note(event_id: &str, id: &str, body: Option<&str>) -> Note {
    let body = body.map_or("null".to_owned(), |body| format!("\"{body}\""));
    let payload = format!(
        r#"{{"eventId":"{event_id}","eventType":"{TOPIC}","data":{{"id":"{id}","body":{body}}}}}"#
    );
    (Some(id.as_bytes().to_vec()), Some(payload.into_bytes()))
}

pub fn raw(payload: &str) -> Note {
    (None, Some(payload.as_bytes().to_vec()))
}

impl Writer {
    pub async fn new(database: &Database) -> Self {
        let client = database.writer().await;
        let acquire = "SELECT * FROM sluice.acquire_partition_lock($1, 0, 'w', interval '60 s')";
        let row = client.query_one(acquire, &[&TOPIC]).await.expect("acquire");
        Self {
            client,
            token: row.get("fencing_token"),
            lease_id: row.get("lease_id"),
            next: row.get("commit_offset"),
            time_ms: None,
        }
    }

    pub async fn send(&mut self, notes: &[Note]) -> Result<Row, Error> {
        let next = self.next + notes.len() as i64;
        let row = self.send_until(notes, next).await?;
        self.next = next;
        Ok(row)
    }

    pub async fn send_until(&self, notes: &[Note], next: i64) -> Result<Row, Error> {
        let offsets: Vec<i64> = (self.next..).take(notes.len()).collect();
        let times: Vec<i64> = offsets
            .iter()
            .map(|offset| self.time_ms.unwrap_or(1_000 + offset))
            .collect();
        let (keys, payloads): (Vec<_>, Vec<_>) = notes.iter().cloned().unzip();
        let headers: Vec<Option<String>> = vec![None; notes.len()];
        let apply = "SELECT * FROM sluice.apply_event_batch($1, 0, $2, $3, $4, $5, NULL, $6, $7, $8, $9, $10)";
        self.client
            .query_one(
                apply,
                &[
                    &TOPIC,
                    &self.token,
                    &self.lease_id,
                    &self.next,
                    &next,
                    &offsets,
                    &times,
                    &keys,
                    &payloads,
                    &headers,
                ],
            )
            .await
    }
}

/// A database with the notes, their handler registered with `options` behind its name.
pub async fn notes(options: &str) -> (Database, Client, Writer) {
    let database = Database::create().await;
    let admin = database.admin().await;
    admin.batch_execute(NOTES).await.expect("notes");
    let register = format!("SELECT sluice.register_handler('{TOPIC}', 'domain.on_note'{options})");
    admin.batch_execute(&register).await.expect("registered");
    let writer = Writer::new(&database).await;
    (database, admin, writer)
}

pub async fn replace_handler(admin: &Client, body: &str) {
    let replace = format!(
        "CREATE OR REPLACE FUNCTION domain.on_note(events domain.event[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
    );
    admin.batch_execute(&replace).await.expect("replaced");
}

pub async fn verdicts(admin: &Client) -> Vec<(i64, String, Option<String>)> {
    let rows = admin
        .query(
            "SELECT kafka_offset, verdict, reason FROM ledger.event_verdicts ORDER BY 1",
            &[],
        )
        .await
        .expect("verdicts");
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

pub async fn count(admin: &Client, query: &str) -> i64 {
    admin.query_one(query, &[]).await.expect(query).get(0)
}

pub fn code(error: &Error) -> &str {
    error.code().map_or("", SqlState::code)
}

pub fn words(error: &Error) -> &str {
    error.as_db_error().map_or("", |error| error.message())
}
