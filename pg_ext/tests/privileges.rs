//! What each role may not do, attempted. Needs the services of `make test`.

mod common;

use std::collections::BTreeMap;

use common::{Batch, Database, Leader, available, change, lead};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

const WRITER: &str = "sluice_writer";
const READER: &str = "sluice_reader";
const ADMIN: &str = "sluice_admin";
const HANDLER: &str = "sluice_handler";
const ROLES: [&str; 4] = [WRITER, READER, ADMIN, HANDLER];

/// Who may call each function of schema `sluice`; `sluice_admin` is a reader, too. A new one has to be added here.
const FUNCTIONS: &[(&str, &[&str])] = &[
    ("absent", &[HANDLER]),
    ("accept_partition", &[ADMIN]),
    ("account_history", &[READER]),
    ("acquire_partition_lock", &[WRITER]),
    ("apply_balance_batch", &[WRITER]),
    ("apply_balance_changes", &[ADMIN]),
    ("apply_event_batch", &[WRITER]),
    ("balance_as_of", &[READER]),
    ("blames_record", &[HANDLER]),
    ("brought_forward_until", &[]),
    ("bury_record", &[ADMIN]),
    ("call_handler", &[]),
    ("capture_staged_row", &[]),
    ("check_clock", &[]),
    ("correct_balances", &[]),
    ("count_prunable", &[]),
    ("dangling_references", &[WRITER, READER]),
    ("dead_letter_headers", &[WRITER]),
    ("dead_letter_keys", &[WRITER]),
    ("discard_dead_letters", &[ADMIN]),
    ("end_results", &[ADMIN]),
    ("event_identity", &[]),
    ("event_places", &[]),
    ("find_dead_letters", &[]),
    ("find_event", &[READER]),
    ("forget_result_headers", &[WRITER]),
    ("halt_partition", &[WRITER]),
    ("handler_counts", &[HANDLER]),
    ("handler_rows", &[]),
    ("heartbeat", &[WRITER]),
    ("is_processed", &[]),
    ("is_written_here", &[HANDLER]),
    ("keep_result_headers", &[WRITER]),
    ("keep_topic_id", &[WRITER]),
    ("known_partition", &[]),
    ("last_batch_rejections", &[WRITER]),
    ("last_batch_steps", &[WRITER]),
    ("leave", &[WRITER]),
    ("lock_holder", &[WRITER]),
    ("mark_published", &[WRITER]),
    ("mark_replays", &[WRITER]),
    ("mark_results", &[WRITER]),
    ("offset_gaps", &[READER]),
    ("other_writers", &[WRITER, READER]),
    ("parked_dead_letters", &[WRITER, READER]),
    ("partition_position", &[WRITER]),
    ("partitions_to_care_for", &[WRITER]),
    ("partitions_with_results", &[WRITER]),
    ("partition_holder", &[WRITER, READER]),
    ("partition_row_holders", &[]),
    ("pause_handler", &[WRITER, ADMIN]),
    ("pause_partition", &[ADMIN]),
    ("prune", &[ADMIN]),
    ("prune_records", &[]),
    ("read_amount", &[HANDLER]),
    ("read_currency", &[HANDLER]),
    ("read_id", &[HANDLER]),
    ("read_plain_instant", &[HANDLER]),
    ("read_text", &[HANDLER]),
    ("register_handler", &[ADMIN]),
    ("release_partition_lock", &[WRITER]),
    ("renew_partition_lock", &[WRITER]),
    ("replay_dead_letters", &[ADMIN]),
    ("replay_letters", &[]),
    ("report_partitions", &[WRITER]),
    ("reset_breaker", &[ADMIN]),
    ("restore_dead_letters", &[ADMIN]),
    ("result_headers", &[WRITER]),
    ("results_at", &[]),
    ("resume_handler", &[ADMIN]),
    ("resume_partition", &[ADMIN]),
    ("retry_dead_letters", &[WRITER]),
    ("settle_dead_letters", &[]),
    ("settle_handler", &[HANDLER]),
    ("start_topics", &[WRITER]),
    ("step_down", &[ADMIN]),
    ("transaction_holder", &[]),
    ("trip_breaker", &[WRITER]),
    ("try_events", &[]),
    ("try_handler", &[ADMIN]),
    ("unmarked_replays", &[WRITER]),
    ("unprocessed_records", &[WRITER]),
    ("unpublished_dead_letters", &[WRITER]),
    ("unregister_handler", &[ADMIN]),
    ("unsent_results", &[WRITER]),
    ("verify_balances", &[READER]),
    ("withdraw_burial", &[ADMIN]),
    ("why_left_out", &[]),
    ("ask_why", &[]),
    ("tell_unknown_balance", &[]),
];

