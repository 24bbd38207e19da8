//! What `sluice check` sees of PostgreSQL: the server, the extension and its objects, and what the ingester's login may do.

use tokio_postgres::{Client, Error};

use super::findings::Findings;
use crate::postgres::error::{STANDBY, describe};
use crate::schema::migrations as schema;

pub(super) async fn look(client: &Client, findings: &mut Findings) -> Result<(), Error> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::int,
                current_setting('synchronous_commit'), current_setting('fsync'),
                CASE WHEN pg_is_in_recovery() THEN 'standby' WHEN current_setting('transaction_read_only') = 'on' THEN 'read-only'
                    ELSE 'primary' END, current_user::text",
            &[],
        )
        .await?;
    let user: String = row.get(5);
    findings.test(
        "server version",
        row.get::<_, &str>(0),
        row.get::<_, i32>(1) >= 150_000,
        "PostgreSQL 15 or newer is needed",
    );
    let durable: &str = row.get(2);
    findings.test(
        "synchronous_commit",
        durable,
        !["off", "local"].contains(&durable),
        "set it to on",
    );
    findings.test(
        "fsync",
        row.get::<_, &str>(3),
        row.get::<_, &str>(3) == "on",
        "set it to on, or a crash loses money",
    );
    findings.test(
        "role of the server",
        row.get::<_, &str>(4),
        row.get::<_, &str>(4) == "primary",
        STANDBY,
    );
    let version = schema::extension(client).await?;
    let wanted = schema::EXTENSION_VERSION;
    findings.test(
        "extension sluice",
        version.as_deref().unwrap_or("missing"),
        version.as_deref() == Some(wanted),
        &format!("run `sluice migrate`: this binary wants {wanted}"),
    );
    match schema::standing(client).await {
        Ok(standing) => {
            let (level, advice) = standing.told();
            findings.test(
                "migrations",
                format!("{level} of {}", schema::newest()),
                standing.is_newest(),
                &advice,
            );
        }
        Err(error) => findings.fails(
            "migrations",
            "not readable",
            &format!(
                "GRANT sluice_writer TO {user}; PostgreSQL said: {}",
                describe(&error)
            ),
        ),
    }
    privileges(client, &user, version.is_some(), findings).await
}

async fn privileges(
    client: &Client,
    user: &str,
    installed: bool,
    findings: &mut Findings,
) -> Result<(), Error> {
    if !installed {
        return Ok(());
    }
    let may: bool = client
        .query_one("SELECT pg_has_role('sluice_writer', 'USAGE')", &[])
        .await?
        .get(0);
    findings.test(
        "role sluice_writer",
        user,
        may,
        &format!("GRANT sluice_writer TO {user}"),
    );
    let missing = schema::missing(client).await?;
    findings.test(
        "functions, views, triggers, columns, grants",
        match missing.len() {
            0 => "all there".to_owned(),
            count => format!("{count} missing"),
        },
        missing.is_empty(),
        &missing.join("; "),
    );
    let tables = "SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relnamespace = to_regnamespace('ledger') AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
            AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') ORDER BY 1";
    let open: Vec<String> = client
        .query(tables, &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let found = if open.is_empty() {
        "functions only".to_owned()
    } else {
        format!("may write {}", open.join(", "))
    };
    findings.test(
        "least privilege",
        found,
        open.is_empty(),
        "let the ingester log in as a plain member of sluice_writer",
    );
    other_writers(client, &missing, findings).await
}

/// What Sluice relies on: that nobody else writes its tables.
async fn other_writers(
    client: &Client,
    missing: &[String],
    findings: &mut Findings,
) -> Result<(), Error> {
    // Said already.
    if missing
        .iter()
        .any(|missing| missing.contains("other_writers"))
    {
        return Ok(());
    }
    let writers = "SELECT kind, writer, writes FROM sluice.other_writers()";
    let rows = client.query(writers, &[]).await?;
    if rows.is_empty() {
        findings.fits("only writer", "nobody else");
    }
    for row in &rows {
        let (kind, writer, writes): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let advice = match kind {
            "login" => format!(
                "REVOKE its right, also roles that it is a member of, unless it is yours: {writer} can change things by the functions of schema sluice"
            ),
            // Known by the text of its function alone.
            "trigger" => "drop it, unless it never writes there".to_owned(),
            _ => format!("drop the {kind}"),
        };
        findings.note(
            "only writer",
            format!("{kind} {writer} ({writes})"),
            &advice,
        );
    }
    Ok(())
}
