//! Dead letters: which there are, what each holds, and what is done with them.

use std::collections::HashMap;

use futures_util::{Stream, TryStreamExt};
use serde_json::{Map, Value, json};
use tokio_postgres::{Client, Error};

use crate::operator::rows::{self, Parameter};

/// Letters of one transaction: what a stopped replay finishes, and a killed one loses.
pub const CHUNK: usize = 500;
/// As in sluice.find_dead_letters: a letter that failed so often is meant by its id alone, which ends loops.
pub const ATTEMPTS: i32 = 20;

/// Which letters; what is `None` is open.
#[derive(Default)]
pub struct Filter {
    pub id: Option<Vec<i64>>,
    pub topic: Option<String>,
    pub event_type: Option<String>,
    pub code: Option<String>,
    /// As a list shows it.
    pub key: Option<String>,
    /// First failed at or after this time, as PostgreSQL reads it.
    pub since: Option<String>,
    pub until: Option<String>,
    pub event_id: Option<String>,
    /// A part of its event id, its key or the message that says why it failed, in upper or lower case.
    pub text: Option<String>,
}

impl Filter {
    /// Whether it says which letters are meant.
    pub fn says_which(&self) -> bool {
        let texts = [
            &self.topic,
            &self.event_type,
            &self.code,
            &self.key,
            &self.since,
            &self.until,
            &self.event_id,
            &self.text,
        ];
        self.id.is_some() || texts.iter().any(|text| text.is_some())
    }
}

// A key is given as it is shown: as text, or as \x and hexadecimal digits.
const WHERE: &str = "
    ($1::bigint[] IS NULL OR d.id = ANY ($1)) AND ($2::text IS NULL OR d.topic = $2)
    AND ($3::text IS NULL OR d.topic = $3
        OR $3 = 'balance.changed' AND NOT d.is_domain)
    AND ($4::text IS NULL OR d.error_code = $4)
    AND ($5::text IS NULL OR d.key = CASE left($5, 2) WHEN '\\x' THEN $5::text::bytea ELSE convert_to($5, 'UTF8') END)
    AND ($6::text IS NULL OR d.status = $6)
    AND ($7::text IS NULL OR d.first_failed_at >= $7::text::timestamptz)
    AND ($8::text IS NULL OR d.first_failed_at < $8::text::timestamptz)
    AND ($10::text IS NULL OR d.event_id = $10)
    AND ($11::text IS NULL OR position(lower($11) IN lower(d.event_id)) > 0
        OR position(convert_to($11, 'UTF8') IN d.key) > 0 OR position(lower($11) IN lower(d.error_message)) > 0)";

const LISTED: &str = "
    d.id, d.topic, d.partition, d.kafka_offset AS offset, d.key, d.event_id,
    d.error_code AS code, d.attempts, d.status, d.first_failed_at, d.error_message AS message";

// Of two columns with one name the later one stands. encode() breaks lines.
const EVERYTHING: &str = "
    d.*, translate(encode(d.payload, 'base64'), E'\\n', '') AS payload,
    translate(encode(d.retry_payload, 'base64'), E'\\n', '') AS retry_payload";

const REPLAY: &str = "
    SELECT * FROM sluice.replay_dead_letters(ids => $1, why => $2, dry_run => $3, payload => $4, max_rows => 2147483647)";
const DISCARD: &str = "
    SELECT * FROM sluice.discard_dead_letters(ids => $1, why => $2, dry_run => $3, max_rows => 2147483647)";
const RESTORE: &str = "
    SELECT * FROM sluice.restore_dead_letters(ids => $1, why => $2, dry_run => $3, max_rows => 2147483647)";

// Amounts as text: no reader of JSON is to round them.
const CHANGES: &str = "
    SELECT o.id, c.changes
    FROM json_to_recordset($1::text::json) AS o (id bigint, topic text, partition integer, kafka_offset bigint, verdict text)
    CROSS JOIN LATERAL (
        SELECT json_agg(json_build_object(
            'account_id', l.account_id::text, 'shard_id', l.shard_id, 'currency_code', l.currency_code,
            'available_delta', trim_scale(l.available_delta)::text, 'frozen_delta', trim_scale(l.frozen_delta)::text,
            'available_after', trim_scale(l.available_after)::text, 'frozen_after', trim_scale(l.frozen_after)::text)
            ORDER BY l.change_no) AS changes
        FROM ledger.balance_change_logs l
        WHERE l.topic = o.topic AND l.partition = o.partition AND l.kafka_offset = o.kafka_offset
    ) c
    WHERE o.verdict IN ('APPLIED', 'REJECTED') AND c.changes IS NOT NULL";