/// What the writer may read of whole tables and views; of leases and progress it may read some columns.
const WRITER_READS: [&str; 7] = [
    "ledger.event_handlers",
    "ledger.live_instances",
    "ledger.partition_halts",
    "ledger.partition_leader_locks",
    "ledger.partition_status",
    "ledger.platform_schema_history",
    "ledger.schema_history",
];

async fn rows(client: &Client, statement: &str) -> Vec<Row> {
    let rows = client.query(statement, &[]).await;
    rows.unwrap_or_else(|error| panic!("{statement}: {error:?}"))
}

async fn refused(client: &Client, who: &str, attempt: &str) {
    let error = client.batch_execute(attempt).await;
    let error = error
        .err()
        .unwrap_or_else(|| panic!("{who} may: {attempt}"));
    assert_eq!(
        error.code(),
        Some(&SqlState::INSUFFICIENT_PRIVILEGE),
        "{who}: {attempt}: {error:?}"
    );
}

/// Everything that an attempt could have changed, as one number.
async fn fingerprint(database: &Database) -> Vec<String> {
    let admin = database.admin().await;
    let tables = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('ledger', 'domain') AND c.relkind IN ('r', 'p') ORDER BY 1";
    let mut found = Vec::new();
    for row in rows(&admin, tables).await {
        let table: String = row.get(0);
        let sum = format!(
            "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {table} t"
        );
        let sum: String = rows(&admin, &sum).await[0].get(0);
        found.push(format!("{table} {sum}"));
    }
    found
}

#[tokio::test]
async fn each_function_may_be_called_by_its_roles_and_no_other() {
    let database = Database::create().await;
    let admin = database.admin().await;
    let expected: BTreeMap<&str, &[&str]> = FUNCTIONS.iter().copied().collect();
    let functions = "SELECT p.oid, p.proname::text, p.oid::regprocedure::text,
            (SELECT coalesce(string_agg(format('NULL::%s', format_type(t, NULL)), ', '), '') FROM unnest(p.proargtypes) t)
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'sluice' ORDER BY 2";
    let functions = rows(&admin, functions).await;
    let mut found: Vec<&str> = functions.iter().map(|row| row.get(1)).collect();
    found.dedup();
    assert_eq!(
        found,
        expected.keys().copied().collect::<Vec<_>>(),
        "functions of schema sluice, and those that are expected"
    );
    for role in ROLES {
        let member = database.member(role).await;
        for function in &functions {
            let (name, signature, nulls): (&str, &str, &str) =
                (function.get(1), function.get(2), function.get(3));
            let callers = expected[name];
            let may = callers.contains(&role) || (role == ADMIN && callers.contains(&READER));
            let granted = "SELECT has_function_privilege($1, $2::oid, 'EXECUTE')";
            let granted = admin
                .query_one(granted, &[&role, &function.get::<_, u32>(0)])
                .await;
            assert_eq!(
                granted.expect("asked").get::<_, bool>(0),
                may,
                "{role}: {signature}"
            );
            if !may {
                let attempt = format!("SELECT sluice.{name}({nulls})");
                refused(&member, role, &attempt).await;
            }
        }
        // What handlers are made of is for handlers.
        let domain = "SELECT p.oid::regprocedure::text, has_function_privilege($1, p.oid, 'EXECUTE')
            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'domain'";
        let domain = admin.query(domain, &[&role]).await.expect("asked");
        assert!(domain.len() > 30);
        for row in domain {
            let may: bool = row.get(1);
            assert_eq!(may, role == HANDLER, "{role}: {}", row.get::<_, &str>(0));
        }
    }
}

