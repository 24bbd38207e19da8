//! Lines of migrations, each with a history of its own in schema `ledger`: Sluice's tables, the bridge that leads to them
//! from version 0.6.0, and one line for each family of event types.

use std::path::Path;

pub use refinery::Migration;
use refinery::error::Kind;
use refinery::{Runner, load_sql_migrations};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Transaction};

use crate::postgres::error::describe;
use crate::schema::shipped;
use crate::words::{cause, of_io};

mod tables {
    refinery::embed_migrations!("../migrations");
}
mod bridge {
    refinery::embed_migrations!("../bridge");
}
mod platform {
    refinery::embed_migrations!("../families/platform/migrations");
}

/// Where the migrations of a family stand in its folder.
const FOLDER: &str = "migrations";
const PLATFORM: &str = "platform";

pub struct Line {
    /// Of the family; `None` for what is Sluice's own.
    pub family: Option<String>,
    migrations: Vec<Migration>,
    /// Whether the history has migrations that are not of this line, which the runner would take for lost ones.
    is_part: bool,
}

impl Line {
    fn new(family: Option<&str>, mut migrations: Vec<Migration>) -> Self {
        migrations.sort();
        Self {
            family: family.map(str::to_owned),
            migrations,
            is_part: false,
        }
    }

    pub fn of_tables() -> Self {
        Self::new(None, tables::migrations::runner().get_migrations().clone())
    }

    /// Shares the history of the tables, whose first migrations it does not know any more.
    pub fn of_bridge() -> Self {
        let migrations = bridge::migrations::runner().get_migrations().clone();
        Self {
            is_part: true,
            ..Self::new(None, migrations)
        }
    }

    /// The family that comes with Sluice.
    pub fn of_platform() -> Self {
        let migrations = platform::migrations::runner().get_migrations().clone();
        Self::new(Some(PLATFORM), migrations)
    }

    /// A family in a folder of somebody's own, which gives it its name.
    pub fn of_family(folder: &Path) -> Result<Self, String> {
        let shown = folder.display();
        let named = folder.canonicalize();
        let named = named.map_err(|error| format!("--family {shown}: {}", of_io(&error)))?;
        let name = named.file_name().unwrap_or_default().to_string_lossy();
        let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.len() <= 40
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_plain || ["own", PLATFORM].contains(&name.as_ref()) {
            return Err(format!(
                "--family {shown}: the folder's name is the family's: at most 40 small letters, digits and _, not own or platform"
            ));
        }
        let migrations = load("--family", &folder.join(FOLDER))?;
        Ok(Self::new(Some(&name), migrations))
    }

    /// Migrations of somebody's own, without the form of a family.
    pub fn of_own(folder: &Path) -> Result<Self, String> {
        Ok(Self::new(Some("own"), load("--also", folder)?))
    }

    /// Whether it does not come with Sluice.
    pub fn is_of_somebody(&self) -> bool {
        self.family
            .as_deref()
            .is_some_and(|family| family != PLATFORM)
    }