/// What a statement with `WHERE` and a `LIMIT $9` is given.
pub struct Query<'f> {
    pub filter: &'f Filter,
    pub status: Option<&'f str>,
    pub limit: Option<i64>,
}

impl Query<'_> {
    fn parameters(&self) -> [Parameter<'_>; 11] {
        let filter = self.filter;
        [
            &filter.id,
            &filter.topic,
            &filter.event_type,
            &filter.code,
            &filter.key,
            &self.status,
            &filter.since,
            &filter.until,
            &self.limit,
            &filter.event_id,
            &filter.text,
        ]
    }

    async fn rows(&self, client: &Client, statement: &str) -> Result<Vec<Value>, Error> {
        rows(client, statement, &self.parameters()).await
    }

    /// The latest first, without their payloads.
    pub async fn letters(&self, client: &Client) -> Result<Vec<Value>, Error> {
        let statement = format!(
            "SELECT {LISTED} FROM ledger.dead_letters d WHERE {WHERE} ORDER BY d.id DESC LIMIT $9"
        );
        self.rows(client, &statement).await
    }

    /// A page of them, the latest first, without their payloads.
    pub async fn page(&self, client: &Client, from: Start) -> Result<Page, Error> {
        let (beyond, order) = match from {
            Start::Latest => ("$12::bigint IS NULL", "DESC"),
            Start::Before(_) => ("d.id < $12::bigint", "DESC"),
            Start::After(_) => ("d.id > $12::bigint", "ASC"),
        };
        let id = match from {
            Start::Latest => None,
            Start::Before(id) | Start::After(id) => Some(id),
        };
        let [a, b, c, d, e, f, g, h, i, j, k] = self.parameters();
        let statement = format!(
            "SELECT {LISTED} FROM ledger.dead_letters d WHERE {WHERE} AND {beyond} ORDER BY d.id {order} LIMIT $9"
        );
        let all: [Parameter<'_>; 12] = [a, b, c, d, e, f, g, h, i, j, k, &id];
        let mut letters = rows(client, &statement, &all).await?;
        if matches!(from, Start::After(_)) {
            letters.reverse();
        }
        let first = letters.first().and_then(|letter| letter["id"].as_i64());
        let statement = format!(
            "SELECT count(*) AS matching, count(*) FILTER (WHERE d.id > $12::bigint) AS newer
             FROM ledger.dead_letters d WHERE {WHERE} LIMIT $9"
        );
        let all: [Parameter<'_>; 12] = [a, b, c, d, e, f, g, h, i, j, k, &first];
        let counts = rows(client, &statement, &all).await?;
        let count = |name: &str| counts.first().and_then(|row| row[name].as_i64());
        Ok(Page {
            letters,
            matching: count("matching").unwrap_or_default(),
            newer: count("newer").unwrap_or_default(),
        })
    }

    /// How many match, whatever the limit.
    pub async fn count(&self, client: &Client) -> Result<Option<i64>, Error> {
        let statement =
            format!("SELECT count(*) AS all FROM ledger.dead_letters d WHERE {WHERE} LIMIT $9");
        let counted = self.rows(client, &statement).await?;
        Ok(counted.first().and_then(|row| row["all"].as_i64()))
    }

    /// How many there are, by topic, code and status.
    pub async fn stats(&self, client: &Client) -> Result<Vec<Value>, Error> {
        let statement = format!(
            "SELECT d.topic, d.error_code AS code, d.status, count(*) AS letters, min(d.first_failed_at) AS first,
                max(d.updated_at) AS latest
             FROM ledger.dead_letters d WHERE {WHERE} GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT $9"
        );
        self.rows(client, &statement).await
    }

    /// Everything about each, its payload in base64, row by row: there may be more than fit into memory.
    pub async fn everything(
        &self,
        client: &Client,
    ) -> Result<impl Stream<Item = Result<Value, Error>>, Error> {
        let statement = format!(
            "SELECT row_to_json(r) FROM (
                SELECT {EVERYTHING} FROM ledger.dead_letters d WHERE {WHERE}
                ORDER BY d.topic, d.partition, d.kafka_offset LIMIT $9) r"
        );
        let rows = client.query_raw(&statement, self.parameters()).await?;
        Ok(rows.map_ok(|row| {
            let mut letter: Value = row.get(0);
            show_key(&mut letter);
            letter
        }))
    }
}