#[tokio::test]
async fn each_role_may_do_to_each_table_what_it_has_to_and_nothing_else() {
    let database = Database::create().await;
    let admin = database.admin().await;
    let relations = "SELECT format('%I.%I', n.nspname, c.relname), n.nspname::text, c.relkind::text
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('ledger', 'domain') AND c.relkind IN ('r', 'v', 'p', 'm', 'S') ORDER BY 1";
    let relations = rows(&admin, relations).await;
    assert!(relations.len() > 30);
    for role in ROLES {
        for relation in &relations {
            let (name, schema): (&str, &str) = (relation.get(0), relation.get(1));
            let is_sequence = relation.get::<_, &str>(2) == "S";
            let expected = |privilege: &str| match (role, schema, privilege) {
                (_, _, _) if is_sequence => false,
                (READER | ADMIN, _, "SELECT") => true,
                (HANDLER, "domain", "SELECT" | "INSERT" | "UPDATE" | "DELETE") => true,
                (WRITER, "ledger", "INSERT") => name == "ledger.staging_balance_changes",
                (WRITER, "ledger", "SELECT") => WRITER_READS.contains(&name),
                _ => false,
            };
            let (function, privileges): (_, &[&str]) = if is_sequence {
                ("has_sequence_privilege", &["USAGE", "SELECT", "UPDATE"])
            } else {
                let all: &[&str] = &[
                    "SELECT",
                    "INSERT",
                    "UPDATE",
                    "DELETE",
                    "TRUNCATE",
                    "REFERENCES",
                    "TRIGGER",
                ];
                ("has_table_privilege", all)
            };
            for privilege in privileges {
                let ask = format!("SELECT {function}('{role}', '{name}', '{privilege}')");
                let may: bool = rows(&admin, &ask).await[0].get(0);
                assert_eq!(may, expected(privilege), "{role}: {privilege} on {name}");
            }
        }
        for schema in ["ledger", "domain", "sluice", "public"] {
            let ask = format!("SELECT has_schema_privilege('{role}', '{schema}', 'CREATE')");
            assert!(
                !rows(&admin, &ask).await[0].get::<_, bool>(0),
                "{role} in {schema}"
            );
        }
    }
    // Of two tables the writer reads some columns: not those by which it could pass for another leader.
    let columns =
        "SELECT table_name || '.' || column_name FROM information_schema.column_privileges
        WHERE grantee = 'sluice_writer' AND privilege_type = 'SELECT'
            AND table_name IN ('partition_leases', 'partition_progress') ORDER BY 1";
    let columns: Vec<String> = rows(&admin, columns)
        .await
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        columns,
        [
            "partition_leases.partition",
            "partition_leases.partition_id",
            "partition_leases.topic",
            "partition_progress.commit_offset",
            "partition_progress.last_record",
            "partition_progress.partition_id",
            "partition_progress.started_at",
        ]
    );
}

