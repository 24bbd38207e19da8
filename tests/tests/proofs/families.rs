//! The event families: each type is described, applied and refused as its schema says, and every interleaving ends in
//! the rows that an independent model expects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use proofs::database::Database;
use proofs::families::domain::{Domain, assert_same};
use proofs::families::model::rows_after;
use proofs::families::partition::{Fate, Partition};
use proofs::families::schema::{EventType, Field, Kind};
use proofs::families::{Event, NEW_YEAR_US, micros, random, values};
use proofs::rng::{Rng, seed};
use proofs::stack::{Stack, repository};
use serde_json::{Map, Value, json};
use tokio::sync::Barrier;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// A database of its own, looked at as superuser and written to as the ingester.
struct Families {
    types: Vec<EventType>,
    database: Database,
    domain: Domain,
    writer: Client,
    partitions: BTreeMap<String, Partition>,
}

impl Families {
    async fn new() -> Self {
        let database = Database::create(&Stack::get()).await;
        let writer = database.writer().await;
        let types = EventType::all();
        let mut partitions = BTreeMap::new();
        for found in &types {
            let partition = Partition::lead(&writer, &found.name, 0).await;
            partitions.insert(found.name.clone(), partition);
        }
        Self {
            domain: Domain::of(&database).await,
            types,
            database,
            writer,
            partitions,
        }
    }

    /// Applies events of one type as one batch.
    async fn send(&mut self, events: &[&Event]) {
        let partition = self
            .partitions
            .get_mut(&events[0].event_type)
            .expect("a type");
        partition.send(&self.writer, events).await.expect("applied");
    }

    /// Of all records of a type, in their order.
    async fn fates(&self, event_type: &str) -> Vec<Fate> {
        self.partitions[event_type].fates(&self.domain.client).await
    }

    async fn verdicts(&self, event_type: &str) -> Vec<String> {
        let fates = self.fates(event_type).await;
        fates.into_iter().map(|fate| fate.verdict).collect()
    }