/// Where a page of letters begins: those with a lower id are older.
#[derive(Clone, Copy)]
pub enum Start {
    Latest,
    Before(i64),
    After(i64),
}

pub struct Page {
    pub letters: Vec<Value>,
    /// On all pages.
    pub matching: i64,
    /// On the pages before this one.
    pub newer: i64,
}

/// What is to be done with letters.
pub enum Deed<'p> {
    /// With a corrected payload, if there is one: then for one letter.
    Replay(Option<&'p [u8]>),
    Discard,
    /// Park discarded ones again.
    Restore,
}

impl Deed<'_> {
    /// The status of the letters that it is for.
    pub fn wanted(&self) -> &'static str {
        match self {
            Self::Replay(_) | Self::Discard => "PARKED",
            Self::Restore => "DISCARDED",
        }
    }

    /// The same, with the changes of balances of each letter. A dry run is the deed itself, undone: what it says of
    /// balances is what PostgreSQL has written.
    pub async fn act_and_tell(
        &self,
        client: &Client,
        ids: &[i64],
        why: Option<&str>,
        dry_run: bool,
    ) -> Result<Vec<Value>, Error> {
        if !matches!(self, Self::Replay(_)) {
            return self.act(client, ids, why, dry_run).await;
        }
        client.batch_execute("BEGIN").await?;
        let told = async {
            let mut outcomes = self.act(client, ids, why, false).await?;
            tell_changes(client, &mut outcomes).await?;
            Ok(outcomes)
        };
        let told = told.await;
        let end = match (&told, dry_run) {
            (Ok(_), false) => "COMMIT",
            _ => "ROLLBACK",
        };
        let ended = client.batch_execute(end).await;
        let outcomes = told?;
        ended.map(|()| outcomes)
    }

    /// In one transaction; answers what became of each letter, or would become of it. One that is left out has no
    /// verdict, and the reason.
    pub async fn act(
        &self,
        client: &Client,
        ids: &[i64],
        why: Option<&str>,
        dry_run: bool,
    ) -> Result<Vec<Value>, Error> {
        match self {
            Self::Replay(payload) => rows(client, REPLAY, &[&ids, &why, &dry_run, payload]).await,
            Self::Discard => rows(client, DISCARD, &[&ids, &why, &dry_run]).await,
            Self::Restore => rows(client, RESTORE, &[&ids, &why, &dry_run]).await,
        }
    }
}

/// Adds to each outcome what its event did to balances, or met.
async fn tell_changes(client: &Client, outcomes: &mut [Value]) -> Result<(), Error> {
    let places = Value::Array(outcomes.to_vec()).to_string();
    let changes = rows::rows(client, CHANGES, &[&places]).await?;
    let mut by_letter: HashMap<i64, Value> = HashMap::new();
    for mut row in changes {
        by_letter.insert(
            row["id"].as_i64().unwrap_or_default(),
            row["changes"].take(),
        );
    }
    for outcome in outcomes {
        let id = outcome["id"].as_i64().unwrap_or_default();
        outcome["changes"] = by_letter.remove(&id).unwrap_or_else(|| json!([]));
    }
    Ok(())
}

/// A deed, and the letters that it is meant for.
pub struct Work<'f> {
    pub filter: &'f Filter,
    pub limit: i64,
    pub deed: Deed<'f>,
}