#[tokio::test]
async fn what_a_role_may_not_it_cannot() {
    let database = Database::create().await;
    let (server, leader) = (database.admin().await, database.writer().await);
    let led = lead(&leader, 0, "leader").await;
    let batch = Batch::default().event(0, "a", &[change(1, "10", "0")]);
    batch.apply(&leader, led, 0, 1).await.expect("applies");
    let before = fingerprint(&database).await;
    for role in ROLES {
        let member = database.member(role).await;
        for attempt in [
            "INSERT INTO ledger.account_balances VALUES (1, 0, 'USD', 1000, 0, 0)",
            "UPDATE ledger.account_balances SET available = 1000",
            "DELETE FROM ledger.balance_log",
            "UPDATE ledger.verdicts SET verdict = 'APPLIED'",
            "UPDATE ledger.partition_progress SET fencing_token = 9",
            "UPDATE ledger.partition_leases SET leader_svc_id = 'me'",
            "DELETE FROM ledger.event_identities",
            "UPDATE ledger.dead_letters SET status = 'DISCARDED'",
            "DELETE FROM ledger.dead_letter_actions",
            "INSERT INTO ledger.event_handlers (event_type, handler) VALUES ('t', 'f')",
            "TRUNCATE ledger.account_balances",
            "TRUNCATE ledger.staging_balance_changes",
            "DO $$ BEGIN LOCK ledger.account_balances IN ACCESS EXCLUSIVE MODE; END $$",
            "SELECT FROM ledger.account_balances FOR UPDATE",
            "COPY ledger.balance_log FROM '/dev/null'",
            "COPY ledger.account_balances TO PROGRAM 'cat'",
            "ALTER TABLE ledger.staging_balance_changes DISABLE TRIGGER ALL",
            "ALTER TABLE ledger.account_balances DROP CONSTRAINT account_balances_pkey",
            "CREATE TRIGGER mine BEFORE INSERT ON ledger.account_balances FOR EACH ROW EXECUTE FUNCTION sluice.capture_staged_row()",
            "CREATE RULE mine AS ON INSERT TO ledger.account_balances DO INSTEAD NOTHING",
            "CREATE TABLE ledger.mine (x int)",
            "CREATE TABLE domain.mine (x int)",
            "CREATE VIEW sluice.mine AS SELECT 1",
            "CREATE FUNCTION sluice.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION domain.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION pg_temp.mine() RETURNS trigger LANGUAGE c AS 'sluice', 'capture_staged_row'",
            "CREATE SCHEMA mine",
            "ALTER FUNCTION sluice.verify_balances() SECURITY INVOKER",
            "ALTER FUNCTION sluice.leave(text) SET search_path = pg_temp",
            "DROP FUNCTION sluice.verify_balances()",
            "DROP EXTENSION sluice CASCADE",
            "ALTER EXTENSION sluice DROP FUNCTION sluice.verify_balances()",
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA sluice TO PUBLIC",
            "GRANT sluice_owner TO CURRENT_USER",
            "ALTER ROLE sluice_owner LOGIN",
            "SET session_replication_role = replica",
            "SET dynamic_library_path = '/tmp'",
            "LOAD '/tmp/mine'",
            "SET SESSION AUTHORIZATION sluice_owner",
            "SET ROLE sluice_owner",
            "SET ROLE postgres",
            "SET ROLE pg_signal_backend",
            "SELECT pg_catalog.set_config('role', 'sluice_owner', false)",
        ] {
            // GRANT of what one may not grant is a warning alone, so this one says what it did not do.
            if attempt.starts_with("GRANT EXECUTE") {
                member.batch_execute(attempt).await.ok();
                continue;
            }
            refused(&member, role, attempt).await;
        }
        for other in ROLES {
            let is_member = other == role || (role == ADMIN && other == READER);
            if !is_member {
                refused(&member, role, &format!("SET ROLE {other}")).await;
            }
        }
        let superusers =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'";
        refused(&member, role, superusers).await;
    }
    server.batch_execute("SELECT 1").await.expect("it lives");
    assert_eq!(fingerprint(&database).await, before);
    public_has_nothing(&database).await;
}

async fn public_has_nothing(database: &Database) {
    let admin = database.admin().await;
    let functions = "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace,
            LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        WHERE n.nspname IN ('sluice', 'domain') AND a.grantee = 0";
    let relations = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
            LATERAL aclexplode(c.relacl) a
        WHERE n.nspname IN ('ledger', 'domain') AND a.grantee = 0";
    let schemas = "SELECT n.nspname::text FROM pg_namespace n, LATERAL aclexplode(n.nspacl) a
        WHERE n.nspname IN ('sluice', 'ledger', 'domain') AND a.grantee = 0";
    for statement in [functions, relations, schemas] {
        let found: Vec<String> = rows(&admin, statement)
            .await
            .iter()
            .map(|row| row.get(0))
            .collect();
        assert!(found.is_empty(), "PUBLIC: {found:?}");
    }
}

