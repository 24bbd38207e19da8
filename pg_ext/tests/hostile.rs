//! Hostile handlers: only rows, notifications and transaction locks outlive their call, and nothing runs as any role
//! but sluice_handler.

mod common;

use common::Database;
use tokio_postgres::Client;
use uuid::Uuid;

/// What a session must have alike before and behind a handler, in a transaction of its own; but for the lock by which an
/// operator's replay is known, which ends with the transaction.
const SESSION: &str = "
    SELECT 'setting ' || name || ' = ' || setting FROM pg_settings
    UNION ALL SELECT 'user ' || current_user || ' ' || session_user || ' ' || current_setting('role')
    UNION ALL SELECT 'lock ' || mode || ' ' || objid FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND classid <> 1936487784
    UNION ALL SELECT 'temporary relation ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()
    UNION ALL SELECT 'temporary function ' || proname FROM pg_proc WHERE pronamespace = pg_my_temp_schema()
    UNION ALL SELECT 'temporary type ' || typname FROM pg_type WHERE typnamespace = pg_my_temp_schema()
    UNION ALL SELECT 'prepared ' || name FROM pg_prepared_statements WHERE name LIKE 'evil%'
    UNION ALL SELECT 'channel ' || channel FROM pg_listening_channels() AS channel
    ORDER BY 1";

/// Each is the body of a handler, and whether the handler may do it at all.
const TRICKS: &[(&str, bool)] = &[
    (
        "PERFORM set_config('search_path', 'evil, pg_catalog', false)",
        true,
    ),
    ("SET search_path = evil", true),
    (
        "PERFORM set_config('synchronous_commit', 'off', false)",
        true,
    ),
    (
        "PERFORM set_config('synchronous_commit', 'off', true)",
        true,
    ),
    (
        "PERFORM set_config('work_mem', '64kB', false), set_config('DateStyle', 'German', false), set_config('lock_timeout', '7', false)",
        true,
    ),
    (
        "PERFORM set_config('application_name', 'nobody', false)",
        true,
    ),
    ("SET TIME ZONE 'Asia/Tokyo'; RESET ALL", true),
    ("SET TRANSACTION READ ONLY", true),
    (
        "BEGIN PERFORM set_config('work_mem', '64kB', false); RAISE EXCEPTION 'x'; EXCEPTION WHEN OTHERS THEN SET work_mem = '1MB'; END",
        true,
    ),
    ("CREATE TEMP TABLE evil (x int)", false),
    ("CREATE TEMP VIEW evil AS SELECT 1", false),
    ("CREATE TEMP SEQUENCE evil", false),
    ("CREATE TEMP TABLE evil ON COMMIT DROP AS SELECT 1", false),
    ("EXECUTE 'SELECT 1 AS x INTO TEMP evil'", false),
    (
        "EXECUTE 'EXPLAIN ANALYZE CREATE TEMP TABLE evil AS SELECT 1 AS x'",
        false,
    ),
    (
        "CREATE FUNCTION pg_temp.version() RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
        false,
    ),
    ("CREATE TYPE pg_temp.jsonb AS ENUM ('a')", false),
    ("DO 'BEGIN CREATE TEMP TABLE evil (x int); END'", false),
    ("LISTEN evil", false),
    ("UNLISTEN *", false),
    ("EXECUTE 'PREPARE evil AS SELECT 1'", false),
    ("DEALLOCATE ALL", false),
    ("DISCARD TEMP", false),
    ("LOAD 'plpgsql'", false),
    (
        "EXECUTE 'DECLARE evil CURSOR WITH HOLD FOR SELECT 1'",
        false,
    ),
    ("EXECUTE 'DECLARE evil CURSOR FOR SELECT 1'", true),
    (
        "DECLARE evil refcursor := 'evil'; BEGIN OPEN evil FOR SELECT 1; END",
        true,
    ),
    ("PERFORM pg_advisory_lock(666)", false),
    ("PERFORM pg_try_advisory_lock_shared(6, 66)", false),
    ("PERFORM pg_advisory_unlock_all()", false),
    (
        "EXECUTE 'SELECT pg_advisory_lock(x) FROM generate_series(1, 3) x'",
        false,
    ),
    ("PERFORM pg_advisory_xact_lock(666)", true),
    ("PERFORM set_config('role', 'sluice_owner', false)", false),
    ("SET SESSION AUTHORIZATION DEFAULT", false),
    ("RESET ROLE", false),
];

