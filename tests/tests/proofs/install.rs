//! What `sluice migrate` leaves in a database, as people meet it.

use proofs::database::Database;
use proofs::stack::Stack;

/// So that `\\d+`, `\\df+` and `\\du+` teach.
#[tokio::test(flavor = "multi_thread")]
async fn every_schema_role_table_view_column_and_function_has_a_comment() {
    let database = Database::create(&Stack::get()).await;
    const BARE: &str = "
        WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname IN ('sluice', 'ledger', 'domain'))
        SELECT 'schema ' || oid::regnamespace FROM ours WHERE obj_description(oid, 'pg_namespace') IS NULL
        UNION ALL SELECT 'role ' || rolname FROM pg_roles
        WHERE rolname LIKE 'sluice\\_%' AND NOT rolcanlogin AND shobj_description(oid, 'pg_authid') IS NULL
        UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class
        WHERE relnamespace IN (SELECT oid FROM ours) AND relkind IN ('r', 'v') AND obj_description(oid, 'pg_class') IS NULL
        UNION ALL SELECT 'column ' || c.oid::regclass || '.' || a.attname
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace IN (SELECT oid FROM ours) AND c.relkind IN ('r', 'v', 'c') AND col_description(c.oid, a.attnum) IS NULL
        UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc
        WHERE pronamespace IN (SELECT oid FROM ours) AND obj_description(oid, 'pg_proc') IS NULL
        ORDER BY 1";
    let rows = database.client.query(BARE, &[]).await.expect("catalogs");
    let bare: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(bare.is_empty(), "{}", bare.join("\n"));
}
