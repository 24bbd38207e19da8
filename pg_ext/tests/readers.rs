//! The native readers of fields and references behave as those in SQL did.

mod common;

use common::Database;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// The readers as they were in SQL, in a schema of their own.
fn first_readers() -> String {
    let functions = include_str!("common/first_readers.sql");
    format!(
        "CREATE SCHEMA before; {}
        CREATE FUNCTION before.outcome(reader text, value jsonb) RETURNS text LANGUAGE plpgsql AS $$
        DECLARE
            answer text;
        BEGIN
            EXECUTE format('SELECT (%s)::text', reader) USING value INTO answer;
            RETURN coalesce('answers ' || answer, 'answers NULL');
        EXCEPTION WHEN OTHERS THEN
            RETURN SQLSTATE || ' ' || SQLERRM;
        END
        $$;",
        functions
    )
}

const READERS: [&str; 9] = [
    "id($1, 'e', 'f')",
    "id($1, 'e', 'f', required => false)",
    "text($1, 'e', 'f', 0, 5)",
    "text($1, 'e', 'f', 1, 255, required => false)",
    "text($1, NULL, 'f', 2, 3)",
    "amount($1, 'e', 'f')::numeric(36, 18)",
    "amount($1, 'e', 'f', required => false)::numeric(36, 18)",
    "unsigned_amount($1, 'e', 'f')::numeric(36, 18)",
    "unsigned_amount($1, 'e', 'f', required => false)::numeric(36, 18)",
];

/// Texts, each of them a string; those that are JSON also as they are.
const TEXTS: &str = r#"
    SELECT text FROM unnest(ARRAY[
        '', ' ', 'a', 'abc', 'abcdef', 'ä', 'äöüßé', 'äöüßéx', '😀😀😀', 'USD', 'usd', 'U', 'USDUSDUSDUSDUSDU', 'USDUSDUSDUSDUSDUS', 'US D', 'Ä1',
        '0', '-0', '00', '1', '-1', '+1', '42', '1.5', '-1.5', '1.', '.5', '1.50', '0.000000000000000001', '-0.000000000000000001',
        '0.0000000000000000001', '999999999999999999', '999999999999999999.999999999999999999', '1000000000000000000', '1e2', '1E400', '1e-3',
        '-999999999999999999', 'NaN', 'Infinity', '0x10', '1 ', ' 1', '1_000', '123456789012345678901234567890', '-5.0', '10.10', '1e18', '1e17',
        'true', 'false', 'null', '[]', '{}', '[1]', '["a"]', '{"a": 1}', '"x"', '"1.5"',
        '2026-11-21T05:00:15Z', '2026-11-21t05:00:15z', '2026-11-21T05:00:15.1Z', '2026-11-21T05:00:15.123456Z', '2026-11-21T05:00:15.1234564Z',
        '2026-11-21T05:00:15.1234567Z', '2026-11-21T05:00:15.999999999Z', '2026-11-21T05:00:15.1234567890Z', '2026-11-21T05:00:15.Z',
        '2026-11-21T05:00:15', '2026-11-21 05:00:15Z', '2026-11-21T05:00:15+00:00', '2026-11-21T05:00:15+09:59', '2026-11-21T05:00:15-09:30',
        '2026-11-21T05:00:15+10:00', '2026-11-21T05:00:15-15:59', '2026-11-21T05:00:15+16:00', '2026-11-21T05:00:15+0100', '2026-11-21T05:00:15+01:60',
        '2026-11-21T05:00:60Z', '2026-11-30T23:59:60Z', '2026-11-21T05:00:60.0Z', '2026-11-21T05:00:60.1Z', '2026-11-21T05:00:61Z', '2026-11-21T05:00:69Z',
        '2026-11-21T05:60:00Z', '2026-11-21T24:00:00Z', '2026-02-29T00:00:00Z', '2024-02-29T00:00:00Z', '2000-02-29T00:00:00Z', '1900-02-29T00:00:00Z',
        '2026-04-31T00:00:00Z', '2026-13-01T00:00:00Z', '2026-00-01T00:00:00Z', '2026-01-00T00:00:00Z', '0000-01-01T00:00:00Z', '0001-01-01T00:00:00+09:00',
        '9999-12-31T23:59:59.999999-09:00', '9999-12-31T23:59:59.9999999Z', '1582-10-10T00:00:00Z', '1969-12-31T23:59:59.999999Z', '12026-11-21T05:00:15Z',
        '2026-11-21T05:00:15Zx', '2026-11-21T05:00:15.5', '2026-11-21T05:00:15z0', '２026-11-21T05:00:15Z']) AS text
    UNION SELECT repeat('x', n) FROM unnest(ARRAY[254, 255, 256]) AS n
    UNION SELECT repeat('ä', n) FROM unnest(ARRAY[127, 128, 255, 256]) AS n
    UNION SELECT repeat('9', n) FROM unnest(ARRAY[254, 255]) AS n
    UNION SELECT '-' || repeat('9', n) FROM unnest(ARRAY[254, 255]) AS n"#;

