//! Whether the database has the extension and the tables that this binary was built for,
//! and how it gets them.

use std::cmp::Ordering;

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::schema::lines::Line;
use crate::schema::objects;

/// The extension's version that goes with this binary.
pub const EXTENSION_VERSION: &str = env!("CARGO_PKG_VERSION");
const RUN_MIGRATE: &str = "run `sluice migrate` with ADMIN_DATABASE_URL";
/// The newest migration of version 0.6.0, where the bridge begins.
const BEFORE_BRIDGE: (i64, &str) = (19, "faster_handlers");

/// What a database's history of migrations tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was applied.
    Empty,
    /// Of version 0.6.0, or some way from there to this one.
    OnBridge,
    /// The newest migration that was applied, with its name.
    At(i64, String),
    /// Of no released version.
    Foreign(i64, String),
}

impl Standing {
    pub fn is_newest(&self) -> bool {
        matches!(self, Self::At(level, _) if *level == newest())
    }

    /// The level, and what to do where it is not the newest.
    pub fn told(&self) -> (String, String) {
        let advice = "run `sluice migrate`".to_owned();
        match self {
            Self::At(level, name) if *level > newest() => {
                (level.to_string(), too_new(*level, name))
            }
            Self::At(level, _) => (level.to_string(), advice),
            Self::Foreign(level, name) => (level.to_string(), foreign(*level, name)),
            Self::OnBridge => ("those of version 0.6.0".into(), advice),
            Self::Empty => ("0".into(), advice),
        }
    }
}

/// How far the tables of a database were migrated.
pub async fn standing(client: &Client) -> Result<Standing, tokio_postgres::Error> {
    let line = Line::of_tables();
    let (level, name) = match line.level(client).await? {
        None | Some((0, _)) => return Ok(Standing::Empty),
        Some(newest) => newest,
    };
    let is_ours = "SELECT EXISTS (SELECT FROM ledger.schema_history WHERE version::bigint = 1 AND checksum = $1)";
    let first = line.first().map(|first| first.checksum().to_string());
    if client.query_one(is_ours, &[&first]).await?.get(0) {
        return Ok(Standing::At(level, name));
    }
    let is_before = "SELECT EXISTS (SELECT FROM ledger.schema_history WHERE version::bigint = $1 AND name = $2)";
    let before = [&BEFORE_BRIDGE.0 as &(dyn ToSql + Sync), &BEFORE_BRIDGE.1];
    let before = client.query_one(is_before, &before).await?;
    Ok(match before.get(0) {
        true => Standing::OnBridge,
        false => Standing::Foreign(level, name),
    })
}

/// What this binary needs and the database lacks, each with what to do about it.
pub async fn missing(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let (tables, platform) = (Line::of_tables(), Line::of_platform());
    // A database may do without the family.
    let has_platform = platform.level(client).await?.is_some();
    let lines = [Some(&tables), has_platform.then_some(&platform)];
    let texts: Vec<&str> = lines.into_iter().flatten().flat_map(Line::texts).collect();
    let mut missing = objects::missing(client, &texts).await?;
    missing.extend(family_behind(client).await?);
    Ok(missing)
}

/// Says so where the family that comes with Sluice is installed, and not to its newest migration.
async fn family_behind(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    let platform = Line::of_platform();
    let newest = platform.newest();
    let level = platform.level(client).await?.map(|(level, _)| level);
    Ok(level
        .filter(|level| *level < newest)
        .map(|level| format!("family platform is at migration {level} of {newest}: {RUN_MIGRATE}")))
}

/// The newest migration of the tables that this binary knows.
pub fn newest() -> i64 {
    Line::of_tables().newest()
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

/// One line for a database whose history is neither this binary's nor version 0.6.0's.
pub fn foreign(level: i64, name: &str) -> String {
    format!(
        "the database was migrated by a version of sluice that was never released (migration {level} {name}): this one leads on \
         from 0.6.0 alone"
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
    let newest = newest();
    Ok(match standing(client).await? {
        Standing::At(level, name) if level > newest => Err(Misfit::Wrong(too_new(level, &name))),
        Standing::Foreign(level, name) => Err(Misfit::Wrong(foreign(level, &name))),
        Standing::At(level, _) if level == newest => {
            match (family_behind(client).await?, missing(client).await?) {
                (Some(behind), _) => Err(Misfit::Behind(behind)),
                (None, missing) if missing.is_empty() => Ok(()),
                (None, missing) => Err(Misfit::Wrong(missing.join("; "))),
            }
        }
        Standing::OnBridge => Err(Misfit::Behind(format!(
            "the tables are those of version 0.6.0: {RUN_MIGRATE}"
        ))),
        standing => Err(Misfit::Behind(format!(
            "the tables are at migration {} of {newest}: {RUN_MIGRATE}",
            if let Standing::At(level, _) = standing {
                level
            } else {
                0
            },
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
