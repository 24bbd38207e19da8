//! Whether the database has the extension and the tables that this binary was built for,
//! and how it gets them.

use std::cmp::Ordering;

use refinery::Migration;
use tokio_postgres::Client;

use crate::objects;

mod embedded {
    refinery::embed_migrations!("../migrations");
}

/// The extension's version that goes with this binary.
pub const EXTENSION_VERSION: &str = env!("CARGO_PKG_VERSION");
pub const HISTORY_TABLE: &str = "ledger.schema_history";
const RUN_MIGRATE: &str = "run `sluice migrate` with ADMIN_DATABASE_URL";

pub fn runner() -> refinery::Runner {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY_TABLE);
    runner
}

/// The newest migration that this binary knows.
pub fn newest() -> i64 {
    runner()
        .get_migrations()
        .iter()
        .map(Migration::version)
        .max()
        .unwrap_or(0)
        .into()
}

/// The database's newest migration, with its name; `None` before the first.
pub async fn level(client: &Client) -> Result<Option<(i64, String)>, tokio_postgres::Error> {
    let exists = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&HISTORY_TABLE])
        .await?;
    if !exists.get::<_, bool>(0) {
        return Ok(None);
    }
    let newest = "SELECT version::bigint, name::text FROM ledger.schema_history ORDER BY version DESC LIMIT 1";
    Ok(client
        .query_opt(newest, &[])
        .await?
        .map(|row| (row.get(0), row.get(1))))
}

pub async fn extension(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'sluice'";
    Ok(client.query_opt(version, &[]).await?.map(|row| row.get(0)))
}

/// One line for a database that a newer binary migrated.
pub fn too_new(level: i64, name: &str) -> String {
    format!(
        "the database was migrated by a newer sluice (migration {level} {name}; this binary knows up to {}): use that version",
        newest()
    )
}

/// Why this binary cannot work with this database, and what to do.
pub enum Misfit {
    /// `sluice migrate` mends it: worth waiting for.
    Behind(String),
    Wrong(String),
}

/// Whether this login can work with this database.
pub async fn fits(client: &Client) -> Result<Result<(), Misfit>, tokio_postgres::Error> {
    let Some(version) = extension(client).await? else {
        return Ok(Err(Misfit::Wrong(format!(
            "the extension sluice is not in this database: {RUN_MIGRATE}"
        ))));
    };
    match numbers(&version).cmp(&numbers(EXTENSION_VERSION)) {
        Ordering::Less => {
            return Ok(Err(Misfit::Behind(format!(
                "the extension is of version {version}, this binary wants {EXTENSION_VERSION}: {RUN_MIGRATE}"
            ))));
        }
        Ordering::Greater => {
            return Ok(Err(Misfit::Wrong(format!(
                "the extension is of version {version}, this binary of {EXTENSION_VERSION}: use that version of sluice"
            ))));
        }
        Ordering::Equal => {}
    }
    let writer = "SELECT pg_has_role('sluice_writer', 'USAGE')";
    if !client.query_one(writer, &[]).await?.get::<_, bool>(0) {
        let user: String = client
            .query_one("SELECT current_user::text", &[])
            .await?
            .get(0);
        return Ok(Err(Misfit::Wrong(format!(
            "the login {user} is no member of sluice_writer: GRANT sluice_writer TO {user}"
        ))));
    }
    Ok(match level(client).await? {
        Some((level, name)) if level > newest() => Err(Misfit::Wrong(too_new(level, &name))),
        Some((level, _)) if level == newest() => match objects::missing(client).await? {
            missing if missing.is_empty() => Ok(()),
            missing => Err(Misfit::Wrong(missing.join("; "))),
        },
        level => Err(Misfit::Behind(format!(
            "the tables are at migration {} of {}: {RUN_MIGRATE}",
            level.map_or(0, |(level, _)| level),
            newest()
        ))),
    })
}

/// A version as it is ordered.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split('.');
    parts.map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        assert!(numbers("0.10.0") > numbers("0.9.12"));
        assert!(numbers("1.0.0") > numbers("0.10.0"));
        assert_eq!(numbers("0.5.0"), numbers("0.5.0"));
    }
}