impl Work<'_> {
    /// The letters that the deed is for, as far as the limit lets them.
    pub async fn choose(&self, client: &Client) -> Result<Chosen, Error> {
        let query = Query {
            filter: self.filter,
            status: Some(self.deed.wanted()),
            limit: Some(self.limit),
        };
        // Discarding is what ends a letter that fails for ever.
        let may_be_worn_out = self.filter.id.is_some() || !matches!(self.deed, Deed::Replay(_));
        let is_left_out = format!("(NOT {may_be_worn_out} AND d.attempts >= {ATTEMPTS})");
        let parked = format!(
            "SELECT d.id FROM ledger.dead_letters d WHERE {WHERE} AND NOT {is_left_out}
             ORDER BY d.topic, d.partition, d.kafka_offset LIMIT $9"
        );
        let ids = query.rows(client, &parked).await?;
        let counts = format!(
            "SELECT count(*) FILTER (WHERE NOT {is_left_out}) AS matching, count(*) FILTER (WHERE {is_left_out}) AS worn_out
             FROM ledger.dead_letters d WHERE {WHERE} LIMIT $9"
        );
        let counts = query.rows(client, &counts).await?;
        let count = |name: &str| counts.first().and_then(|row| row[name].as_u64());
        let ids: Vec<i64> = ids.iter().filter_map(|row| row["id"].as_i64()).collect();
        Ok(Chosen {
            left_out: self.left_out(client, &ids).await?,
            ids,
            matching: count("matching").unwrap_or_default() as usize,
            worn_out: count("worn_out").unwrap_or_default() as usize,
        })
    }

    /// Those of `--id` that are not chosen, each with the reason.
    async fn left_out(&self, client: &Client, chosen: &[i64]) -> Result<Vec<Value>, Error> {
        if self.filter.id.is_none() {
            return Ok(Vec::new());
        }
        let wanted = self.deed.wanted();
        let query = Query {
            filter: self.filter,
            status: None,
            limit: None,
        };
        let left_out = format!(
            "SELECT i.id, d.topic, d.partition, d.kafka_offset, NULL AS verdict,
                CASE WHEN d.id IS NULL THEN 'NO_SUCH_LETTER' WHEN d.status <> '{wanted}' THEN 'NOT_{wanted}'
                    WHEN {WHERE} THEN 'MAX_ROWS' ELSE 'OTHER_FILTER' END AS reason,
                CASE WHEN d.id IS NULL THEN 'Left out: there is no dead letter of this id.'
                    WHEN d.status <> '{wanted}' THEN format('Left out: it is %s since %s.', d.status, d.updated_at::timestamptz(0))
                    WHEN {WHERE} THEN 'Left out: it is beyond --limit.' ELSE 'Left out: another filter excludes it.' END AS message
             FROM (SELECT DISTINCT unnest($1::bigint[]) AS id) i LEFT JOIN ledger.dead_letters d ON d.id = i.id
             ORDER BY i.id LIMIT $9"
        );
        let mut left_out = query.rows(client, &left_out).await?;
        left_out.retain(|row| row["id"].as_i64().is_some_and(|id| !chosen.contains(&id)));
        Ok(left_out)
    }
}

/// Letters that some work is about.
pub struct Chosen {
    pub ids: Vec<i64>,
    /// Those of `--id` that it is not about.
    pub left_out: Vec<Value>,
    /// Without the limit.
    pub matching: usize,
    /// Failed too often to be meant by a filter.
    pub worn_out: usize,
}

/// Whether nothing was tried with it.
pub fn is_left_out(outcome: &Value) -> bool {
    outcome["verdict"].is_null()
}

/// Everything of one letter, its payload in base64.
pub async fn letter(client: &Client, id: i64) -> Result<Option<Map<String, Value>>, Error> {
    let letter = format!("SELECT {EVERYTHING} FROM ledger.dead_letters d WHERE d.id = $1");
    let letters = rows(client, &letter, &[&id]).await?.into_iter();
    Ok(letters
        .filter_map(|letter| match letter {
            Value::Object(letter) => Some(letter),
            _ => None,
        })
        .next())
}

/// What was done with a letter.
pub async fn actions(client: &Client, id: i64) -> Result<Vec<Value>, Error> {
    let actions =
        "SELECT acted_at, action, by_user, why, verdict, reason, payload IS NOT NULL AS corrected
        FROM ledger.dead_letter_actions WHERE dead_letter_id = $1 ORDER BY id";
    rows(client, actions, &[&id]).await
}

/// Rows whose keys are as people know them.
async fn rows(
    client: &Client,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Value>, Error> {
    let mut rows = rows::rows(client, statement, parameters).await?;
    rows.iter_mut().for_each(show_key);
    Ok(rows)
}

fn show_key(row: &mut Value) {
    if let Some(Value::String(key)) = row.get_mut("key")
        && let Some(text) = key_text(key)
    {
        *key = text;
    }
}

/// PostgreSQL's `\x…` as the text that it is, if it is one and does not look like that itself.
fn key_text(hex: &str) -> Option<String> {
    let digits = hex.strip_prefix("\\x")?.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let text = String::from_utf8(bytes.collect::<Option<_>>()?).ok()?;
    (!text.starts_with("\\x") && !text.chars().any(char::is_control)).then_some(text)
}