    pub fn history(&self) -> String {
        match &self.family {
            None => "ledger.schema_history".into(),
            Some(family) => format!("ledger.{family}_schema_history"),
        }
    }

    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.migrations.iter().filter_map(Migration::sql)
    }

    pub fn first(&self) -> Option<&Migration> {
        self.migrations.first()
    }

    pub fn newest(&self) -> i64 {
        self.migrations
            .last()
            .map_or(0, |last| last.version().into())
    }

    /// The newest migration in the history, with its name; 0 before the first, `None` where there is no history.
    pub async fn level(
        &self,
        client: &Client,
    ) -> Result<Option<(i64, String)>, tokio_postgres::Error> {
        let history = self.history();
        let exists = "SELECT to_regclass($1) IS NOT NULL";
        let row = client.query_one(exists, &[&history]).await?;
        if !row.get::<_, bool>(0) {
            return Ok(None);
        }
        let newest = format!(
            "SELECT version::bigint, name::text FROM {history} ORDER BY version DESC LIMIT 1"
        );
        let row = client.query_opt(&newest, &[]).await?;
        let level = row.map(|row| (row.get(0), row.get(1)));
        Ok(Some(level.unwrap_or((0, "none".into()))))
    }

    /// The texts of the migrations that a database has, and of those that it has not.
    pub async fn parted<'l>(
        &'l self,
        client: &Client,
    ) -> Result<(Vec<&'l str>, Vec<&'l str>), tokio_postgres::Error> {
        let applied = self.applied(client).await?;
        let (has, lacks): (Vec<&'l Migration>, Vec<&'l Migration>) = self
            .migrations
            .iter()
            .partition(|migration| applied.contains(&migration.version().into()));
        let texts =
            |migrations: Vec<&'l Migration>| migrations.into_iter().filter_map(Migration::sql);
        Ok((texts(has).collect(), texts(lacks).collect()))
    }

    async fn applied(&self, client: &Client) -> Result<Vec<i64>, tokio_postgres::Error> {
        if self.level(client).await?.is_none() {
            return Ok(Vec::new());
        }
        let versions = format!("SELECT version::bigint FROM {}", self.history());
        let rows = client.query(&versions, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Makes the history: from then on the database is to have the line, whatever interrupts its migrations.
    pub async fn begin(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        match self.level(client).await? {
            None => client.batch_execute(&self.creation()).await,
            Some(_) => Ok(()),
        }
    }

    /// Applies what a database lacks, without the statements that write functions to be kept; answers what it applied.
    pub async fn run(
        &self,
        client: &mut Client,
        keep: &[String],
    ) -> Result<Vec<Migration>, String> {
        let mut ran = Vec::new();
        let told = |error: tokio_postgres::Error| describe(&error);
        if self.is_part || !keep.is_empty() {
            let applied = self.applied(client).await.map_err(told)?;
            let lacking = |migration: &&Migration| !applied.contains(&migration.version().into());
            for migration in self.migrations.iter().filter(lacking) {
                let text = migration.sql().unwrap_or_default();
                let kept = shipped::functions([text]).into_values();
                let kept = kept.filter(|function| keep.iter().any(|name| name == function.name));
                let rest = kept.fold(text.to_owned(), |rest, function| {
                    rest.replacen(function.statement, "", 1)
                });
                let done = self.run_in_part(client, migration, &rest).await;
                done.map_err(|error| format!("migration {migration}: {}", describe(&error)))?;
                ran.push(migration.clone());
            }
        }
        if self.is_part {
            return Ok(ran);
        }
        // Also where nothing is left to be applied: it compares what was applied with what this binary knows.
        let mut runner = Runner::new(&self.migrations);
        runner.set_migration_table_name(self.history());
        let report = runner.run_async(client).await;
        let report = report.map_err(|error| words(&error))?;
        ran.extend(report.applied_migrations().iter().cloned());
        Ok(ran)
    }

    /// What refinery does with a migration, with another text: both of them, migration and record of it, or none.
    async fn run_in_part(
        &self,
        client: &mut Client,
        migration: &Migration,
        text: &str,
    ) -> Result<(), tokio_postgres::Error> {
        let transaction = client.transaction().await?;
        transaction.batch_execute(text).await?;
        self.record(&transaction, migration).await?;
        transaction.commit().await
    }

    /// The table as refinery creates it, with what `\\d+` shows of it, and readable to those who have to know the level.
    fn creation(&self) -> String {
        let history = self.history();
        let of = match &self.family {
            None => "of Sluice's tables".to_owned(),
            Some(family) => format!("of family {family}"),
        };
        let of = of.replace('\'', "''");
        format!(
            "CREATE TABLE IF NOT EXISTS {history} (version int4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255));
             COMMENT ON TABLE {history} IS 'Migrations {of} that were applied.';
             COMMENT ON COLUMN {history}.version IS 'The number of the migration.';
             COMMENT ON COLUMN {history}.name IS 'Its name.';
             COMMENT ON COLUMN {history}.applied_on IS 'When it was applied.';
             COMMENT ON COLUMN {history}.checksum IS 'Of its name and text, so that a changed one is noticed.';
             GRANT SELECT ON {history} TO sluice_writer, sluice_reader"
        )
    }

    /// Writes into the history that a migration was applied, as refinery does.
    async fn record(
        &self,
        transaction: &Transaction<'_>,
        migration: &Migration,
    ) -> Result<(), tokio_postgres::Error> {
        let record = format!(
            "INSERT INTO {} (version, name, applied_on, checksum)
             VALUES ($1::text::int, $2, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), $3)",
            self.history()
        );
        let (version, checksum) = (
            migration.version().to_string(),
            migration.checksum().to_string(),
        );
        let values: [&(dyn ToSql + Sync); 3] = [&version, &migration.name(), &checksum];
        transaction.execute(&record, &values).await?;
        Ok(())
    }
}