#[tokio::test]
async fn functions_run_as_roles_that_cannot_log_in_with_a_path_of_their_own() {
    let database = Database::create().await;
    let admin = database.admin().await;
    public_has_nothing(&database).await;
    let definers =
        "SELECT p.proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'sluice' AND p.prorettype <> 'trigger'::regtype
            AND NOT (obj_description(p.oid) IS NOT NULL AND CASE
                -- What handlers call for every event, as themselves.
                WHEN p.proname ~ '^read_' OR p.proname IN ('absent', 'is_written_here', 'settle_handler') THEN NOT p.prosecdef AND p.proowner = 'sluice_owner'::regrole
                WHEN NOT p.prosecdef THEN false
                -- Handlers run as a role that has no ledger.
                WHEN p.proname = 'call_handler' THEN p.proowner = 'sluice_handler'::regrole
                    AND 'search_path=pg_catalog, domain, pg_temp' = ANY (p.proconfig)
                WHEN p.proname = 'handler_rows' THEN p.proowner = 'sluice_handler'::regrole
                    AND 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig)
                ELSE p.proowner = 'sluice_owner'::regrole AND 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig)
            END)";
    let found: Vec<String> = rows(&admin, definers)
        .await
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(found.is_empty(), "{found:?}");
    // Whatever else is SECURITY DEFINER would be a way in, too.
    let others = "SELECT p.oid::regprocedure::text FROM pg_proc p
        WHERE p.prosecdef AND p.pronamespace <> 'sluice'::regnamespace AND p.proowner::regrole::text LIKE 'sluice%'";
    let found: Vec<String> = rows(&admin, others)
        .await
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(found.is_empty(), "{found:?}");
    let logins = "SELECT rolname::text FROM pg_roles
        WHERE rolname = ANY ('{sluice_owner,sluice_writer,sluice_reader,sluice_admin,sluice_handler}')
            AND (rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)";
    let found: Vec<String> = rows(&admin, logins)
        .await
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn a_forged_token_or_lease_changes_nothing() {
    let database = Database::create().await;
    let (leader, forger) = (database.writer().await, database.member(WRITER).await);
    let led = lead(&leader, 0, "leader").await;
    let before = fingerprint(&database).await;
    let batch = Batch::default().event(0, "forged", &[change(1, "1000000", "0")]);
    for (fencing_token, lease_id) in [
        (led.fencing_token, Uuid::nil()),
        (
            led.fencing_token,
            Uuid::from_u128(led.lease_id.as_u128() ^ 1),
        ),
        (led.fencing_token + 1, led.lease_id),
        (led.fencing_token - 1, led.lease_id),
        (i64::MAX, led.lease_id),
        (i64::MIN, Uuid::nil()),
        (0, Uuid::nil()),
    ] {
        let forged = Leader {
            fencing_token,
            lease_id,
            ..led
        };
        let stale = |error: Option<&SqlState>| {
            assert_eq!(
                error,
                Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE),
                "{forged:?}"
            );
        };
        let error = batch
            .apply(&forger, forged, 0, 1)
            .await
            .expect_err("a stale token");
        stale(error.code());
        let events = "SELECT * FROM sluice.apply_event_batch($1, 0, $2, $3, 0, 1, NULL, '{0}', '{0}', '{NULL}', '{NULL}', '{NULL}')";
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&common::TOPIC, &fencing_token, &lease_id];
        stale(
            forger
                .query(events, &parameters)
                .await
                .expect_err("a stale token")
                .code(),
        );
        let retry = "SELECT * FROM sluice.retry_dead_letters($1, 0, $2, $3, 3, 0, true)";
        stale(
            forger
                .query(retry, &parameters)
                .await
                .expect_err("a stale token")
                .code(),
        );
        let renew = "SELECT sluice.renew_partition_lock($1, 0, $2, $3, interval '1 day') IS NULL";
        let release = "SELECT NOT sluice.release_partition_lock($1, 0, $2, $3)";
        for statement in [renew, release] {
            let lost = forger
                .query_one(statement, &parameters)
                .await
                .expect("an answer");
            assert!(lost.get::<_, bool>(0), "{statement} with {forged:?}");
        }
    }
    // Nor does another's name help, while its session lives.
    let others_name = "SELECT sluice.heartbeat('leader', '{t}', interval '60 s')";
    leader.query(others_name, &[]).await.expect("a heartbeat");
    let mine: bool = forger
        .query_one(others_name, &[])
        .await
        .expect("an answer")
        .get(0);
    assert!(!mine);
    forger
        .query("SELECT sluice.leave('leader')", &[])
        .await
        .expect("an answer");
    let lives = rows(
        &database.admin().await,
        "SELECT FROM ledger.live_instances WHERE service_id = 'leader'",
    )
    .await;
    assert_eq!(lives.len(), 1);
    // What it would need to know it cannot read.
    for attempt in [
        "SELECT lease_id FROM ledger.partition_leases",
        "SELECT lease_id FROM ledger.partition_progress",
        "SELECT * FROM ledger.partition_leases",
        "SELECT l FROM ledger.partition_leases l",
    ] {
        refused(&forger, WRITER, attempt).await;
    }
    let leases = |found: Vec<String>| -> Vec<String> {
        let mut found = found;
        found.retain(|line| !line.starts_with("ledger.ingester_instances "));
        found
    };
    assert_eq!(leases(fingerprint(&database).await), leases(before));
    batch
        .apply(&leader, led, 0, 1)
        .await
        .expect("the leader goes on");
}