#[tokio::test]
async fn native_readers_answer_and_refuse_as_their_first_definitions() {
    let database = Database::create().await;
    let admin = database.admin().await;
    admin
        .batch_execute(&first_readers())
        .await
        .expect("created");
    let compare = format!(
        "WITH texts AS ({TEXTS}), valid AS (
            SELECT text::jsonb AS value FROM texts
            WHERE before.outcome('$1 IS NOT NULL AND ' || quote_literal(text) || '::jsonb IS NOT NULL', '0') = 'answers true'
        ), the_values AS (
            SELECT to_jsonb(text) AS value FROM texts UNION SELECT value FROM valid UNION SELECT NULL
        )
        SELECT format('%s of %s: %s, before: %s', r, value, now, before), now = replace(before, 'before.', 'domain.'), before ~ '^answers'
        FROM the_values, unnest($1::text[]) AS r,
            LATERAL (SELECT before.outcome('domain.' || r, value) AS now, before.outcome('before.' || r, value) AS before) o"
    );
    let found = admin
        .query(&compare, &[&READERS.as_slice()])
        .await
        .expect("compared");
    let differ: Vec<String> = found
        .iter()
        .filter(|row| !row.get::<_, bool>(1))
        .map(|row| row.get(0))
        .collect();
    assert!(differ.is_empty(), "{differ:#?}");
    let answered = found.iter().filter(|row| row.get::<_, bool>(2)).count();
    assert!(
        answered > 250 && found.len() - answered > 250,
        "{answered} of {} answered",
        found.len()
    );
}