    /// That the tables are what the model makes of these events.
    async fn assert_model<'e>(&self, events: impl IntoIterator<Item = &'e Event>, what: &str) {
        assert_same(&self.domain.rows().await, &rows_after(events), what);
    }

    /// That no check of sql/ finds anything: to be asked once, at the end.
    async fn assert_invariants(&self) {
        for (check, found) in self.database.run_checks().await {
            assert_eq!(found, None, "{check} found something");
        }
    }

    fn event_type(&self, name: &str) -> &EventType {
        let mut types = self.types.iter();
        types.find(|found| found.name == name).expect(name)
    }

    async fn names(&self, query: &str) -> BTreeSet<String> {
        let rows = self
            .domain
            .client
            .query(query, &[])
            .await
            .unwrap_or_else(|error| panic!("{query}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }
}

fn sample(event_type: &EventType, event_id: &str, second: i64) -> Event {
    Event::new(
        &event_type.name,
        event_id,
        NEW_YEAR_US + second * 1_000_000,
        event_type.data(),
    )
}

/// A type's section of `docs/events.md`.
#[derive(Default)]
struct Entry {
    table: String,
    /// Field, kind, whether it is required, meaning: as the table has them.
    fields: BTreeSet<[String; 4]>,
    sample: String,
}

fn documented() -> BTreeMap<String, Entry> {
    let text =
        std::fs::read_to_string(repository().join("docs/events.md")).expect("docs/events.md");
    let mut entries = BTreeMap::new();
    for section in text.split("\n### `").skip(1) {
        let (name, rest) = section.split_once('`').expect("a name");
        let mut entry = Entry::default();
        let table = rest
            .split_once("table `domain.")
            .expect("names its table")
            .1;
        entry.table = table.split_once('`').expect("a table").0.to_owned();
        for line in rest.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<String> = line
                .trim_matches('|')
                .split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect();
            let mut cells: [String; 4] = cells.try_into().expect("four columns");
            cells[0] = cells[0].trim_matches('`').to_owned();
            cells[3] = cells[3].replace('`', "");
            entry.fields.insert(cells);
        }
        let code = rest.split_once("```json\n").expect("a sample").1;
        entry.sample = code
            .split_once("```")
            .expect("the sample's end")
            .0
            .to_owned();
        entries.insert(name.to_owned(), entry);
    }
    entries
}

/// The rows of the table that documents these fields.
fn described(fields: &[Field], prefix: &str) -> BTreeSet<[String; 4]> {
    let mut rows = BTreeSet::new();
    for field in fields {
        let required = match (field.required, prefix) {
            (true, "") => "yes",
            (true, _) => "not null",
            (false, _) => "no",
        };
        let name = format!("{prefix}{}", field.name);
        rows.insert([
            name.clone(),
            field.kind.to_string(),
            required.to_owned(),
            field.meaning.clone(),
        ]);
        if let Kind::Updates(fields) = &field.kind {
            rows.extend(described(fields, &format!("{name}.")));
        }
    }
    rows
}

#[tokio::test]
async fn every_registered_type_is_described_and_its_sample_is_valid_and_applied() {
    let mut families = Families::new().await;
    let entries = documented();
    let registered = families
        .names("SELECT event_type FROM ledger.event_handlers")
        .await;
    assert_eq!(
        families
            .types
            .iter()
            .map(|found| found.name.clone())
            .collect::<BTreeSet<_>>(),
        registered
    );
    assert_eq!(entries.keys().cloned().collect::<BTreeSet<_>>(), registered);
    let mut events = Vec::new();
    for n in 0..families.types.len() {
        let found = &families.types[n];
        let (name, entry) = (found.name.clone(), &entries[&found.name]);
        assert_eq!(entry.fields, described(&found.fields, ""), "{name}");
        let shown: Value =
            serde_json::from_str(&entry.sample).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(shown, found.sample, "{name}");
        assert_eq!(found.validator().refusal(&found.sample), None, "{name}");
        let before = families.domain.digests().await;
        // The sample as it stands, byte for byte what a reader would copy.
        let partition = families.partitions.get_mut(&name).expect("a type");
        partition
            .send_raw(&families.writer, &[entry.sample.clone().into_bytes()])
            .await
            .expect("applied");
        assert_eq!(families.verdicts(&name).await, ["APPLIED"], "{name}");
        let after = families.domain.digests().await;
        assert_ne!(
            before[&entry.table], after[&entry.table],
            "{name} left domain.{} as it was",
            entry.table
        );
        let mut event = sample(&families.types[n], "", n as i64);
        event.time_us = micros(shown["timestamp"].as_str().expect("a time"));
        events.push(event);
    }
    families.assert_model(&events, "the samples").await;
    families.assert_invariants().await;
}

/// The audit's fields: applied events of 0.6.0 lost them.
#[tokio::test]
async fn fields_that_sluice_did_not_choose_are_kept_in_any_order_of_arrival() {
    let mut families = Families::new().await;
    let user = |event_id: &str, second: i64, name: &str, data: Value| {
        Event::new(name, event_id, NEW_YEAR_US + second * 1_000_000, data)
    };
    // What a creation does not say is not so, whatever an older event said.
    let before = json!({ "userId": "u", "updates": { "phone": "+31 20 000", "nickname": "A" } });
    let created = json!({ "userId": "u", "username": "ada", "email": "a@example.org", "role": "user",
        "phone": "+31 20 123", "birthDate": "1815-12-10", "address": { "city": "Delft" } });
    let moved = json!({ "userId": "u", "updates": { "location": "London", "phone": null }, "changedBy": "u" });
    let moved_back =
        json!({ "userId": "u", "updates": { "location": "Delft", "bio": "Engines." } });
    let expected = json!({ "phone": null, "birthDate": "1815-12-10", "address": { "city": "Delft" },
        "location": "Delft", "changedBy": "u" });
    let orders = (0..256_usize).map(|n| [n % 4, n / 4 % 4, n / 16 % 4, n / 64]);
    let orders: Vec<[usize; 4]> = orders
        .filter(|order| (0..4).all(|place| order.contains(&place)))
        .collect();
    assert_eq!(orders.len(), 24);
    for (n, order) in orders.into_iter().enumerate() {
        families.domain.clear().await;
        let events = [
            user(&format!("before {n}"), 0, "user.updated", before.clone()),
            user(&format!("created {n}"), 1, "user.created", created.clone()),
            user(&format!("moved {n}"), 2, "user.updated", moved.clone()),
            user(
                &format!("moved back {n}"),
                3,
                "user.updated",
                moved_back.clone(),
            ),
        ];
        for place in order {
            families.send(&[&events[place]]).await;
        }
        let extra = "SELECT extra FROM domain.live_users WHERE user_id = 'u'";
        let row = families.domain.client.query_one(extra, &[]).await;
        let found: Value = row.expect("the user").get(0);
        assert_eq!(found, expected, "{order:?}");
        families.assert_model(&events, &format!("{order:?}")).await;
    }
    // One field more in an event of each type.
    families.domain.clear().await;
    let mut events = Vec::new();
    for n in 0..families.types.len() {
        let mut event = sample(&families.types[n], &format!("more {n}"), 100 + n as i64);
        event.data = renamed(&with(&event.data, "campaign", json!([1, "x"])), n as i64);
        families.send(&[&event]).await;
        let kept = "SELECT count(*) FROM (SELECT to_jsonb(t) AS row FROM domain.TABLE t) r WHERE row #> '{extra,campaign}' = '[1, \"x\"]'";
        let table = &documented()[&event.event_type].table;
        let found = families.database.count(&kept.replace("TABLE", table)).await;
        let is_bare = event.event_type.ends_with(".deleted");
        assert!(found >= 1 || is_bare, "{}: {found}", event.event_type);
        events.push(event);
    }
    families.assert_model(&events, "a field more").await;
    families.assert_invariants().await;
}

/// A query by what a row refers to, and the deletion of what it refers to, read no table from end to end.
#[tokio::test]
async fn every_reference_of_the_pack_has_an_index() {
    let families = Families::new().await;
    let check = std::fs::read_to_string(repository().join("families/platform/check_domain.sql"))
        .expect("a check");
    // Each is named once, in quotes.
    let is_reference = |word: &&str| {
        word.contains('.')
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || "._".contains(c))
    };
    let listed = check.split('\'').filter(is_reference);
    let further = [
        "payments.reference_id",
        "messages.conversation_id",
        "subscriptions.tier_id",
    ];
    let references: Vec<String> = listed.chain(further).map(str::to_owned).collect();
    assert!(references.len() > 30, "{references:?}");
    let without = "SELECT r FROM unnest($1::text[]) r WHERE NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indisvalid AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', a.attname))
            AND i.indrelid = to_regclass('domain.' || split_part(r, '.', 1)) AND a.attname = split_part(r, '.', 2))";
    let rows = families.domain.client.query(without, &[&references]).await;
    let without: Vec<String> = rows
        .expect("a query")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(without, [""; 0]);
}

