//! What each role may not do, tried. Needs the services of `make test`.

mod common;

use common::{Batch, Database, available, change, lead};

async fn tables(database: &Database) -> Vec<String> {
    let statement = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'ledger' AND c.relkind IN ('r', 'v', 'p') ORDER BY 1";
    let rows = database
        .admin()
        .await
        .query(statement, &[])
        .await
        .expect("catalog");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn the_writer_can_change_no_ledger_table() {
    let database = Database::create().await;
    let admin = database.admin().await;
    let tables = tables(&database).await;
    assert!(tables.len() > 8, "{tables:?}");
    for table in tables {
        for privilege in [
            "INSERT",
            "UPDATE",
            "DELETE",
            "TRUNCATE",
            "REFERENCES",
            "TRIGGER",
        ] {
            if table.ends_with("staging_balance_changes") && privilege == "INSERT" {
                continue;
            }
            let statement = "SELECT has_table_privilege('sluice_writer', $1, $2)";
            let may: bool = admin
                .query_one(statement, &[&table, &privilege])
                .await
                .expect("asked")
                .get(0);
            assert!(!may, "sluice_writer may {privilege} on {table}");
        }
    }
    let writer = database.writer().await;
    for attempt in [
        "INSERT INTO ledger.account_balances VALUES (1, 0, 'USD', 1000, 0, 0)",
        "UPDATE ledger.partition_progress SET fencing_token = 9",
        "DELETE FROM ledger.event_identities",
        "TRUNCATE ledger.staging_balance_changes",
        "ALTER TABLE ledger.staging_balance_changes DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "CREATE TABLE ledger.mine (x int)",
        "CREATE FUNCTION sluice.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET ROLE sluice_owner",
    ] {
        let error = writer.batch_execute(attempt).await.expect_err(attempt);
        assert_eq!(
            error.code().map(|code| code.code()),
            Some("42501"),
            "{attempt}: {error}"
        );
    }
}

#[tokio::test]
async fn public_has_nothing() {
    let database = Database::create().await;
    let admin = database.admin().await;
    let functions = "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace,
            LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        WHERE n.nspname = 'sluice' AND a.grantee = 0";
    let relations = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
            LATERAL aclexplode(c.relacl) a
        WHERE n.nspname = 'ledger' AND a.grantee = 0";
    for statement in [functions, relations] {
        assert_eq!(
            admin
                .query_one(statement, &[])
                .await
                .expect("catalog")
                .get::<_, i64>(0),
            0,
            "{statement}"
        );
    }
    let definers =
        "SELECT p.proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'sluice' AND p.prorettype <> 'trigger'::regtype
            AND NOT (p.prosecdef AND obj_description(p.oid) IS NOT NULL AND CASE
                -- Handlers run as a role that has no ledger.
                WHEN p.proname = 'call_handler' THEN p.proowner = 'sluice_handler'::regrole
                    AND 'search_path=pg_catalog, domain, pg_temp' = ANY (p.proconfig)
                ELSE p.proowner = 'sluice_owner'::regrole AND 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig)
            END)";
    let rows = admin.query(definers, &[]).await.expect("catalog");
    assert!(
        rows.is_empty(),
        "{:?}",
        rows.iter()
            .map(|row| row.get::<_, String>(0))
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_callers_search_path_and_temporary_objects_deceive_nobody() {
    let database = Database::create().await;
    let writer = database.writer().await;
    writer
        .batch_execute(
            "CREATE TEMP TABLE account_balances (account_id bigint, shard_id int, currency_code text,
                 available numeric, frozen numeric, updated_msec bigint);
             CREATE TEMP TABLE partition_progress (partition_id int);
             CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
                 $$ SELECT timestamptz '1970-01-01' $$;
             SET search_path = pg_temp, ledger, pg_catalog;",
        )
        .await
        .expect("decoys");
    let leader = lead(&writer, 0, "a").await;
    let batch = Batch::default().event(0, "a", &[change(1, "10", "0")]);
    batch.apply(&writer, leader, 0, 1).await.expect("applies");
    assert_eq!(available(&database, 1).await.as_deref(), Some("10"));
    let decoys = writer
        .query_one("SELECT count(*) FROM pg_temp.account_balances", &[])
        .await
        .expect("count");
    assert_eq!(decoys.get::<_, i64>(0), 0);
}