/// Names of ours and of PostgreSQL's that a function would take by mistake, in a schema of the caller's.
const DECOYS: &str = "
    CREATE TABLE SCHEMA.account_balances (account_id bigint, shard_id int, currency_code text, available numeric, frozen numeric, updated_msec bigint);
    CREATE TABLE SCHEMA.partition_progress (partition_id int, fencing_token bigint, lease_id uuid, commit_offset bigint);
    CREATE TABLE SCHEMA.partition_leases (partition_id int, topic text, partition int);
    CREATE TABLE SCHEMA.dead_letters (id bigint);
    CREATE TABLE SCHEMA.pg_proc (oid oid);
    CREATE TABLE SCHEMA.event_handlers (event_type text, handler text);
    CREATE FUNCTION SCHEMA.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'deceived'; END $$;
    CREATE FUNCTION SCHEMA.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'deceived'; END $$;
    CREATE FUNCTION SCHEMA.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'deceived'; END $$;
    CREATE FUNCTION SCHEMA.count(text) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE 'deceived'; END $$;
    CREATE FUNCTION SCHEMA.sum(numeric) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN RAISE 'deceived'; END $$;
    CREATE FUNCTION SCHEMA.format(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'deceived'; END $$;
    CREATE FUNCTION SCHEMA.same(a text, b text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'deceived'; END $$;
    CREATE FUNCTION SCHEMA.same(a bigint, b bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'deceived'; END $$;
    CREATE FUNCTION SCHEMA.same(a int, b int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'deceived'; END $$;
    CREATE FUNCTION SCHEMA.same(a uuid, b uuid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'deceived'; END $$;
    CREATE OPERATOR SCHEMA.= (FUNCTION = SCHEMA.same, LEFTARG = text, RIGHTARG = text);
    CREATE OPERATOR SCHEMA.= (FUNCTION = SCHEMA.same, LEFTARG = bigint, RIGHTARG = bigint);
    CREATE OPERATOR SCHEMA.= (FUNCTION = SCHEMA.same, LEFTARG = int, RIGHTARG = int);
    CREATE OPERATOR SCHEMA.= (FUNCTION = SCHEMA.same, LEFTARG = uuid, RIGHTARG = uuid);
    CREATE DOMAIN SCHEMA.text AS pg_catalog.text CHECK (false);
    CREATE DOMAIN SCHEMA.\"interval\" AS pg_catalog.interval CHECK (false);";

#[tokio::test]
async fn a_callers_search_path_and_temporary_objects_deceive_nobody() {
    let database = Database::create().await;
    let (writer, admin) = (database.writer().await, database.member(ADMIN).await);
    let server = database.admin().await;
    // As an owner might have it: everybody creates what they like in public.
    server
        .batch_execute("CREATE SCHEMA decoys; GRANT ALL ON SCHEMA decoys TO PUBLIC")
        .await
        .expect("a schema");
    writer
        .batch_execute(&DECOYS.replace("SCHEMA", "decoys"))
        .await
        .expect("decoys");
    for client in [&writer, &admin] {
        client
            .batch_execute(&DECOYS.replace("SCHEMA", "pg_temp"))
            .await
            .expect("decoys");
        client
            .batch_execute("SET search_path = pg_temp, decoys, ledger, pg_catalog")
            .await
            .expect("a path");
    }
    // The callers' own words name what they mean.
    let acquire = "SELECT * FROM sluice.acquire_partition_lock('balance.changed'::pg_catalog.text, 0, 'a'::pg_catalog.text, '60 s'::pg_catalog.interval)";
    let leader = common::leader(0, &writer.query_one(acquire, &[]).await.expect("acquires"));
    let batch = Batch::default().event(0, "a", &[change(1, "10", "0")]);
    batch.apply(&writer, leader, 0, 1).await.expect("applies");
    assert_eq!(available(&database, 1).await.as_deref(), Some("10"));

    // As many as have arguments that a caller could give: each does what it does, or says what is wrong.
    let functions = "SELECT 'SELECT * FROM sluice.' || p.proname || '(' ||
            coalesce((SELECT string_agg(format('%L::pg_catalog.%s', CASE format_type(t, NULL)
                WHEN 'text' THEN 'balance.changed' WHEN 'interval' THEN '60 s' WHEN 'boolean' THEN 'true'
                WHEN 'uuid' THEN '00000000-0000-0000-0000-000000000000' WHEN 'timestamp with time zone' THEN '2020-01-01'
                WHEN 'jsonb' THEN '[{\"accountId\": 1, \"currencyCode\": \"USD\", \"availableDelta\": \"1\"}]' WHEN 'bytea' THEN '' ELSE
                CASE WHEN format_type(t, NULL) LIKE '%[]' THEN '{}' ELSE '0' END END,
                (SELECT CASE WHEN y.typelem <> 0 AND y.typlen = -1 THEN (SELECT e.typname || '[]' FROM pg_type e WHERE e.oid = y.typelem) ELSE y.typname END
                 FROM pg_type y WHERE y.oid = t)), ', ' ORDER BY n)
            FROM unnest(p.proargtypes) WITH ORDINALITY u (t, n)), '') || ')',
            has_function_privilege('sluice_writer', p.oid, 'EXECUTE')
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'sluice' AND (has_function_privilege('sluice_writer', p.oid, 'EXECUTE') OR has_function_privilege('sluice_admin', p.oid, 'EXECUTE'))
        ORDER BY 1";
    let functions = rows(&server, functions).await;
    assert!(functions.len() > 25);
    for function in functions {
        let (call, is_writers): (&str, bool) = (function.get(0), function.get(1));
        let caller = if is_writers { &writer } else { &admin };
        if let Err(error) = caller.simple_query(call).await {
            let answer = error
                .as_db_error()
                .unwrap_or_else(|| panic!("{call}: {error:?}"));
            assert_ne!(answer.message(), "deceived", "{call}: {answer:?}");
            let is_of_ours = ["22004", "22023", "42704", "42883", "55000"];
            assert!(
                is_of_ours.contains(&answer.code().code()),
                "{call}: {answer:?}"
            );
        }
    }
    for table in [
        "account_balances",
        "partition_progress",
        "partition_leases",
        "dead_letters",
        "event_handlers",
    ] {
        for schema in ["pg_temp", "decoys"] {
            let count = format!("SELECT 1 FROM {schema}.{table}");
            assert!(rows(&writer, &count).await.is_empty(), "{schema}.{table}");
        }
    }
    assert_eq!(available(&database, 1).await.as_deref(), Some("10"));
    database.assert_invariants().await;
}

#[tokio::test]
async fn a_handler_reaches_nothing_but_its_own_schema() {
    let database = Database::create().await;
    let server = database.admin().await;
    let (writer, admin) = (database.member(WRITER).await, database.member(ADMIN).await);
    let led = lead(&writer, 0, "leader").await;
    let batch = Batch::default().event(0, "a", &[change(1, "10", "0")]);
    batch.apply(&writer, led, 0, 1).await.expect("applies");
    let attempts = [
        "UPDATE ledger.account_balances SET available = 1000",
        "INSERT INTO ledger.staging_balance_changes VALUES ('x')",
        "DELETE FROM ledger.event_identities",
        "UPDATE ledger.partition_progress SET commit_offset = 0",
        "PERFORM FROM ledger.account_balances",
        "PERFORM sluice.apply_balance_changes('[]', 'x', false)",
        "PERFORM sluice.acquire_partition_lock('t', 0, 'x', interval '1 s')",
        "PERFORM sluice.register_handler('x', 'domain.evil')",
        "PERFORM sluice.call_handler('domain.evil', '{}', '{}', '{}', '{}', '{}', '{}')",
        "SET ROLE sluice_owner",
        "RESET ROLE",
        "SET SESSION AUTHORIZATION sluice_owner",
        "PERFORM set_config('role', 'sluice_owner', false)",
        "PERFORM set_config('session_authorization', 'postgres', false)",
        "PERFORM set_config('session_replication_role', 'replica', true)",
        "CREATE TABLE domain.mine (x int)",
        "CREATE FUNCTION domain.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE domain.users DISABLE TRIGGER ALL",
        "TRUNCATE domain.users",
        "DROP TABLE domain.users",
        "COPY domain.users TO PROGRAM 'cat'",
        "PERFORM pg_read_file('/etc/passwd')",
        "PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
        "COMMIT",
    ];
    let handler = |body: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION domain.evil(events domain.event[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN {body}; END $$"
        )
    };
    server
        .batch_execute(&handler("NULL"))
        .await
        .expect("a handler");
    let register = "SELECT sluice.register_handler('evil', 'domain.evil')";
    admin.batch_execute(register).await.expect("registered");
    let acquire =
        "SELECT * FROM sluice.acquire_partition_lock('evil', 0, 'leader', interval '60 s')";
    let row = writer.query_one(acquire, &[]).await.expect("acquires");
    let (token, lease): (i64, Uuid) = (row.get("fencing_token"), row.get("lease_id"));
    let money = "SELECT string_agg(b::text, ' ') FROM ledger.account_balances b";
    let before: String = rows(&server, money).await[0].get(0);
    for (attempt, offset) in attempts.into_iter().zip(0i64..) {
        server
            .batch_execute(&handler(attempt))
            .await
            .expect(attempt);
        let payload =
            format!(r#"{{"eventId":"e{offset}","eventType":"evil","data":{{}}}}"#).into_bytes();
        let apply = "SELECT dead FROM sluice.apply_event_batch('evil', 0, $1, $2, $3::bigint, $4, NULL, ARRAY[$3::bigint], '{0}', '{NULL}', ARRAY[$5::bytea], '{NULL}')";
        let applied = writer
            .query_one(apply, &[&token, &lease, &offset, &(offset + 1), &payload])
            .await
            .unwrap_or_else(|error| panic!("{attempt}: {error:?}"));
        assert_eq!(applied.get::<_, i64>(0), 1, "a handler may: {attempt}");
    }
    assert_eq!(rows(&server, money).await[0].get::<_, String>(0), before);
    let letters = "SELECT error_code, error_message FROM ledger.dead_letters WHERE topic = 'evil'";
    let letters = rows(&server, letters).await;
    assert_eq!(letters.len(), attempts.len());
    for letter in letters {
        assert_eq!(letter.get::<_, &str>(0), "HANDLER_FAILED");
    }
    database.assert_invariants().await;
}
