//! `sluice migrate`: the extension, then the tables, forward only.

use std::time::Duration;

use tokio_postgres::Client;

use crate::commands::patience::Asking;
use crate::config::DatabaseArgs;
use crate::db::Database;
use crate::error::{chain, describe};
use crate::objects;
use crate::schema;

/// Held while migrating: two at once queue up. Any number would do; this one spells "sluice".
const LOCK: i64 = 0x736c_7569_6365;

/// Whoever waits for a table has all batches wait behind it.
const PATIENCE: &str = "SET lock_timeout = '2s'";

pub async fn migrate(arguments: &DatabaseArgs) -> Result<(), String> {
    let database = arguments.admin("sluice migrate").map_err(|bad| bad.0)?;
    let wait = arguments.connection_timeout();
    let client = open(&database, wait).await?;
    lock(&client).await.map_err(|error| describe(&error))?;
    client
        .batch_execute(PATIENCE)
        .await
        .map_err(|error| describe(&error))?;
    if let Some((level, name)) = schema::level(&client)
        .await
        .map_err(|error| describe(&error))?
        && level > schema::newest()
    {
        return Err(schema::too_new(level, &name));
    }
    let extension = extension(&client).await?;
    let mut client = client;
    let report = schema::runner()
        .run_async(&mut *client)
        .await
        .map_err(|error| chain(&error))?;
    for migration in report.applied_migrations() {
        println!("applied migration {migration}");
    }
    let restored = objects::restore(&client).await;
    let restored = restored.map_err(|error| describe(&error))?;
    for what in &restored {
        println!("restored {what}");
    }
    if report.applied_migrations().is_empty() && !extension && restored.is_empty() {
        println!(
            "up to date: extension {}, migration {}",
            schema::EXTENSION_VERSION,
            schema::newest()
        );
    }
    Ok(())
}

async fn open(database: &Database, wait: Duration) -> Result<Asking, String> {
    let address = database.address();
    match tokio::time::timeout(wait * 2, Asking::open(database)).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(format!(
            "ADMIN_DATABASE_URL: PostgreSQL at {address}: {}",
            describe(&error)
        )),
        Err(_) => Err(format!(
            "ADMIN_DATABASE_URL: PostgreSQL at {address} does not answer"
        )),
    }
}

async fn lock(client: &Client) -> Result<(), tokio_postgres::Error> {
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
    let wanted = schema::EXTENSION_VERSION;
    let installed = schema::extension(client)
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
