//! The tables of schema `domain`, as a superuser sees them: whole, as digests, and as they lie on disk.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio_postgres::{Client, Statement};

use super::Event;
use super::model::{Row, Rows, line};
use crate::database::Database;

/// A digest for each table.
pub type Digests = BTreeMap<String, String>;

pub struct Domain {
    pub client: Client,
    tables: Vec<String>,
    rows: Statement,
    digests: Statement,
    stamps: Statement,
    handle: Statement,
}

// One round trip for all batches: there are hundreds in each interleaving.
const HANDLE: &str = "
    CREATE FUNCTION pg_temp.handle(handlers text[], sizes integer[], ids text[], times_us bigint[], versions bytea[], payloads bytea[])
    RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        a integer := 1;
        z integer;
        broken record;
    BEGIN
        FOR n IN 1..cardinality(handlers) LOOP
            z := a + sizes[n] - 1;
            SELECT * INTO broken FROM sluice.call_handler(
                handlers[n], ARRAY(SELECT generate_series(a::bigint, z)), ids[a:z], array_fill(NULL::text, sizes[n:n]),
                times_us[a:z], versions[a:z], payloads[a:z]);
            IF broken.broke_with IS NOT NULL THEN
                RAISE EXCEPTION '%: %', handlers[n], broken.message USING ERRCODE = broken.broke_with;
            END IF;
            a := z + 1;
        END LOOP;
    END
    $$";

const COLUMNS: &str = "
    SELECT c.relname::text, a.attname::text, format_type(a.atttypid, NULL)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = 'domain'::regnamespace AND c.relkind = 'r'
    ORDER BY c.relname, a.attnum";

struct Table {
    name: String,
    /// Name and type.
    columns: Vec<(String, String)>,
}

impl Table {
    async fn all(client: &Client) -> Vec<Self> {
        let mut tables: Vec<Self> = Vec::new();
        for row in client.query(COLUMNS, &[]).await.expect("the catalog") {
            let (name, column) = (row.get(0), (row.get(1), row.get(2)));
            match tables.last_mut().filter(|table| table.name == name) {
                Some(table) => table.columns.push(column),
                None => tables.push(Self {
                    name,
                    columns: vec![column],
                }),
            }
        }
        tables
    }

    fn rows(&self) -> String {
        let kept = self
            .columns
            .iter()
            .filter(|(column, _)| !is_bookkeeping(column) && !column.ends_with("version"));
        let values: Vec<String> = kept
            .map(|(column, kind)| match kind.as_str() {
                "timestamp with time zone" => {
                    format!("'{column}', (extract(epoch FROM {column}) * 1000000)::bigint")
                }
                "numeric" => format!("'{column}', trim_scale({column})::text"),
                _ => format!("'{column}', {column}"),
            })
            .collect();
        format!(
            "SELECT '{0}', jsonb_build_object({1})::text FROM domain.{0}",
            self.name,
            values.join(", ")
        )
    }

    fn digest(&self) -> String {
        let names = self.columns.iter().map(|(column, _)| column.as_str());
        self.digest_of(
            &names
                .filter(|column| !is_bookkeeping(column))
                .collect::<Vec<_>>()
                .join(", "),
        )
    }

    fn stamp(&self) -> String {
        self.digest_of(&format!("{0}.ctid, {0}.xmin, {0}.*", self.name))
    }

    fn digest_of(&self, columns: &str) -> String {
        format!(
            "SELECT '{0}', md5(coalesce(string_agg(r, E'\\n' ORDER BY r), '')) FROM (SELECT ROW({columns})::text AS r FROM domain.{0}) t",
            self.name
        )
    }
}

/// Whether a column says how the row came about, not what is so.
fn is_bookkeeping(column: &str) -> bool {
    matches!(column, "referenced_by" | "seen_at")
}