#[tokio::test]
async fn what_belongs_together_is_shown_when_it_is_whole_or_sent_as_one_event() {
    let mut families = Families::new().await;
    let whole = "SELECT 'payment ' || transaction_id FROM domain.whole_payments UNION SELECT 'tip ' || tip_id FROM domain.whole_tips";
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let id = |n: usize, event: &mut Event, field: &str, id: &str| {
        event.data = with(&event.data, field, json!(format!("{id}-{n}")));
    };
    for (n, second_first) in [false, true].into_iter().enumerate() {
        families.domain.clear().await;
        let at = n as i64 * 10;
        let mut paid = sample(
            families.event_type("payment.completed"),
            &format!("paid {n}"),
            at,
        );
        paid.data = with(&paid.data, "type", json!("TIP"));
        let mut tip = sample(
            families.event_type("payment.tip.created"),
            &format!("tip {n}"),
            at,
        );
        let mut period = sample(
            families.event_type("payment.completed"),
            &format!("period {n}"),
            at + 1,
        );
        let mut begun = sample(
            families.event_type("subscription.created"),
            &format!("begun {n}"),
            at,
        );
        id(n, &mut paid, "transactionId", "txn");
        id(n, &mut tip, "transactionId", "txn");
        id(n, &mut tip, "tipId", "tip");
        id(n, &mut period, "transactionId", "period");
        id(n, &mut period, "referenceId", "sub");
        id(n, &mut begun, "subscriptionId", "sub");
        for (mut pair, names) in [
            (
                [&paid, &tip],
                vec![format!("payment txn-{n}"), format!("tip tip-{n}")],
            ),
            ([&period, &begun], vec![format!("payment period-{n}")]),
        ] {
            if second_first {
                pair.reverse();
            }
            let before = families.names(whole).await;
            families.send(&pair[..1]).await;
            assert_eq!(families.names(whole).await, before, "half of it");
            families.send(&pair[1..]).await;
            let after: BTreeSet<String> = before.into_iter().chain(names).collect();
            assert_eq!(families.names(whole).await, after);
        }
    }
    // The event with two parts of docs/events.md, as it stands there.
    families.domain.clear().await;
    let text =
        std::fs::read_to_string(repository().join("docs/events.md")).expect("docs/events.md");
    let (_, section) = text
        .split_once("**One event with several parts.**")
        .expect("a cure");
    let block = |language: &str| {
        let begin = format!("```{language}\n");
        let rest = section.split_once(begin.as_str()).expect("a block").1;
        rest.split_once("```").expect("its end").0
    };
    families.domain.execute(block("sql")).await;
    let mut partition = Partition::lead(&families.writer, "payment.settled", 0).await;
    let good = block("json").as_bytes().to_vec();
    let bad = block("json")
        .replace("000031", "000032")
        .replace("80003", "80004")
        .replace("6003", "6004");
    let bad = bad.replace(
        r#""toUserId": "usr_01J9ZK6T", "amount": "5""#,
        r#""toUserId": "usr_01J9ZK6T", "amount": "-5""#,
    );
    let sent = partition
        .send_raw(&families.writer, &[good, bad.into_bytes()])
        .await;
    sent.expect("applied");
    let fates = partition.fates(&families.domain.client).await;
    let verdicts: Vec<&str> = fates.iter().map(|fate| fate.verdict.as_str()).collect();
    assert_eq!(verdicts, ["APPLIED", "DEAD"], "{fates:?}");
    assert_eq!(
        families.names(whole).await,
        set(&["payment txn_80003", "tip tip_6003"])
    );
    let payments = "SELECT transaction_id FROM domain.payments";
    assert_eq!(
        families.names(payments).await,
        set(&["txn_80003"]),
        "nothing of the other one"
    );
    families.assert_invariants().await;
}

/// The documents say `visibility: string` and `status: string`: whatever the sender's spelling is, it is no fault of his
/// that Sluice would write another one, and 150 events of it neither die nor pause their topic.
#[tokio::test]
async fn the_words_of_the_platform_are_taken_as_it_spells_them() {
    let mut families = Families::new().await;
    let mut all = Vec::new();
    for (name, path, words) in [
        (
            "content.post.created",
            "/visibility",
            &["public", "friends-only"][..],
        ),
        (
            "content.post.updated",
            "/updates/visibility",
            &["Public", "öffentlich"],
        ),
        (
            "content.story.created",
            "/visibility",
            &["public", "close friends"],
        ),
        (
            "content.video.created",
            "/visibility",
            &["unlisted", "public"],
        ),
        ("subscription.created", "/status", &["active", "paused"]),
        ("payment.completed", "/currency", &["usd", "€"]),
        ("wallet.updated", "/currency", &["usd", "loyalty points"]),
    ] {
        let found = families.event_type(name);
        // No two of a time, or the identity would decide.
        let start = all.len() as i64;
        let events: Vec<Event> = (0..150)
            .map(|n| {
                let mut event = sample(found, &format!("{name} {n}"), start + n as i64);
                event.data = renamed(&event.data, n as i64);
                let word = event
                    .data
                    .pointer_mut(path)
                    .unwrap_or_else(|| panic!("{name} has no {path}"));
                *word = json!(words[n % words.len()]);
                event
            })
            .collect();
        let validator = found.validator();
        let envelope: Value = serde_json::from_slice(&events[0].payload()).expect("JSON");
        assert_eq!(validator.refusal(&envelope), None, "{name}");
        families.send(&events.iter().collect::<Vec<_>>()).await;
        assert_eq!(families.verdicts(name).await, ["APPLIED"; 150], "{name}");
        all.extend(events);
    }
    let paused = "SELECT event_type FROM ledger.event_handlers WHERE paused_at IS NOT NULL";
    assert_eq!(families.names(paused).await, BTreeSet::new());
    // What Sluice writes itself is spelled in one way, and who asks for a word finds it in any.
    let renewed = sample(families.event_type("subscription.renewed"), "renewed", 5000);
    families.send(&[&renewed]).await;
    all.push(renewed);
    let statuses =
        "SELECT DISTINCT status FROM domain.active_subscriptions WHERE upper(status) = 'ACTIVE'";
    let both = ["ACTIVE", "active"].map(str::to_owned).into();
    // A placeholder that was renewed is none of them yet.
    let created = sample(families.event_type("subscription.created"), "created", 4000);
    families.send(&[&created]).await;
    all.push(created);
    assert_eq!(families.names(statuses).await, both);
    families.assert_model(&all, "words").await;
    families.assert_invariants().await;
}

#[tokio::test]
async fn a_repeated_event_is_a_duplicate_and_touches_no_row() {
    let mut families = Families::new().await;
    for n in 0..families.types.len() {
        let event = sample(&families.types[n], &format!("event-{n}"), n as i64);
        families.send(&[&event]).await;
        let before = families.domain.stamps().await;
        families.send(&[&event, &event]).await;
        families.send(&[&event]).await;
        let verdicts = families.verdicts(&event.event_type).await;
        assert_eq!(
            verdicts,
            ["APPLIED", "DUPLICATE", "DUPLICATE", "DUPLICATE"],
            "{}",
            event.event_type
        );
        assert_eq!(
            families.domain.stamps().await,
            before,
            "{}",
            event.event_type
        );
    }
}

