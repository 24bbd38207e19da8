//! Whether the database has the extension and the tables that this binary was built for,
//! and how it gets them.

use std::cmp::Ordering;
use std::path::Path;

pub use refinery::Migration;
use refinery::error::Kind;
use refinery::{Runner, load_sql_migrations};
use tokio_postgres::Client;

use crate::postgres::error::describe;
use crate::schema::objects;
use crate::words::{cause, of_io};

mod embedded {
    refinery::embed_migrations!("../migrations");
}

/// The extension's version that goes with this binary.
pub const EXTENSION_VERSION: &str = env!("CARGO_PKG_VERSION");
pub const HISTORY_TABLE: &str = "ledger.schema_history";
/// Where it stands which migrations of the platform's own were applied.
const OWN_HISTORY: &str = "ledger.own_schema_history";
const RUN_MIGRATE: &str = "run `sluice migrate` with ADMIN_DATABASE_URL";

pub fn runner() -> Runner {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY_TABLE);
    runner
}

/// The migrations of this binary in their order, each with whether the database has it.
pub async fn migrations(client: &Client) -> Result<Vec<(Migration, bool)>, tokio_postgres::Error> {
    let mut migrations = runner().get_migrations().clone();
    migrations.sort();
    let applied: Vec<i64> = match level(client).await? {
        None => Vec::new(),
        Some(_) => {
            let versions = "SELECT version::bigint FROM ledger.schema_history";
            let rows = client.query(versions, &[]).await?;
            rows.iter().map(|row| row.get(0)).collect()
        }
    };
    let is_applied = |migration: &Migration| applied.contains(&migration.version().into());
    Ok(migrations
        .into_iter()
        .map(|migration| {
            let is_applied = is_applied(&migration);
            (migration, is_applied)
        })
        .collect())
}

/// The texts of the migrations of this binary, in their order.
pub fn texts() -> Vec<String> {
    let mut migrations = runner().get_migrations().clone();
    migrations.sort();
    let texts = migrations.iter().filter_map(Migration::sql);
    texts.map(str::to_owned).collect()
}

/// What this binary needs and the database lacks, each with what to do about it.
pub async fn missing(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    objects::missing(client, &texts()).await
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

/// What refinery does with a migration, with another text: both of them, migration and record of it, or none.
pub async fn run_in_part(
    client: &mut Client,
    migration: &Migration,
    text: &str,
) -> Result<(), tokio_postgres::Error> {
    let record = format!(
        "INSERT INTO {} (version, name, applied_on, checksum)
         VALUES ($1::text::int, $2, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), $3)",
        HISTORY_TABLE
    );
    let (version, checksum) = (
        migration.version().to_string(),
        migration.checksum().to_string(),
    );
    let transaction = client.transaction().await?;
    transaction.batch_execute(text).await?;
    transaction
        .execute(&record, &[&version, &migration.name(), &checksum])
        .await?;
    transaction.commit().await
}

/// The platform's own migrations, which Sluice runs and knows nothing of.
pub fn own_runner(folder: &Path) -> Result<Runner, String> {
    let shown = folder.display();
    let files =
        std::fs::read_dir(folder).map_err(|error| format!("--also {shown}: {}", of_io(&error)))?;
    let migrations = load_sql_migrations(folder)
        .map_err(|error| format!("--also {shown}: {}", words(&error)))?;
    let known: Vec<String> = migrations
        .iter()
        .map(|migration| format!("{migration}.sql"))
        .collect();
    for file in files {
        let name = file
            .map_err(|error| format!("--also {shown}: {}", of_io(&error)))?
            .file_name();
        let name = name.to_string_lossy();
        // A file that would be passed over is not what its writer meant.
        if name.ends_with(".sql") && !known.iter().any(|known| *known == name) {
            return Err(format!(
                "--also {shown}: {name} has no name such as V1__own_tables.sql"
            ));
        }
    }
    if migrations.is_empty() {
        return Err(format!(
            "--also {shown}: no file there has a name such as V1__own_tables.sql"
        ));
    }
    let mut runner = Runner::new(&migrations);
    runner.set_migration_table_name(OWN_HISTORY);
    Ok(runner)
}

/// What stopped a run of migrations.
pub fn words(error: &refinery::Error) -> String {
    match error.kind() {
        Kind::Connection(doing, failed) => {
            let doing = doing.trim_start_matches("error ").replace('`', "");
            let what = match doing.strip_prefix("applying migration ") {
                Some(migration) => {
                    format!("migration {}", migration.trim_end_matches(", aborting"))
                }
                None => "migrations".to_owned(),
            };
            match cause::<tokio_postgres::Error>(failed.as_ref()) {
                Some(error) => format!("{what}: {}", describe(error)),
                None => format!("{what}: PostgreSQL gave no usable answer"),
            }
        }
        Kind::DivergentVersion(applied, ours) => format!(
            "migration {ours} differs from {applied}, which this database has: a file must not be changed once it was applied"
        ),
        Kind::MissingVersion(applied) => format!(
            "this database has migration {applied}, which is not there any more: use the version that applied it"
        ),
        Kind::RepeatedVersion(migration) => {
            format!("two migrations have the number of {migration}")
        }
        Kind::InvalidMigrationPath(path, error) | Kind::InvalidMigrationFile(path, error) => {
            format!("{}: {}", path.display(), of_io(error))
        }
        Kind::InvalidName | Kind::InvalidVersion => {
            "a file has no name such as V1__own_tables.sql".to_owned()
        }
        Kind::ConfigError(_) => "the settings of migrations cannot be read".to_owned(),
    }
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
        Some((level, _)) if level == newest() => match missing(client).await? {
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
