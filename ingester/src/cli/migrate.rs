//! `sluice migrate`: the extension, then the tables, forward only.

use std::path::PathBuf;

use tokio_postgres::Client;

use crate::cli::output::open;
use crate::cli::strangers;
use crate::config::database::DatabaseArgs;
use crate::postgres::error::describe;
use crate::schema::migrations::{self, Migration};
use crate::schema::{objects, shipped};

/// Held while migrating: two at once queue up. Any number would do; this one spells "sluice".
const LOCK: i64 = 0x736c_7569_6365;

/// Whoever waits for a table has all batches wait behind it.
pub(super) const PATIENCE: &str = "SET lock_timeout = '2s'";

#[derive(clap::Args, Default)]
pub struct Choices {
    /// A function that was replaced in this database and that a migration writes anew: leave it as it is there. Once for each
    #[arg(long, value_name = "FUNCTION")]
    keep: Vec<String>,
    /// A function that was replaced in this database: put the one that comes with Sluice in its place. Once for each
    #[arg(long, value_name = "FUNCTION")]
    overwrite: Vec<String>,
    /// Folder of the platform's own migrations, V1__name.sql and so on, which follow those of Sluice
    #[arg(long, value_name = "DIR")]
    also: Option<PathBuf>,
}

pub async fn migrate(arguments: &DatabaseArgs, choices: &Choices) -> Result<(), String> {
    let database = arguments.admin("sluice migrate").map_err(|bad| bad.0)?;
    let limit = 2 * arguments.connection_timeout();
    // Before anything is changed.
    let own = choices
        .also
        .as_deref()
        .map(migrations::own_runner)
        .transpose()?;
    let mut client = open(&database, arguments.admin_setting(), limit).await?;
    lock(&client).await.map_err(|error| describe(&error))?;
    client
        .batch_execute(PATIENCE)
        .await
        .map_err(|error| describe(&error))?;
    let level = migrations::level(&client).await;
    match level.map_err(|error| describe(&error))? {
        None => strangers::refuse(&client).await?,
        Some((level, name)) if level > migrations::newest() => {
            return Err(migrations::too_new(level, &name));
        }
        Some(_) => {}
    }
    let mut has_said = Replaced::of(&client, choices)
        .await?
        .settle(&client)
        .await?;
    has_said |= extension(&client).await?;
    for migration in run(&mut client, &choices.keep).await? {
        println!("applied migration {migration}");
        has_said = true;
    }
    let restored = objects::restore(&client, &migrations::texts()).await;
    for what in restored.map_err(|error| describe(&error))? {
        println!("restored {what}");
        has_said = true;
    }
    if let Some(own) = own {
        let report = own.run_async(&mut *client).await;
        let report = report.map_err(|error| migrations::words(&error))?;
        for migration in report.applied_migrations() {
            println!("applied migration {migration} of the platform");
            has_said = true;
        }
    }
    if !has_said {
        println!(
            "up to date: extension {}, migration {}",
            migrations::EXTENSION_VERSION,
            migrations::newest()
        );
    }
    Ok(())
}

/// The functions that somebody replaced in this database, and what is to become of them.
struct Replaced {
    /// To be put back as they come with Sluice, by the statement that does it.
    overwritten: Vec<(String, String)>,
    /// Left as they are, and written by nothing that is to be done now.
    standing: Vec<String>,
}

impl Replaced {
    /// Refuses what is not decided: nothing that somebody wrote is undone before he says so.
    async fn of(client: &Client, choices: &Choices) -> Result<Self, String> {
        let told = |error: tokio_postgres::Error| describe(&error);
        let migrations = migrations::migrations(client).await.map_err(told)?;
        let (mut applied, mut pending) = (Vec::new(), Vec::new());
        for (migration, is_applied) in &migrations {
            let texts = if *is_applied {
                &mut applied
            } else {
                &mut pending
            };
            texts.push(migration.sql().unwrap_or_default());
        }
        let installed = migrations::extension(client).await.map_err(told)?;
        let (run, to_run) = shipped::scripts(installed.as_deref());
        let before = shipped::functions(run.iter().copied().chain(applied));
        let to_come = shipped::written(to_run.iter().copied().chain(pending));
        let replaced = shipped::replaced(client, &before).await.map_err(told)?;
        for name in choices.keep.iter().chain(&choices.overwrite) {
            if !replaced.contains(name) {
                return Err(format!(
                    "{name}: no function of Sluice that was replaced in this database has this name; nothing was changed"
                ));
            }
        }
        let (mut overwritten, mut standing, mut undecided) = (Vec::new(), Vec::new(), Vec::new());
        for name in replaced {
            let is_written = to_come.contains(name.as_str());
            // What belongs to the extension is written by its update, which leaves nothing out.
            let is_kept = choices.keep.contains(&name) && !name.starts_with("sluice.");
            if choices.overwrite.contains(&name) {
                let again = before[name.as_str()].again();
                overwritten.push((name, again));
            } else if is_written && !is_kept {
                undecided.push(name);
            } else {
                standing.push(name);
            }
        }
        if undecided.is_empty() {
            return Ok(Self {
                overwritten,
                standing,
            });
        }
        Err(format!(
            "replaced in this database, and to be written anew: {}. Nothing was changed. For each, --keep NAME leaves it as it is \
             (a function of schema sluice cannot be kept) and --overwrite NAME puts the one that comes with Sluice in its place",
            undecided.join(", ")
        ))
    }