/// The same ids, and another value wherever there is one.
fn altered(rng: &mut Rng, fields: &[Field], data: &Value) -> Value {
    let mut data = data.as_object().expect("an object").clone();
    for field in fields {
        let Some(value) = data.get(&field.name).filter(|_| field.name != "currency") else {
            continue;
        };
        let other = match &field.kind {
            Kind::Id => continue,
            Kind::Updates(fields) => altered(rng, fields, value),
            Kind::Texts => json!(["another"]),
            Kind::Object => json!({ "another": 1 }),
            _ => std::iter::repeat_with(|| values::good(rng, field, 1))
                .find(|other| other != value)
                .expect("endless"),
        };
        data.insert(field.name.clone(), other);
    }
    if data.contains_key("periodStart") {
        data.insert("periodEnd".to_owned(), json!("2026-03-01T00:00:00Z"));
    }
    Value::Object(data)
}

#[tokio::test]
async fn older_news_changes_nothing_that_is_newer() {
    let mut families = Families::new().await;
    let mut rng = Rng::new(seed());
    for n in 0..families.types.len() {
        let name = families.types[n].name.clone();
        let data = families.types[n].data();
        let other = altered(&mut rng, &families.types[n].fields, &data);
        // Who read a message and when a thing was deleted: there the earliest counts.
        let keeps_earliest = name.ends_with(".deleted") || name == "message.read";
        for (arrival, newer_first, together) in [
            ("newer first", true, false),
            ("older first", false, false),
            ("one batch, newer first", true, true),
            ("one batch, older first", false, true),
        ] {
            let what = format!("{name}, {arrival}");
            let event = |age: &str, second: i64, data: &Value| {
                Event::new(
                    &name,
                    &format!("{age} {what}"),
                    NEW_YEAR_US + second * 1_000_000,
                    data.clone(),
                )
            };
            let (older, newer) = (event("older", 1, &other), event("newer", 2, &data));
            let pair = if newer_first {
                [&newer, &older]
            } else {
                [&older, &newer]
            };
            families.domain.clear().await;
            if together {
                families.send(&pair).await;
            } else {
                families.send(&pair[..1]).await;
                let before = families.domain.digests().await;
                families.send(&pair[1..]).await;
                if newer_first && !keeps_earliest {
                    assert_eq!(
                        families.domain.digests().await,
                        before,
                        "{what}: older news was taken"
                    );
                }
            }
            families.assert_model(pair, &what).await;
        }
        assert_eq!(families.verdicts(&name).await, ["APPLIED"; 8], "{name}");
    }
    families.assert_invariants().await;
}

/// What a handler must refuse, and with which field's name.
struct Refused {
    field: String,
    data: Value,
    /// The field is bad only beside another one.
    is_relation: bool,
}

fn with(data: &Value, field: &str, value: Value) -> Value {
    let mut data = data.as_object().expect("an object").clone();
    data.insert(field.to_owned(), value);
    Value::Object(data)
}

fn without(data: &Value, field: &str) -> Value {
    let mut data = data.as_object().expect("an object").clone();
    data.remove(field);
    Value::Object(data)
}

fn refused(event_type: &EventType) -> Vec<Refused> {
    let data = event_type.data();
    let mut all = Vec::new();
    let mut add = |field: &str, data: Value| {
        all.push(Refused {
            field: field.to_owned(),
            data,
            is_relation: false,
        })
    };
    for field in &event_type.fields {
        let name = field.name.as_str();
        if field.required {
            add(name, without(&data, name));
            add(name, with(&data, name, Value::Null));
        }
        for value in values::bad(&field.kind) {
            add(name, with(&data, name, value));
        }
        if let Kind::Updates(fields) = &field.kind {
            for inner in fields {
                let path = format!("{name}.{}", inner.name);
                let nulls = inner.required.then_some(Value::Null);
                for value in values::bad(&inner.kind).into_iter().chain(nulls) {
                    add(&path, with(&data, name, json!({ &inner.name: value })));
                }
            }
        }
    }
    // Itself, spelled in two ways, and periods that end as they start or before.
    for (one, other, value, related) in [
        ("followerId", "followeeId", json!("7"), json!(7)),
        ("blockerId", "blockedId", json!("7"), json!(7)),
        (
            "periodStart",
            "periodEnd",
            json!("2026-12-21T00:00:00Z"),
            json!("2026-12-21T01:00:00+01:00"),
        ),
        (
            "periodStart",
            "periodEnd",
            json!("2026-12-21T00:00:00Z"),
            json!("2026-12-20T23:59:59Z"),
        ),
    ] {
        if data.get(one).is_some() {
            let data = with(&with(&data, one, value), other, related);
            all.push(Refused {
                field: other.to_owned(),
                data,
                is_relation: true,
            });
        }
    }
    all
}

