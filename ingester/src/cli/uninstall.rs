//! `sluice uninstall`: removes all that `sluice migrate` made, after it has said what that is.

use tokio_postgres::{Client, Transaction};

use crate::cli::migrate::{PATIENCE, lock};
use crate::cli::output::{open, write_line};
use crate::config::database::DatabaseArgs;
use crate::postgres::error::describe;

#[derive(clap::Args, Default)]
pub struct Consent {
    /// Remove it; without this it says what would be removed, and changes nothing
    #[arg(long)]
    yes: bool,
    /// Remove what others have made on top of it as well, such as views and handlers in schemas of their own
    #[arg(long)]
    cascade: bool,
}

/// Those that this command removes with everything in them.
const SCHEMAS: [&str; 3] = ["domain", "ledger", "sluice"];
const ROLES: [&str; 5] = [
    "sluice_admin",
    "sluice_handler",
    "sluice_reader",
    "sluice_writer",
    "sluice_owner",
];

/// Ingesters: their sessions are named after them.
const RUNNING: &str = "
    SELECT DISTINCT a.application_name FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.application_name LIKE 'sluice/%' AND a.pid <> pg_backend_pid()
    ORDER BY 1";
const THERE: &str = "
    SELECT n.nspname::text, count(c.oid) FILTER (WHERE c.relkind = 'r'), pg_size_pretty(coalesce(sum(pg_total_relation_size(c.oid))
        FILTER (WHERE c.relkind = 'r'), 0))
    FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid
    WHERE n.nspname = ANY ($1) GROUP BY 1 ORDER BY 1";
/// What DROP … CASCADE takes along is noted where it happens, for PostgreSQL's own notices stop at a hundred.
const NOTE: &str = "
    CREATE TEMPORARY TABLE sluice_dropped (schema text, kind text, identity text) ON COMMIT DROP;
    CREATE FUNCTION pg_temp.note_dropped() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO pg_temp.sluice_dropped
        SELECT d.schema_name, d.object_type, d.object_identity FROM pg_event_trigger_dropped_objects() d
        WHERE NOT d.is_temporary;
    END
    $$;
    CREATE EVENT TRIGGER sluice_note_dropped ON sql_drop EXECUTE FUNCTION pg_temp.note_dropped()";
/// Of others: in a schema of theirs, or a schema or an extension itself. What belongs to a relation is told with it.
const OTHERS: &str = "
    SELECT DISTINCT kind || ' ' || identity FROM pg_temp.sluice_dropped
    WHERE CASE WHEN kind IN ('schema', 'extension') THEN identity <> ALL ($1)
            WHEN schema IS NULL THEN kind NOT IN ('default acl', 'rule')
            ELSE schema <> ALL ($1) AND schema NOT LIKE 'pg_toast%' END
        AND kind NOT IN ('index', 'type', 'toast table', 'rule', 'default value', 'sequence')
    ORDER BY 1";
/// Roles are the server's: one that another database has granted something, or that owns something there, stays.
const NEEDED: &str = "
    SELECT DISTINCT d.datname::text FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
    WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = to_regrole($1)
        AND d.datname <> current_database() ORDER BY 1";