    /// Whether there was anything to say.
    async fn settle(self, client: &Client) -> Result<bool, String> {
        for name in &self.standing {
            println!("kept {name}, which was replaced in this database");
        }
        for (name, statement) in &self.overwritten {
            let done = client.batch_execute(statement).await;
            done.map_err(|error| format!("{name}: {}", describe(&error)))?;
            println!("overwritten {name}");
        }
        Ok(!self.standing.is_empty() || !self.overwritten.is_empty())
    }
}

/// Applies the migrations that the database does not have yet, without the statements that write functions to be kept.
async fn run(client: &mut Client, keep: &[String]) -> Result<Vec<Migration>, String> {
    let mut applied = Vec::new();
    if !keep.is_empty() {
        let migrations = migrations::migrations(client).await;
        let migrations = migrations.map_err(|error| describe(&error))?;
        for (migration, _) in migrations.into_iter().filter(|(_, is_applied)| !is_applied) {
            let text = migration.sql().unwrap_or_default();
            let kept = shipped::functions([text]).into_values();
            let kept = kept.filter(|function| keep.iter().any(|name| name == function.name));
            let rest = kept.fold(text.to_owned(), |rest, function| {
                rest.replacen(function.statement, "", 1)
            });
            let done = migrations::run_in_part(client, &migration, &rest).await;
            done.map_err(|error| format!("migration {migration}: {}", describe(&error)))?;
            applied.push(migration);
        }
    }
    // Also where nothing is left to be applied: it compares what was applied with what this binary knows.
    let report = migrations::runner().run_async(client).await;
    let report = report.map_err(|error| migrations::words(&error))?;
    applied.extend(report.applied_migrations().iter().cloned());
    Ok(applied)
}

pub(super) async fn lock(client: &Client) -> Result<(), tokio_postgres::Error> {
    let row = client
        .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
        .await?;
    if !row.get::<_, bool>(0) {
        eprintln!("waiting for another migration to finish");
        client
            .execute("SELECT pg_advisory_lock($1)", &[&LOCK])
            .await?;
    }
    Ok(())
}

/// Creates or updates the extension; whether it did anything.
async fn extension(client: &Client) -> Result<bool, String> {
    let wanted = migrations::EXTENSION_VERSION;
    let installed = migrations::extension(client)
        .await
        .map_err(|error| describe(&error))?;
    let available = "SELECT EXISTS (SELECT FROM pg_available_extension_versions WHERE name = 'sluice' AND version = $1)";
    let row = client
        .query_one(available, &[&wanted])
        .await
        .map_err(|error| describe(&error))?;
    if installed.as_deref() != Some(wanted) && !row.get::<_, bool>(0) {
        return Err(format!(
            "the server does not have extension sluice {wanted}: install it there (make install-extension)"
        ));
    }
    let statement = match installed.as_deref() {
        None => format!("CREATE EXTENSION sluice VERSION '{wanted}'"),
        Some(version) if version != wanted => {
            format!("ALTER EXTENSION sluice UPDATE TO '{wanted}'")
        }
        Some(_) => String::new(),
    };
    let schema = "CREATE SCHEMA IF NOT EXISTS ledger AUTHORIZATION sluice_owner";
    client
        .batch_execute(&statement)
        .await
        .map_err(|error| describe(&error))?;
    let exists = "SELECT to_regnamespace('ledger') IS NOT NULL";
    if !client
        .query_one(exists, &[])
        .await
        .map_err(|error| describe(&error))?
        .get::<_, bool>(0)
    {
        client
            .batch_execute(schema)
            .await
            .map_err(|error| describe(&error))?;
    }
    if statement.is_empty() {
        return Ok(false);
    }
    println!("extension sluice {wanted}");
    Ok(true)
}