impl Domain {
    pub async fn of(database: &Database) -> Self {
        let client = database.session().await;
        client
            .batch_execute(HANDLE)
            .await
            .expect("a function of this session");
        let tables = Table::all(&client).await;
        let prepare = async |query: fn(&Table) -> String| {
            let text = tables
                .iter()
                .map(query)
                .collect::<Vec<_>>()
                .join(" UNION ALL ");
            client
                .prepare(&text)
                .await
                .unwrap_or_else(|error| panic!("{text}: {error:?}"))
        };
        Self {
            rows: prepare(Table::rows).await,
            digests: prepare(Table::digest).await,
            stamps: prepare(Table::stamp).await,
            handle: client
                .prepare("SELECT pg_temp.handle($1, $2, $3, $4, $5, $6)")
                .await
                .expect("just created"),
            tables: tables
                .into_iter()
                .map(|table| format!("domain.{}", table.name))
                .collect(),
            client,
        }
    }

    /// All rows, without versions and bookkeeping: what a model can know.
    pub async fn rows(&self) -> Rows {
        let rows = self.client.query(&self.rows, &[]).await.expect("the rows");
        rows.iter()
            .map(|row| {
                let columns: BTreeMap<String, Value> =
                    serde_json::from_str(row.get(1)).expect("an object");
                let columns: Row = columns
                    .into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .collect();
                (row.get(0), line(&columns))
            })
            .collect()
    }

    /// Of everything but bookkeeping.
    pub async fn digests(&self) -> Digests {
        self.of_each_table(&self.digests).await
    }

    /// Of everything there is, so that a row that was written again without a change shows too.
    pub async fn stamps(&self) -> Digests {
        self.of_each_table(&self.stamps).await
    }

    async fn of_each_table(&self, statement: &Statement) -> Digests {
        let rows = self.client.query(statement, &[]).await.expect("digests");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Not by TRUNCATE, which makes and removes a hundred files.
    pub async fn clear(&self) {
        let deletes: Vec<String> = self
            .tables
            .iter()
            .map(|table| format!("DELETE FROM {table}"))
            .collect();
        self.execute(&deletes.join(";")).await;
    }

    pub async fn vacuum(&self) {
        self.execute(&format!("VACUUM {}", self.tables.join(", ")))
            .await;
    }

    pub async fn execute(&self, statement: &str) {
        self.client
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }

    /// Hands batches, each of one type, to their handlers, one after the other and without the apply around them.
    pub async fn handle(&self, batches: &[Vec<&Event>]) {
        let handlers: Vec<String> = batches
            .iter()
            .map(|batch| format!("domain.on_{}", batch[0].event_type.replace('.', "_")))
            .collect();
        let sizes: Vec<i32> = batches.iter().map(|batch| batch.len() as i32).collect();
        let events: Vec<&Event> = batches.concat();
        let event_ids: Vec<&str> = events.iter().map(|event| event.event_id.as_str()).collect();
        let times: Vec<i64> = events.iter().map(|event| event.time_us).collect();
        let versions: Vec<Vec<u8>> = events.iter().map(|event| event.version()).collect();
        let payloads: Vec<Vec<u8>> = events.iter().map(|event| event.payload()).collect();
        self.client
            .execute(
                &self.handle,
                &[&handlers, &sizes, &event_ids, &times, &versions, &payloads],
            )
            .await
            .unwrap_or_else(|error| panic!("a handler broke: {error:?}"));
    }
}

/// Where two states differ, a line for each row.
pub fn differences(found: &Rows, expected: &Rows) -> Vec<String> {
    let more = found
        .difference(expected)
        .map(|(table, row)| format!("too much in {table}: {row}"));
    let less = expected
        .difference(found)
        .map(|(table, row)| format!("missing in {table}: {row}"));
    more.chain(less).collect()
}

/// Says where two states differ.
pub fn assert_same(found: &Rows, expected: &Rows, what: &str) {
    let list = |rows: Vec<&(String, String)>| {
        rows.iter()
            .take(5)
            .map(|(table, row)| format!("\n  {table} {row}"))
            .collect::<String>()
    };
    let (more, less) = (
        found.difference(expected).collect::<Vec<_>>(),
        expected.difference(found).collect::<Vec<_>>(),
    );
    assert!(
        more.is_empty() && less.is_empty(),
        "{what}: {} rows too many, such as{}\n{} are missing, such as{}",
        more.len(),
        list(more.clone()),
        less.len(),
        list(less.clone()),
    );
}