/// A database with the topic `evil`, whose handler a test replaces, and a leader of its partition 0.
struct Evil {
    database: Database,
    server: Client,
    writer: Client,
    token: i64,
    lease: Uuid,
    next: i64,
}

impl Evil {
    async fn new() -> Self {
        let database = Database::create().await;
        let (server, writer) = (database.admin().await, database.writer().await);
        let mut evil = Self {
            database,
            server,
            writer,
            token: 0,
            lease: Uuid::nil(),
            next: 0,
        };
        evil.behave("NULL").await;
        let register = "SELECT sluice.register_handler('evil', 'domain.evil', max_failures => 1000, failure_window => 2000)";
        evil.server
            .batch_execute(register)
            .await
            .expect("registered");
        let acquire =
            "SELECT * FROM sluice.acquire_partition_lock('evil', 0, 'leader', interval '60 s')";
        let row = evil.writer.query_one(acquire, &[]).await.expect("acquires");
        (evil.token, evil.lease) = (row.get("fencing_token"), row.get("lease_id"));
        evil
    }

    async fn behave(&self, body: &str) {
        let replace = format!(
            "CREATE OR REPLACE FUNCTION domain.evil(events domain.event[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN {body}; END $$"
        );
        self.server.batch_execute(&replace).await.expect(body);
    }

    /// One transaction with `payloads`; how many are dead.
    async fn send(&mut self, payloads: &[String]) -> i64 {
        let next = self.next + payloads.len() as i64;
        let offsets: Vec<i64> = (self.next..next).collect();
        let bytes: Vec<&[u8]> = payloads.iter().map(|payload| payload.as_bytes()).collect();
        let times = vec![0i64; payloads.len()];
        let keys: Vec<Option<Vec<u8>>> = vec![None; payloads.len()];
        let headers: Vec<Option<String>> = vec![None; payloads.len()];
        let apply = "SELECT dead FROM sluice.apply_event_batch('evil', 0, $1, $2, $3, $4, NULL, $5, $6, $7, $8, $9)";
        let row = self
            .writer
            .query_one(
                apply,
                &[
                    &self.token,
                    &self.lease,
                    &self.next,
                    &next,
                    &offsets,
                    &times,
                    &keys,
                    &bytes,
                    &headers,
                ],
            )
            .await
            .unwrap_or_else(|error| panic!("{payloads:?}: {error:?}"));
        self.next = next;
        row.get(0)
    }

    fn event(&self, data: &str) -> String {
        format!(
            r#"{{"eventId":"e{}","eventType":"evil","data":{data}}}"#,
            self.next
        )
    }

    /// A letter whose handler broke, to be replayed.
    async fn letter(&mut self) -> i64 {
        self.behave("RAISE EXCEPTION 'not yet'").await;
        let event = self.event("{}");
        assert_eq!(self.send(&[event]).await, 1);
        let newest = "SELECT max(id) FROM ledger.dead_letters";
        self.server
            .query_one(newest, &[])
            .await
            .expect("a letter")
            .get(0)
    }
}

