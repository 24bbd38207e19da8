//! Looks before `sluice migrate` touches anything: a schema or a role that has one of Sluice's names and is somebody else's.

use tokio_postgres::Client;

use crate::postgres::error::describe;
use crate::schema::migrations::Standing;

/// Schemas that somebody else has: in a database that Sluice's tables are not in, any `ledger` or `domain`. What an
/// interrupted migration left is of sluice_owner, and has no table but histories; what DROP EXTENSION left of schema `sluice` is empty.
const SCHEMAS: &str = "
    SELECT n.nspname::text, n.nspowner::regrole::text, c.objects
    FROM pg_namespace n
    CROSS JOIN LATERAL (
        SELECT (SELECT count(*) FROM pg_class c WHERE c.relnamespace = n.oid)
            + (SELECT count(*) FROM pg_proc p WHERE p.pronamespace = n.oid)
            + (SELECT count(*) FROM pg_type t WHERE t.typnamespace = n.oid) AS objects
    ) c
    WHERE n.nspname = 'domain'
        OR n.nspname = 'ledger' AND (n.nspowner::regrole::text <> 'sluice_owner' OR EXISTS (
            SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname NOT LIKE '%schema\\_history%'))
        OR n.nspname = 'sluice' AND c.objects > 0 AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'sluice')
    ORDER BY 1";
/// Roles are shared by all databases of a server, and those of Sluice can do nothing but what they are granted.
const ROLES: &str = "
    SELECT r.rolname::text, concat_ws(', ', CASE WHEN r.rolcanlogin THEN 'it may log in' END,
        CASE WHEN r.rolsuper THEN 'it is a superuser' END, CASE WHEN r.rolcreaterole THEN 'it may make roles' END,
        CASE WHEN r.rolcreatedb THEN 'it may make databases' END, CASE WHEN r.rolreplication THEN 'it may replicate' END,
        CASE WHEN r.rolbypassrls THEN 'it bypasses row level security' END)
    FROM pg_roles r
    WHERE r.rolname IN ('sluice_owner', 'sluice_writer', 'sluice_reader', 'sluice_admin', 'sluice_handler')
        AND (r.rolcanlogin OR r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls)
    ORDER BY 1";

/// One sentence where something of Sluice's names is somebody else's. It only looks.
pub async fn refuse(client: &Client, standing: &Standing) -> Result<(), String> {
    let told = |error: tokio_postgres::Error| describe(&error);
    if *standing != Standing::Empty {
        return Ok(());
    }
    let schemas = client.query(SCHEMAS, &[]).await.map_err(told)?;
    let schemas = schemas.iter().map(|row| {
        let (name, owner, objects): (&str, &str, i64) = (row.get(0), row.get(1), row.get(2));
        format!("schema {name} of {owner} with {objects} objects")
    });
    let roles = client.query(ROLES, &[]).await.map_err(told)?;
    let roles = roles.iter().map(|row| {
        let (name, why): (&str, &str) = (row.get(0), row.get(1));
        format!("role {name} ({why})")
    });
    let found: Vec<String> = schemas.chain(roles).collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(format!(
        "not Sluice's, although it has a name that Sluice needs: {}. Nothing was changed: rename it, or give Sluice a database \
         (for a role: a server) of its own",
        found.join("; ")
    ))
}