/// Runs what a database lacks of the bridge. Behind it the database has what the tables' line and that of the platform make,
/// and gets their histories; answers what was run.
pub async fn cross_bridge(client: &mut Client, keep: &[String]) -> Result<Vec<Migration>, String> {
    let ran = Line::of_bridge().run(client, keep).await?;
    let replaced = replace_history(client).await;
    replaced.map_err(|error| format!("the history of migrations: {}", describe(&error)))?;
    Ok(ran)
}

async fn replace_history(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    for line in [Line::of_tables(), Line::of_platform()] {
        transaction.batch_execute(&line.creation()).await?;
        // What the bridge has made is described as what a new database has.
        for comment in line.texts().flat_map(comments) {
            transaction.batch_execute(comment).await?;
        }
        let forget = format!("DELETE FROM {}", line.history());
        transaction.batch_execute(&forget).await?;
        for migration in &line.migrations {
            line.record(&transaction, migration).await?;
        }
    }
    transaction.commit().await
}

/// The statements of a text that describe something.
fn comments(text: &str) -> impl Iterator<Item = &str> {
    let statements = text.split_inclusive("';\n");
    statements.filter_map(|statement| {
        let begin = statement.rfind("\nCOMMENT ON ").map(|at| at + 1);
        let begin = begin.or_else(|| statement.starts_with("COMMENT ON ").then_some(0));
        begin.map(|at| &statement[at..])
    })
}

/// What stopped a run of migrations.
fn words(error: &refinery::Error) -> String {
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

fn load(option: &str, folder: &Path) -> Result<Vec<Migration>, String> {
    let shown = folder.display();
    let files = std::fs::read_dir(folder)
        .map_err(|error| format!("{option} {shown}: {}", of_io(&error)))?;
    let migrations = load_sql_migrations(folder)
        .map_err(|error| format!("{option} {shown}: {}", words(&error)))?;
    let known: Vec<String> = migrations
        .iter()
        .map(|migration| format!("{migration}.sql"))
        .collect();
    for file in files {
        let name = file
            .map_err(|error| format!("{option} {shown}: {}", of_io(&error)))?
            .file_name();
        let name = name.to_string_lossy();
        // A file that would be passed over is not what its writer meant.
        if name.ends_with(".sql") && !known.iter().any(|known| *known == name) {
            return Err(format!(
                "{option} {shown}: {name} has no name such as V1__own_tables.sql"
            ));
        }
    }
    if migrations.is_empty() {
        return Err(format!(
            "{option} {shown}: no file there has a name such as V1__own_tables.sql"
        ));
    }
    Ok(migrations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_text_describes_is_found() {
        let text = "COMMENT ON SCHEMA a IS 'b';\nSELECT 'x';\nCREATE TABLE t (a int);\nCOMMENT ON TABLE t IS 'It''s;\n one';\n\
            COMMENT ON FUNCTION f(text) IS\n'What it does.';\nRESET ROLE;\n";
        let found: Vec<&str> = comments(text).collect();
        assert_eq!(found.len(), 3);
        assert!(found[1].starts_with("COMMENT ON TABLE t") && found[1].ends_with("one';\n"));
        for line in [Line::of_tables(), Line::of_platform()] {
            let all: usize = line.texts().map(|text| comments(text).count()).sum();
            let wanted: usize = line
                .texts()
                .map(|text| text.matches("COMMENT ON ").count())
                .sum();
            assert_eq!(all, wanted, "{:?}", line.family);
        }
    }

    #[test]
    fn a_family_is_named_as_its_folder_is() {
        for (name, is_good) in [
            ("shop", true),
            ("own", false),
            ("platform", false),
            ("My-Shop", false),
        ] {
            let folder = std::env::temp_dir()
                .join(format!("sluice-{}", std::process::id()))
                .join(name);
            std::fs::create_dir_all(folder.join(FOLDER)).expect("a new folder");
            std::fs::write(folder.join(FOLDER).join("V1__a.sql"), "SELECT 1").expect("a file");
            let line = Line::of_family(&folder);
            assert_eq!(line.is_ok(), is_good, "{name}");
            if let Ok(line) = line {
                assert_eq!(line.history(), "ledger.shop_schema_history");
                assert!(line.is_of_somebody());
            }
        }
        let _ = std::fs::remove_dir_all(
            std::env::temp_dir().join(format!("sluice-{}", std::process::id())),
        );
    }
}