async fn session(client: &Client) -> Vec<String> {
    // So that its settings are there before a handler loads it.
    client
        .batch_execute("DO 'BEGIN END'")
        .await
        .expect("PL/pgSQL");
    let rows = client.query(SESSION, &[]).await.expect("the session");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn texts(client: &Client, query: &str) -> Vec<String> {
    let rows = client
        .query(query, &[])
        .await
        .unwrap_or_else(|error| panic!("{query}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_hostile_handler_leaves_the_ingesters_session_as_it_was() {
    let mut evil = Evil::new().await;
    let mut outlived = Vec::new();
    for (trick, may) in TRICKS {
        evil.behave(trick).await;
        let before = session(&evil.writer).await;
        let event = evil.event("{}");
        let dead = evil.send(&[event]).await;
        if dead != i64::from(!may) {
            outlived.push(format!("{trick}: {dead} dead"));
        }
        let after = session(&evil.writer).await;
        outlived.extend(
            after
                .iter()
                .filter(|line| !before.contains(line))
                .map(|line| format!("{trick}: {line}")),
        );
        outlived.extend(
            before
                .iter()
                .filter(|line| !after.contains(line))
                .map(|line| format!("{trick}: no {line}")),
        );
        // Nothing of one trick may pass for another's.
        evil.writer
            .batch_execute("RESET ALL; SELECT pg_advisory_unlock_all(); UNLISTEN *")
            .await
            .expect("clean");
    }
    assert!(outlived.is_empty(), "{outlived:#?}");
    evil.database.assert_invariants().await;
}

#[tokio::test]
async fn a_superuser_who_replays_is_left_nothing_by_a_hostile_handler() {
    let mut evil = Evil::new().await;
    let mut outlived = Vec::new();
    for (trick, may) in TRICKS {
        let letter = evil.letter().await;
        evil.behave(trick).await;
        // A session of its own that has loaded the library and its settings, in one transaction, with a lock, a cursor, a
        // channel and a table that stay.
        let admin = evil.database.admin().await;
        admin
            .batch_execute("SELECT sluice.last_batch_rejections(); CREATE TEMP TABLE mine (x int); LISTEN mine; SELECT pg_advisory_lock(1); BEGIN; DECLARE mine CURSOR FOR SELECT 1")
            .await
            .expect("a session");
        let cursors = "SELECT name FROM pg_cursors WHERE name IN ('mine', 'evil') ORDER BY 1";
        let before = session(&admin).await;
        let replay = "SELECT verdict FROM sluice.replay_dead_letters(ids => ARRAY[$1::bigint], dry_run => false)";
        let verdict: String = admin
            .query_one(replay, &[&letter])
            .await
            .expect(trick)
            .get(0);
        if (verdict == "APPLIED") != *may {
            outlived.push(format!("{trick}: {verdict}"));
        }
        let mut after = session(&admin).await;
        // Locks of the transaction are locks of rows, as it were.
        after.retain(|line| !(trick.contains("xact") && line.ends_with(" 666")));
        if texts(&admin, cursors).await != ["mine"] {
            outlived.push(format!("{trick}: a cursor"));
        }
        admin.batch_execute("COMMIT").await.expect(trick);
        outlived.extend(
            after
                .iter()
                .filter(|line| !before.contains(line))
                .map(|line| format!("{trick}: {line}")),
        );
        outlived.extend(
            before
                .iter()
                .filter(|line| !after.contains(line))
                .map(|line| format!("{trick}: no {line}")),
        );
    }
    assert!(outlived.is_empty(), "{outlived:#?}");
    evil.database.assert_invariants().await;
}

const DEFERRED: &str = "
    CREATE TABLE domain.parents (id text PRIMARY KEY);
    CREATE TABLE domain.children (id text PRIMARY KEY, parent text REFERENCES domain.parents DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE domain.seen (role text, at text);
    CREATE FUNCTION domain.see() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO domain.seen VALUES (current_user, TG_ARGV[0]);
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER see AFTER INSERT ON domain.children DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION domain.see('COMMIT');
    GRANT SELECT, INSERT ON domain.parents, domain.children, domain.seen TO sluice_handler, sluice_writer";

#[tokio::test]
async fn what_a_handler_defers_runs_inside_the_call_as_its_role() {
    let mut evil = Evil::new().await;
    evil.server.batch_execute(DEFERRED).await.expect("tables");
    // The child comes first, and its parent only if the event says so.
    evil.behave(
        "INSERT INTO domain.children SELECT e.event_id, e.event_id FROM unnest(events) e;
         INSERT INTO domain.parents SELECT e.event_id FROM unnest(events) e WHERE e.data ? 'parent'",
    )
    .await;
    let event =
        |id: &str, data: &str| format!(r#"{{"eventId":"{id}","eventType":"evil","data":{data}}}"#);
    let events = [
        event("a", r#"{"parent":1}"#),
        event("b", "{}"),
        event("c", r#"{"parent":1}"#),
    ];
    assert_eq!(evil.send(&events).await, 1, "the orphan alone");
    let server = &evil.server;
    assert_eq!(
        texts(server, "SELECT id FROM domain.children ORDER BY 1").await,
        ["a", "c"]
    );
    assert_eq!(
        texts(server, "SELECT DISTINCT role FROM domain.seen").await,
        ["sluice_handler"]
    );
    let message = "SELECT error_code || ' ' || error_message FROM ledger.dead_letters";
    let messages = texts(server, message).await;
    assert!(
        messages[0].starts_with("HANDLER_FAILED") && messages[0].contains("23503"),
        "{messages:?}"
    );
}

#[tokio::test]
async fn a_trigger_cannot_defer_once_more_when_deferred_ones_run() {
    let mut evil = Evil::new().await;
    evil.server.batch_execute(DEFERRED).await.expect("tables");
    evil.server
        .batch_execute(
            "CREATE OR REPLACE FUNCTION domain.see() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO domain.seen VALUES (current_user, NEW.id);
                 IF NEW.id = 'first' THEN
                     BEGIN
                         SET CONSTRAINTS ALL DEFERRED;
                     EXCEPTION WHEN insufficient_privilege THEN
                         INSERT INTO domain.seen VALUES (current_user, 'refused');
                     END;
                     INSERT INTO domain.children VALUES ('second');
                 END IF;
                 RETURN NULL;
             END $$",
        )
        .await
        .expect("replaced");
    evil.behave("INSERT INTO domain.children VALUES ('first')")
        .await;
    let event = evil.event("{}");
    assert_eq!(evil.send(&[event]).await, 0);
    let seen = "SELECT role || ' ' || at FROM domain.seen ORDER BY 1";
    assert_eq!(
        texts(&evil.server, seen).await,
        [
            "sluice_handler first",
            "sluice_handler refused",
            "sluice_handler second"
        ]
    );
}

#[tokio::test]
async fn what_the_caller_has_deferred_does_not_run_as_the_handler() {
    let mut evil = Evil::new().await;
    evil.server.batch_execute(DEFERRED).await.expect("tables");
    let letter = evil.letter().await;
    evil.behave("INSERT INTO domain.children VALUES ('theirs')")
        .await;
    let admin = evil.database.admin().await;
    admin
        .batch_execute("BEGIN; INSERT INTO domain.children VALUES ('mine')")
        .await
        .expect("deferred");
    let replay = "SELECT verdict FROM sluice.replay_dead_letters(ids => ARRAY[$1::bigint], dry_run => false)";
    let verdict: String = admin
        .query_one(replay, &[&letter])
        .await
        .expect("replayed")
        .get(0);
    assert_eq!(verdict, "APPLIED");
    admin.batch_execute("COMMIT").await.expect("committed");
    let me = texts(&admin, "SELECT current_user::text").await;
    let roles = texts(
        &admin,
        "SELECT role FROM domain.seen ORDER BY role = 'sluice_handler'",
    )
    .await;
    assert_eq!(roles, [me[0].as_str(), "sluice_handler"]);
}