/// Each id with the place that it was first named at.
async fn absent(client: &Client, table: &str, ids: &[&str]) -> Vec<String> {
    let ask = "SELECT a.id || a.referrer FROM sluice.absent($1::text::regclass, $2, ARRAY(SELECT generate_series(1, cardinality($2::text[]))::text)) a";
    let rows = client.query(ask, &[&table, &ids]).await.expect("an answer");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn absent_tells_what_has_no_row_whatever_was_known_before() {
    let database = Database::create().await;
    let (admin, other) = (database.admin().await, database.admin().await);
    let run = |statement: &'static str| {
        let admin = &admin;
        async move { admin.batch_execute(statement).await.expect(statement) }
    };
    let none: [&str; 0] = [];
    let ids = ["d", "b", "a", "c", "b"];
    let there = "INSERT INTO domain.users (user_id) SELECT unnest('{a,b,c}'::text[])";
    assert_eq!(
        absent(&admin, "domain.users", &ids).await,
        ["a3", "b2", "c4", "d1"]
    );
    run(there).await;
    for _ in 0..2 {
        assert_eq!(
            absent(&admin, "domain.users", &ids).await,
            ["d1"],
            "also where a hint leads"
        );
    }
    // What the hints of this session say is not true any more.
    run("DELETE FROM domain.users WHERE user_id = 'a'").await;
    assert_eq!(absent(&admin, "domain.users", &ids).await, ["a3", "d1"]);
    run("UPDATE domain.users SET user_id = 'd' WHERE user_id = 'b'").await;
    assert_eq!(absent(&admin, "domain.users", &ids).await, ["a3", "b2"]);
    run("VACUUM FULL domain.users").await;
    assert_eq!(absent(&admin, "domain.users", &ids).await, ["a3", "b2"]);
    run("TRUNCATE domain.users").await;
    assert_eq!(
        absent(&admin, "domain.users", &ids).await,
        ["a3", "b2", "c4", "d1"]
    );
    run("INSERT INTO domain.users (user_id) SELECT unnest('{c,a,b}'::text[])").await;
    assert_eq!(absent(&admin, "domain.users", &ids).await, ["d1"]);
    // The same ids in another table are others.
    assert_eq!(absent(&admin, "domain.posts", &["a"]).await, ["a1"]);
    // What another transaction has not decided is not there; what this one did is.
    let undecided = "BEGIN; INSERT INTO domain.users (user_id) VALUES ('d'); DELETE FROM domain.users WHERE user_id = 'c'";
    other.batch_execute(undecided).await.expect("begun");
    assert_eq!(absent(&admin, "domain.users", &ids).await, ["c4", "d1"]);
    assert_eq!(absent(&other, "domain.users", &ids).await, ["c4"]);
    other.batch_execute("COMMIT").await.expect("committed");
    assert_eq!(absent(&admin, "domain.users", &ids).await, ["c4"]);
    assert_eq!(absent(&admin, "domain.users", &[]).await, none);
    let nulls = "SELECT string_agg(a.id, '') FROM sluice.absent('domain.users', ARRAY[NULL, 'a', 'x'], '{1,2,3}') a";
    let found: String = admin.query_one(nulls, &[]).await.expect("an answer").get(0);
    assert_eq!(found, "x");
    let uneven = "SELECT * FROM sluice.absent('domain.users', '{a,b}', '{1}')";
    let error = admin.query(uneven, &[]).await.expect_err("two and one");
    assert_eq!(
        error.code(),
        Some(&SqlState::INVALID_PARAMETER_VALUE),
        "{error:?}"
    );
}

#[tokio::test]
async fn absent_leaves_other_tables_to_sql_and_asks_for_the_right_to_read() {
    let database = Database::create().await;
    let admin = database.admin().await;
    let tables = "
        CREATE TABLE domain.keyless (id text);
        CREATE TABLE domain.numbered (id bigint PRIMARY KEY);
        CREATE TABLE domain.second (n bigint, id text PRIMARY KEY);
        CREATE TABLE domain.double (id text, n bigint, PRIMARY KEY (id, n));
        CREATE TABLE domain.parts (id text PRIMARY KEY) PARTITION BY LIST (id);
        CREATE TABLE domain.part_a PARTITION OF domain.parts FOR VALUES IN ('a');
        CREATE TABLE domain.guarded (id text PRIMARY KEY);
        ALTER TABLE domain.guarded ENABLE ROW LEVEL SECURITY;
        CREATE VIEW domain.viewed AS SELECT 'a' AS id;
        INSERT INTO domain.keyless VALUES ('a');
        INSERT INTO domain.numbered VALUES (1);
        INSERT INTO domain.second VALUES (1, 'a');
        INSERT INTO domain.double VALUES ('a', 1);
        INSERT INTO domain.parts VALUES ('a');
        INSERT INTO domain.guarded VALUES ('a')";
    admin.batch_execute(tables).await.expect("created");
    for table in [
        "keyless", "numbered", "second", "double", "parts", "guarded", "viewed",
    ] {
        let table = format!("domain.{table}");
        assert_eq!(
            absent(&admin, &table, &["a", "1"]).await,
            ["12", "a1"],
            "{table}"
        );
    }
    let handler = database.member("sluice_handler").await;
    assert_eq!(absent(&handler, "domain.users", &["a"]).await, ["a1"]);
    let ask = "SELECT * FROM sluice.absent('domain.part_a', '{a}', '{e}')";
    let error = handler
        .query_one(ask, &[])
        .await
        .expect_err("no right to read it");
    assert_eq!(
        error.code(),
        Some(&SqlState::INSUFFICIENT_PRIVILEGE),
        "{error:?}"
    );
}