/// Unusual, and still to be applied.
fn accepted(event_type: &EventType) -> Vec<Value> {
    let data = event_type.data();
    let fields = &event_type.fields;
    let given = data.as_object().expect("an object");
    let required: Map<String, Value> = given
        .iter()
        .filter(|(name, _)| {
            fields
                .iter()
                .any(|field| field.required && field.name == **name)
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut nulls = required.clone();
    nulls.extend(
        fields
            .iter()
            .filter(|field| !field.required)
            .map(|field| (field.name.clone(), Value::Null)),
    );
    let mut all = vec![
        with(&data, "unknownField", json!({ "a": [1] })),
        Value::Object(required),
        Value::Object(nulls),
    ];
    for field in fields {
        match &field.kind {
            Kind::Id => all.push(with(&data, &field.name, json!("x".repeat(255)))),
            Kind::Text { longest, .. } => {
                all.push(with(
                    &data,
                    &field.name,
                    json!("é".repeat(*longest as usize)),
                ));
            }
            Kind::Updates(_) => all.push(with(&data, &field.name, json!({}))),
            _ => {}
        }
    }
    all
}

/// What a schema cannot tell: it counts characters and not bytes, compares no two fields, and knows numbers and
/// times that an amount and a timestamp cannot hold.
fn is_beyond_schemas(refused: &Refused) -> bool {
    let value = refused
        .data
        .pointer(&format!("/{}", refused.field.replace('.', "/")))
        .unwrap_or(&Value::Null);
    let text = value.as_str().unwrap_or_default();
    let counts_bytes = text.chars().count() < text.len();
    refused.is_relation
        || counts_bytes
        || *value == 1e300
        || text.ends_with("+16:00")
        || text.starts_with("0000")
}

#[tokio::test]
async fn each_kind_of_bad_field_is_dead_with_its_name_and_its_neighbours_are_applied() {
    let mut families = Families::new().await;
    // As many as there are would pause their topics otherwise.
    families
        .domain
        .execute("UPDATE ledger.event_handlers SET max_failures = 1000000")
        .await;
    let (mut all_good, mut bad_count) = (Vec::new(), 0);
    for n in 0..families.types.len() {
        let found = &families.types[n];
        let (name, validator) = (found.name.clone(), found.validator());
        let is_valid = |data: &Value| {
            validator
                .refusal(&with(&found.sample, "data", data.clone()))
                .is_none()
        };
        let start = NEW_YEAR_US + n as i64 * 1_000_000_000;
        let mut events = Vec::new();
        for (serial, refused) in refused(found).into_iter().enumerate() {
            let at = start + serial as i64 * 10;
            let bad = Event::new(
                &name,
                &format!("bad-{n}-{serial}"),
                at,
                refused.data.clone(),
            );
            // Newer and of the same key, unless the key is what is bad: it hides the bad one.
            let good = Event::new(&name, &format!("good-{n}-{serial}"), at + 5, found.data());
            let fits = is_valid(&refused.data);
            assert!(
                !fits || is_beyond_schemas(&refused),
                "the schema of {name} takes {} {}",
                refused.field,
                refused.data
            );
            events.push((bad, Some(refused.field)));
            events.push((good, None));
            if serial % 2 == 1 {
                let last = events.len() - 1;
                events.swap(last - 1, last);
            }
        }
        for (serial, data) in accepted(found).into_iter().enumerate() {
            assert!(is_valid(&data), "the schema of {name} refuses {data}");
            let at = start + 500_000_000 + serial as i64;
            events.push((
                Event::new(&name, &format!("fine-{n}-{serial}"), at, data),
                None,
            ));
        }
        let batch: Vec<&Event> = events.iter().map(|(event, _)| event).collect();
        families.send(&batch).await;
        let fates = families.fates(&name).await;
        assert_eq!(fates.len(), events.len(), "{name}");
        for ((event, bad_field), fate) in events.iter().zip(fates) {
            match bad_field {
                None => assert_eq!(fate.verdict, "APPLIED", "{name} {}: {fate:?}", event.data),
                Some(field) => {
                    let words = format!("event {}: field \"{field}\" ", event.event_id);
                    let message = fate.message.as_deref().unwrap_or_default();
                    assert_eq!(
                        fate.reason.as_deref(),
                        Some("HANDLER_FAILED"),
                        "{name} {}: {fate:?}",
                        event.data
                    );
                    assert!(
                        message.starts_with(&words),
                        "{message:?} does not start with {words:?}"
                    );
                    assert!(message.ends_with("(SQLSTATE 22023)"), "{message}");
                    bad_count += 1;
                }
            }
        }
        all_good.extend(
            events
                .into_iter()
                .filter_map(|(event, bad)| bad.is_none().then_some(event)),
        );
    }
    eprintln!(
        "{bad_count} bad events refused, {} good ones applied",
        all_good.len()
    );
    families.assert_model(&all_good, "the neighbours").await;
    families.assert_invariants().await;
}

#[tokio::test]
async fn times_are_those_of_rfc_3339() {
    let families = Families::new().await;
    let client = &families.domain.client;
    let read = "SELECT (extract(epoch FROM domain.instant(to_jsonb($1::text), 'event', 'at')) * 1000000)::bigint";
    let read = client.prepare(read).await.expect("domain.instant");
    let instant = async |text: &str| match client.query_one(&read, &[&text]).await {
        Ok(row) => row.get::<_, Option<i64>>(0),
        Err(error) => {
            assert_eq!(
                error.code().map(SqlState::code),
                Some("22023"),
                "{text:?}: {error:?}"
            );
            None
        }
    };
    for year in [0, 1, 1900, 2000, 2023, 2024, 2100, 9999] {
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        for month in 0..=13 {
            let days = match month {
                0 | 13 => 0,
                2 => 28 + i32::from(is_leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            for day in [0, 1, 28, 29, 30, 31, 32] {
                let text = format!("{year:04}-{month:02}-{day:02}T05:00:00Z");
                let is_a_day = (1..=days).contains(&day);
                assert_eq!(instant(&text).await.is_some(), is_a_day, "{text}");
            }
        }
    }
    for (text, same) in [
        ("2026-01-01t05:00:00z", "2026-01-01T05:00:00Z"),
        ("2026-01-01T05:00:59.1Z", "2026-01-01T05:00:59.1Z"),
        (
            "2026-01-01T05:00:59.123456789Z",
            "2026-01-01T05:00:59.123456Z",
        ),
        (
            "2026-01-01T05:00:59.1234567891Z",
            "2026-01-01T05:00:59.123456Z",
        ),
        (
            "2026-01-01T05:00:59.9999999Z",
            "2026-01-01T05:00:59.999999Z",
        ),
        ("2026-01-31T23:59:60Z", "2026-02-01T00:00:00Z"),
        ("2026-01-31T23:59:60.5Z", "2026-02-01T00:00:00.5Z"),
        ("2026-01-01T05:00:00+16:00", "2025-12-31T13:00:00Z"),
        ("2026-01-01T05:00:00+23:59", "2025-12-31T05:01:00Z"),
        ("2026-01-01T05:00:00-00:00", "2026-01-01T05:00:00Z"),
        ("2026-01-01T05:00:00-15:59", "2026-01-01T20:59:00Z"),
        ("2026-01-01T05:00:00+01:30", "2026-01-01T03:30:00Z"),
    ] {
        assert_eq!(instant(text).await, Some(micros(same)), "{text}");
    }
    for end in [
        "T24:00:00Z",
        "T1:00:00Z",
        "T05:60:00Z",
        "T05:00:61Z",
        "T05:00:60Z",
        "T05:00:60.000Z",
        "T05:00:60.5Z",
        "T05:00:59.Z",
        "T05:00:00",
        "T05:00:00 Z",
        "T05:00:00+24:00",
        "T05:00:00+0100",
        "T05:00:00+01",
        "T05:00:00+14:60",
        " 05:00:00Z",
        "T05:00:00Z\n",
        "",
        "T05:00Z",
    ] {
        assert_eq!(instant(&format!("2026-01-01{end}")).await, None, "{end:?}");
    }
    for text in [
        "",
        "now",
        "infinity",
        " 2026-01-01T05:00:00Z",
        "2026-1-01T05:00:00Z",
        "12026-01-01T05:00:00Z",
    ] {
        assert_eq!(instant(text).await, None, "{text:?}");
    }
}

#[tokio::test]
async fn what_the_database_cannot_hold_is_dead_and_its_neighbours_are_applied() {
    let mut families = Families::new().await;
    let name = "user.created";
    let good = |n: i64| sample(&families.types[0], &format!("event-{n}"), n).payload();
    let bad = |event_id: &str, bio: &str| {
        let data = format!(r#"{{"userId":1,"username":"a","email":"e","role":"r","bio":{bio}}}"#);
        format!(r#"{{"eventId":"{event_id}","eventType":"{name}","data":{data}}}"#).into_bytes()
    };
    let batch = [
        good(0),
        bad("zero", r#""\u0000""#),
        good(1),
        bad("huge", "1e999999"),
        good(2),
    ];
    let partition = families.partitions.get_mut(name).expect("a type");
    partition
        .send_raw(&families.writer, &batch)
        .await
        .expect("applied");
    let fates = families.fates(name).await;
    let reasons: Vec<_> = fates.iter().map(|fate| fate.reason.as_deref()).collect();
    let invalid = Some("INVALID_EVENT");
    assert_eq!(reasons, [None, invalid, None, invalid, None], "{fates:?}");
    let messages: Vec<_> = fates
        .iter()
        .filter_map(|fate| fate.message.as_deref())
        .collect();
    assert!(messages[0].starts_with("event zero: field \"data.bio\" contains U+0000"));
    assert!(messages[1].starts_with("event huge: field \"data.bio\" is a number that"));
}

#[tokio::test]
async fn what_arrives_before_its_time_ends_as_if_in_order() {
    // First news, later news, and what both are about.
    let cases = [
        ("user.created", "user.updated", "userId"),
        ("user.created", "user.deleted", "userId"),
        ("user.updated", "user.deleted", "userId"),
        ("user.followed", "user.unfollowed", "followerId"),
        ("user.blocked", "user.unblocked", "blockerId"),
        ("content.post.created", "content.post.updated", "postId"),
        ("content.post.created", "content.post.deleted", "postId"),
        ("content.post.created", "content.post.liked", "postId"),
        ("payment.completed", "payment.refunded", "transactionId"),
        ("payment.completed", "payment.tip.created", "transactionId"),
        (
            "subscription.created",
            "subscription.renewed",
            "subscriptionId",
        ),
        (
            "subscription.renewed",
            "subscription.canceled",
            "subscriptionId",
        ),
        (
            "subscription.created",
            "subscription.expired",
            "subscriptionId",
        ),
        ("skill.created", "skill.updated", "skillId"),
        ("skill.user.added", "skill.user.removed", "userId"),
        ("message.created", "message.read", "messageId"),
    ];
    let mut families = Families::new().await;
    let mut all = Vec::new();
    for (n, (first, second, field)) in cases.into_iter().enumerate() {
        for in_order in [true, false] {
            let id = format!("{n}-{in_order}");
            let event = |name: &str, second: i64| {
                let mut event = sample(families.event_type(name), &format!("{name} {id}"), second);
                event.data = with(&event.data, field, json!(id));
                event
            };
            // No two times are the same, or the identity would decide.
            let at = all.len() as i64;
            let (first, second) = (event(first, at), event(second, at + 1));
            for event in if in_order {
                [&first, &second]
            } else {
                [&second, &first]
            } {
                families.send(&[event]).await;
            }
            all.extend([first, second]);
            families
                .assert_model(&all, &format!("case {n}, in order: {in_order}"))
                .await;
        }
    }
    families.assert_invariants().await;
}

/// Batches in a random order. Each partition's events come in their own order; `shuffled` breaks that too, as replays may.
fn interleave<'e>(rng: &mut Rng, events: &'e [Event], shuffled: bool) -> Vec<Vec<&'e Event>> {
    let mut arrivals: Vec<&Event> = events.iter().collect();
    if shuffled {
        for n in (1..arrivals.len()).rev() {
            arrivals.swap(n, rng.below(n as u64 + 1) as usize);
        }
    }
    let mut partitions: BTreeMap<(&str, u128), Vec<&Event>> = BTreeMap::new();
    for event in arrivals.into_iter().rev() {
        partitions
            .entry((&event.event_type, event.tie % 2))
            .or_default()
            .push(event);
    }
    let mut partitions: Vec<Vec<&Event>> = partitions.into_values().collect();
    let largest = *rng.pick(&[5, 20, 100]);
    let mut batches = Vec::new();
    while !partitions.is_empty() {
        let n = rng.below(partitions.len() as u64) as usize;
        let size = (rng.between(1, largest) as usize).min(partitions[n].len());
        let rest = partitions[n].len() - size;
        batches.push(partitions[n].drain(rest..).rev().collect());
        if rest == 0 {
            partitions.swap_remove(n);
        }
    }
    batches
}

/// Interleavings of one set of events.
const ROUNDS: u64 = 50;
const EVENTS: usize = 510;

/// Applies one set of events in `ROUNDS` orders, each from empty tables.
async fn converge(domain: &Domain, types: &[EventType], seed: u64, set: u64) {
    let mut rng = Rng::stream(seed, set);
    // From few keys with much on each to many with little, and from few deletions to many.
    let (pool, deletes) = (
        [3, 6, 40][set as usize % 3],
        [1000, 300, 50][set as usize / 3 % 3],
    );
    let events = random::mixed(&mut rng, types, EVENTS, pool, deletes);
    let expected = rows_after(&events);
    let mut first = None;
    for round in 0..ROUNDS {
        let batches = interleave(&mut rng, &events, round % 2 == 1);
        domain.execute("BEGIN").await;
        domain.handle(&batches).await;
        let digests = domain.digests().await;
        // Equal digests are equal rows, so that one round for all is compared with the model.
        if first.as_ref() != Some(&digests) {
            let what = format!("set {set}, round {round}, {} batches", batches.len());
            assert_same(&domain.rows().await, &expected, &what);
            assert_eq!(
                first.get_or_insert_with(|| digests.clone()),
                &digests,
                "{what}: versions differ"
            );
        }
        domain.execute("ROLLBACK").await;
        if round % 10 == 9 {
            domain.vacuum().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_interleaving_ends_in_the_rows_of_the_model() {
    let count = std::env::var("SLUICE_INTERLEAVINGS").map_or(1_000, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("SLUICE_INTERLEAVINGS must be a whole number, not {text:?}"))
    });
    let (seed, stack, start) = (seed(), Stack::get(), Instant::now());
    // Two at a time, each in a database of its own.
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..2 {
        let database = Database::create(&stack).await;
        workers.spawn(async move {
            let (domain, types) = (Domain::of(&database).await, EventType::all());
            for set in (worker..u64::div_ceil(count, ROUNDS)).step_by(2) {
                converge(&domain, &types, seed, set).await;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    }
    let (rounds, seconds) = (
        count.next_multiple_of(ROUNDS),
        start.elapsed().as_secs_f64(),
    );
    eprintln!("{rounds} interleavings of {EVENTS} events in {seconds:.1} s");
}

#[tokio::test]
async fn a_reference_dangles_until_what_it_names_is_created() {
    let mut families = Families::new().await;
    let (mut expected, mut events) = (BTreeSet::new(), Vec::new());
    // The kind, what names it and by which field, what creates it.
    let cases = [
        (
            "user",
            "user.followed",
            "followerId",
            "user.created",
            "userId",
        ),
        (
            "user",
            "user.blocked",
            "blockedId",
            "user.deleted",
            "userId",
        ),
        (
            "skill",
            "skill.user.added",
            "skillId",
            "skill.created",
            "skillId",
        ),
        (
            "skill",
            "skill.updated",
            "skillId",
            "skill.created",
            "skillId",
        ),
        (
            "post",
            "content.post.liked",
            "postId",
            "content.post.created",
            "postId",
        ),
        (
            "post",
            "content.post.updated",
            "postId",
            "content.post.deleted",
            "postId",
        ),
        (
            "comment",
            "content.comment.created",
            "parentCommentId",
            "content.comment.created",
            "commentId",
        ),
        (
            "payment",
            "payment.refunded",
            "transactionId",
            "payment.completed",
            "transactionId",
        ),
        (
            "payment",
            "payment.tip.created",
            "transactionId",
            "payment.completed",
            "transactionId",
        ),
        (
            "message",
            "message.read",
            "messageId",
            "message.created",
            "messageId",
        ),
        (
            "subscription",
            "subscription.canceled",
            "subscriptionId",
            "subscription.created",
            "subscriptionId",
        ),
    ];
    let dangling = "SELECT concat_ws(' ', kind, id, referenced_by) FROM domain.dangling_references WHERE age >= interval '0' AND id LIKE 'awaited-%'";
    for (n, (kind, referrer, field, _, _)) in cases.iter().enumerate() {
        let found = families.event_type(referrer);
        let mut event = sample(found, &format!("names-{n}"), n as i64);
        event.data = with(&event.data, field, json!(format!("awaited-{n}")));
        families.send(&[&event]).await;
        expected.insert(format!("{kind} awaited-{n} {referrer} names-{n}"));
        assert_eq!(families.names(dangling).await, expected, "after {referrer}");
        events.push(event);
    }
    for (n, (kind, referrer, _, creator, field)) in cases.iter().enumerate() {
        let found = families.event_type(creator);
        let mut event = sample(found, &format!("creates-{n}"), 100 + n as i64);
        event.data = with(&event.data, field, json!(format!("awaited-{n}")));
        families.send(&[&event]).await;
        assert!(expected.remove(&format!("{kind} awaited-{n} {referrer} names-{n}")));
        assert_eq!(families.names(dangling).await, expected, "after {creator}");
        events.push(event);
    }
    assert!(expected.is_empty());
    families.assert_model(&events, "nothing is left out").await;
    families.assert_invariants().await;
}

/// Other ids of the same sorts, so that there are rows to be made again and again.
fn renamed(data: &Value, suffix: i64) -> Value {
    let mut data = data.as_object().expect("an object").clone();
    for (field, value) in &mut data {
        if let (true, Some(id)) = (field.ends_with("Id"), value.as_str()) {
            *value = json!(format!("{id}-{suffix}"));
        }
    }
    Value::Object(data)
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_with_overlapping_keys_neither_deadlock_nor_lose_an_update() {
    const SESSIONS: usize = 4;
    const BATCHES: i64 = 60;
    const BATCH: i64 = 100;
    let families = Families::new().await;
    let seed = seed();
    let barrier = Arc::new(Barrier::new(SESSIONS));
    let mut sessions = tokio::task::JoinSet::new();
    for session in 0..SESSIONS as i64 {
        let client = families.database.writer().await;
        let barrier = Arc::clone(&barrier);
        sessions.spawn(async move {
            let (types, mut rng) = (EventType::all(), Rng::stream(seed, session as u64));
            let (mut partitions, mut sent, mut errors) = (BTreeMap::new(), Vec::new(), Vec::new());
            for batch in 0..BATCHES {
                // Every other time all sessions write the same type.
                let common = &types[batch as usize / 2 % types.len()];
                let found = if batch % 2 == 0 {
                    common
                } else {
                    rng.pick(&types)
                };
                let events: Vec<Event> = (0..rng.between(BATCH as u64 / 2, BATCH as u64) as i64)
                    .map(|n| {
                        let serial = (session * BATCHES + batch) * BATCH + n;
                        // No two events share a time, and times are in no order.
                        let time_us = NEW_YEAR_US + serial * 7_919 % 1_000_003;
                        let mut event =
                            random::event(&mut rng, found, &format!("event-{serial}"), 50, time_us);
                        event.data = renamed(&event.data, batch / 4);
                        event
                    })
                    .collect();
                if !partitions.contains_key(&found.name) {
                    let partition = Partition::lead(&client, &found.name, 1 + session as i32).await;
                    partitions.insert(found.name.clone(), partition);
                }
                let partition = partitions.get_mut(&found.name).expect("just made");
                barrier.wait().await;
                // Kept for later: who panicked here would leave the others waiting.
                if let Err(error) = partition
                    .send(&client, &events.iter().collect::<Vec<_>>())
                    .await
                {
                    errors.push(format!("session {session}, {}: {error:?}", found.name));
                }
                sent.extend(events);
            }
            (sent, errors)
        });
    }
    let mut events = Vec::new();
    while let Some(ended) = sessions.join_next().await {
        let (sent, errors) = ended.expect("a session's end");
        assert_eq!(errors, [""; 0]);
        events.extend(sent);
    }
    let applied = "SELECT count(*) FROM ledger.event_verdicts WHERE verdict = 'APPLIED'";
    assert_eq!(families.database.count(applied).await, events.len() as i64);
    families.assert_model(&events, "four sessions").await;
    families.assert_invariants().await;
}

#[tokio::test]
async fn domain_is_for_handlers_to_write_and_for_readers_to_read() {
    let families = Families::new().await;
    // Who may do what with the tables and views of a schema, by the name of each privilege.
    let privileges = |role: &str, schema: &str| {
        format!(
            "SELECT DISTINCT p FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
             WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND has_table_privilege('{role}', c.oid, p)"
        )
    };
    let unreadable = |role: &str| {
        format!(
            "SELECT relname::text FROM pg_class c WHERE relnamespace = 'domain'::regnamespace AND relkind IN ('r', 'v') AND NOT has_table_privilege('{role}', c.oid, 'SELECT')"
        )
    };
    let callable = |role: &str, schema: &str| {
        format!(
            "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE pronamespace = '{schema}'::regnamespace AND has_function_privilege('{role}', p.oid, 'EXECUTE')"
        )
    };
    let usable = |role: &str| {
        format!(
            "SELECT nspname::text FROM pg_namespace n WHERE nspname IN ('domain', 'ledger', 'sluice') AND has_schema_privilege('{role}', n.oid, 'USAGE')"
        )
    };
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let none = BTreeSet::new();

    for role in ["sluice_reader", "sluice_admin"] {
        assert_eq!(
            families.names(&privileges(role, "domain")).await,
            set(&["SELECT"]),
            "{role}"
        );
        assert_eq!(families.names(&unreadable(role)).await, none, "{role}");
        assert_eq!(
            families.names(&callable(role, "domain")).await,
            none,
            "{role}"
        );
        assert!(
            families.names(&usable(role)).await.contains("domain"),
            "{role}"
        );
    }
    for role in ["sluice_writer", "public"] {
        assert_eq!(
            families.names(&privileges(role, "domain")).await,
            none,
            "{role}"
        );
        assert_eq!(
            families.names(&callable(role, "domain")).await,
            none,
            "{role}"
        );
        assert!(
            !families.names(&usable(role)).await.contains("domain"),
            "{role}"
        );
    }
    let handler = "sluice_handler";
    assert_eq!(
        families.names(&privileges(handler, "domain")).await,
        set(&["SELECT", "INSERT", "UPDATE", "DELETE"])
    );
    assert_eq!(families.names(&privileges(handler, "ledger")).await, none);
    let readers = [
        "sluice.absent(regclass,text[],text[])",
        "sluice.blames_record(text,text)",
        // What a handler that is tried has written, by counts and by row.
        "sluice.handler_counts()",
        "sluice.is_written_here(bigint)",
        "sluice.read_amount(jsonb,text,text,boolean,boolean)",
        "sluice.read_currency(jsonb,text,text,boolean)",
        "sluice.read_id(jsonb,text,text,boolean)",
        "sluice.read_plain_instant(jsonb)",
        "sluice.read_text(jsonb,text,text,integer,integer,boolean)",
        "sluice.settle_handler()",
    ];
    let called = families.names(&callable(handler, "sluice")).await;
    assert_eq!(called, set(&readers));
    assert!(!families.names(&usable(handler)).await.contains("ledger"));

    for (role, statement, is_allowed) in [
        (
            "sluice_reader",
            "SELECT FROM domain.users, domain.dangling_references",
            true,
        ),
        ("sluice_reader", "DELETE FROM domain.users", false),
        ("sluice_writer", "SELECT FROM domain.users", false),
        ("sluice_handler", "UPDATE domain.users SET bio = NULL", true),
        ("sluice_handler", "TRUNCATE domain.users", false),
        ("sluice_handler", "CREATE TABLE domain.more ()", false),
        ("sluice_handler", "CREATE TABLE public.more ()", false),
        (
            "sluice_handler",
            "SELECT FROM ledger.account_balances",
            false,
        ),
        (
            "sluice_handler",
            "INSERT INTO ledger.account_balances DEFAULT VALUES",
            false,
        ),
        (
            "sluice_handler",
            "UPDATE ledger.partition_progress SET commit_offset = 0",
            false,
        ),
    ] {
        let client = families.database.session().await;
        client
            .batch_execute(&format!("SET ROLE {role}"))
            .await
            .expect("a role");
        let code = client
            .batch_execute(statement)
            .await
            .err()
            .map(|error| error.code().map(|code| code.code().to_owned()));
        let expected = (!is_allowed).then(|| Some("42501".to_owned()));
        assert_eq!(code, expected, "{role}: {statement}");
    }
}