pub async fn uninstall(arguments: &DatabaseArgs, consent: &Consent) -> Result<(), String> {
    let database = arguments.admin("sluice uninstall").map_err(|bad| bad.0)?;
    let told = |error: tokio_postgres::Error| describe(&error);
    let mut client = open(
        &database,
        arguments.admin_setting(),
        2 * arguments.connection_timeout(),
    )
    .await?;
    lock(&client).await.map_err(told)?;
    client.batch_execute(PATIENCE).await.map_err(told)?;
    let running = client.query(RUNNING, &[]).await.map_err(told)?;
    if !running.is_empty() {
        let names: Vec<&str> = running.iter().map(|row| row.get(0)).collect();
        return Err(format!(
            "ingesters work in this database ({}): stop them first; nothing was changed",
            names.join(", ")
        ));
    }
    let found = there(&client).await.map_err(told)?;
    if found.is_empty() {
        return write_line("nothing of Sluice is in this database");
    }
    let transaction = client.transaction().await.map_err(told)?;
    // Done in any case, so that what it would take along is known and not guessed; undone where it is not wanted.
    let roles = remove(&transaction).await.map_err(told)?;
    let others = transaction.query(OTHERS, &[&SCHEMAS.as_slice()]).await;
    let others = others.map_err(told)?;
    let others: Vec<String> = others.iter().map(|row| row.get(0)).collect();
    let verb = if consent.yes {
        "removed"
    } else {
        "would remove"
    };
    let tell = || {
        let all = found.iter().chain(&roles.removed);
        let all = all.map(|what| format!("{verb} {what}"));
        let kept = roles.kept.iter().map(|what| format!("kept {what}"));
        let others = others
            .iter()
            .map(|what| format!("{verb} {what}, which others have made on top of it"));
        all.chain(others)
            .chain(kept)
            .try_for_each(|line| write_line(&line))
    };
    if !consent.yes {
        transaction.rollback().await.map_err(told)?;
        tell()?;
        return write_line("a dry run: nothing was changed; --yes removes it, for good");
    }
    if !others.is_empty() && !consent.cascade {
        return Err(format!(
            "others have made something on top of it: {}. Nothing was changed: remove it first, or say --cascade",
            others.join(", ")
        ));
    }
    transaction.commit().await.map_err(told)?;
    tell()
}

/// What there is to remove, with its size.
async fn there(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let schemas = client.query(THERE, &[&SCHEMAS.as_slice()]).await?;
    let schemas = schemas.iter().map(|row| {
        let (name, tables, size): (&str, i64, &str) = (row.get(0), row.get(1), row.get(2));
        match tables {
            0 => format!("schema {name}"),
            _ => format!("schema {name} with {tables} tables ({size})"),
        }
    });
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'sluice'";
    let extension = client.query_opt(version, &[]).await?;
    let extension = extension.map(|row| format!("extension sluice {}", row.get::<_, &str>(0)));
    Ok(schemas.chain(extension).collect())
}

struct Roles {
    removed: Vec<String>,
    kept: Vec<String>,
}

async fn remove(transaction: &Transaction<'_>) -> Result<Roles, tokio_postgres::Error> {
    transaction.batch_execute(NOTE).await?;
    for schema in ["domain", "ledger"] {
        let drop = format!("DROP SCHEMA IF EXISTS {schema} CASCADE");
        transaction.batch_execute(&drop).await?;
    }
    let extension = "DROP EXTENSION IF EXISTS sluice CASCADE; DROP SCHEMA IF EXISTS sluice CASCADE";
    transaction.batch_execute(extension).await?;
    let mut roles = Roles {
        removed: Vec::new(),
        kept: Vec::new(),
    };
    for role in ROLES {
        let exists = "SELECT to_regrole($1) IS NOT NULL";
        let exists = transaction.query_one(exists, &[&role]).await?;
        if !exists.get::<_, bool>(0) {
            continue;
        }
        let needed = transaction.query(NEEDED, &[&role]).await?;
        let databases: Vec<&str> = needed.iter().map(|row| row.get(0)).collect();
        if databases.is_empty() {
            let drop = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
            transaction.batch_execute(&drop).await?;
            roles.removed.push(format!("role {role}"));
        } else {
            // DROP OWNED would take rights on other databases along, too.
            let reset = format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {role} GRANT EXECUTE ON FUNCTIONS TO PUBLIC"
            );
            transaction.batch_execute(&reset).await?;
            let databases = databases.join(", ");
            roles
                .kept
                .push(format!("role {role}, which is needed in {databases}"));
        }
    }
    transaction
        .batch_execute(
            "DROP EVENT TRIGGER sluice_note_dropped; DROP FUNCTION pg_temp.note_dropped()",
        )
        .await?;
    Ok(roles)
}
