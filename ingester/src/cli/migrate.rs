//! `sluice migrate`: the extension, then the tables, forward only.

use std::path::PathBuf;

use tokio_postgres::Client;

use crate::cli::output::open;
use crate::cli::strangers;
use crate::config::database::DatabaseArgs;
use crate::postgres::error::describe;
use crate::schema::lines::{self, Line, Migration};
use crate::schema::migrations::{self as schema, Standing};
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
    /// Families of event types that come with Sluice: platform, or none for only the core. Default: platform in a new
    /// database, none in a database that has only the core
    #[arg(long, env = "FAMILIES", value_enum, hide_possible_values = true)]
    families: Option<Families>,
    /// Install only the core, like FAMILIES=none
    #[arg(long)]
    without_families: bool,
    /// Folder of a family of your own, with its migrations in DIR/migrations. Once for each
    #[arg(long, value_name = "DIR")]
    family: Vec<PathBuf>,
    /// Folder of migrations of your own, V1__name.sql and so on, which follow all others
    #[arg(long, value_name = "DIR")]
    also: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Families {
    Platform,
    None,
}

pub async fn migrate(arguments: &DatabaseArgs, choices: &Choices) -> Result<(), String> {
    let database = arguments.admin("sluice migrate").map_err(|bad| bad.0)?;
    let limit = 2 * arguments.connection_timeout();
    // Before anything is changed.
    let others = choices.others()?;
    let mut client = open(&database, arguments.admin_setting(), limit).await?;
    lock(&client).await.map_err(|error| describe(&error))?;
    client
        .batch_execute(PATIENCE)
        .await
        .map_err(|error| describe(&error))?;
    let standing = schema::standing(&client).await;
    let standing = standing.map_err(|error| describe(&error))?;
    match &standing {
        Standing::At(level, name) if *level > schema::newest() => {
            return Err(schema::too_new(*level, name));
        }
        Standing::Foreign(level, name) => return Err(schema::foreign(*level, name)),
        _ => {}
    }
    strangers::refuse(&client, &standing).await?;
    let lines = choices.lines(&client, &standing, others).await?;
    let replaced = Replaced::of(&client, choices, &standing, &lines).await?;
    let mut has_said = replaced.tell_kept();
    has_said |= extension(&client).await?;
    if standing == Standing::OnBridge {
        let ran = lines::cross_bridge(&mut client, &choices.keep).await?;
        has_said |= tell_applied(&ran, None);
    }
    for line in &lines {
        let begun = line.begin(&client).await;
        begun.map_err(|error| describe(&error))?;
    }
    for (n, line) in lines.iter().enumerate() {
        // A family may need what was dropped of the lines before it.
        if line.family.is_some() {
            has_said |= restore(&client, &lines[..n]).await?;
        }
        let ran = line.run(&mut client, &choices.keep).await?;
        has_said |= tell_applied(&ran, line.family.as_deref());
    }
    has_said |= replaced.overwrite(&client, &lines).await?;
    has_said |= restore(&client, &lines).await?;
    if !has_said {
        println!(
            "up to date: extension {}, migration {}",
            schema::EXTENSION_VERSION,
            schema::newest()
        );
    }
    Ok(())
}

fn tell_applied(migrations: &[Migration], family: Option<&str>) -> bool {
    for migration in migrations {
        match family {
            None => println!("applied migration {migration}"),
            Some(family) => println!("applied migration {migration} of family {family}"),
        }
    }
    !migrations.is_empty()
}

/// Makes anew what was dropped of what these lines, where they come with Sluice, have made.
async fn restore(client: &Client, lines: &[Line]) -> Result<bool, String> {
    let ours = lines.iter().filter(|line| !line.is_of_somebody());
    let texts: Vec<&str> = ours.flat_map(Line::texts).collect();
    let restored = objects::restore(client, &texts).await;
    let restored = restored.map_err(|error| describe(&error))?;
    for what in &restored {
        println!("restored {what}");
    }
    Ok(!restored.is_empty())
}

impl Choices {
    /// The lines in folders of somebody's own.
    fn others(&self) -> Result<Vec<Line>, String> {
        let families = self.family.iter().map(|folder| Line::of_family(folder));
        let own = self.also.iter().map(|folder| Line::of_own(folder));
        families.chain(own).collect()
    }

    /// All lines that this database is to have, in their order.
    async fn lines(
        &self,
        client: &Client,
        standing: &Standing,
        others: Vec<Line>,
    ) -> Result<Vec<Line>, String> {
        let (tables, platform) = (Line::of_tables(), Line::of_platform());
        let has = platform.level(client).await;
        let has = has
            .map_err(|error| describe(&error))?
            .map(|(level, _)| level);
        let chosen = match self.families {
            _ if self.without_families => Some(Families::None),
            chosen => chosen,
        };
        let wants_platform = match chosen {
            Some(Families::Platform) => true,
            // What a database has is brought up to date, and a database without it stays without.
            Some(Families::None) => has > Some(0) || *standing == Standing::OnBridge,
            None => has.is_some() || !matches!(standing, Standing::At(..)),
        };
        let platform = wants_platform.then_some(platform);
        Ok([tables].into_iter().chain(platform).chain(others).collect())
    }
}

/// The functions that somebody replaced in this database, and what is to become of them.
struct Replaced {
    /// To be put back as they come with Sluice.
    overwritten: Vec<String>,
    /// Left as they are, and written by nothing that is to be done now.
    standing: Vec<String>,
}

impl Replaced {
    /// Refuses what is not decided: nothing that somebody wrote is undone before he says so.
    async fn of(
        client: &Client,
        choices: &Choices,
        standing: &Standing,
        lines: &[Line],
    ) -> Result<Self, String> {
        let told = |error: tokio_postgres::Error| describe(&error);
        let is_on_bridge = *standing == Standing::OnBridge;
        let bridge = Line::of_bridge();
        // What a database on the bridge gets, it gets by the bridge.
        let by_bridge = lines
            .iter()
            .filter(|line| !is_on_bridge || line.is_of_somebody());
        let lines = is_on_bridge.then_some(&bridge).into_iter().chain(by_bridge);
        let (mut applied, mut pending) = (Vec::new(), Vec::new());
        for line in lines {
            let (has, lacks) = line.parted(client).await.map_err(told)?;
            applied.extend(has);
            pending.extend(lacks);
        }
        let installed = schema::extension(client).await.map_err(told)?;
        let to_run = shipped::scripts_to_run(installed.as_deref());
        // The extension's functions are those of 0.6.0 until its update has run.
        let run = installed.is_some() && to_run.is_empty();
        let run = run.then_some(shipped::SCRIPT).into_iter();
        let before = shipped::shipped(is_on_bridge, applied.into_iter().chain(run));
        let to_come = shipped::written(to_run.into_iter().chain(pending));
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
                overwritten.push(name);
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
    fn tell_kept(&self) -> bool {
        for name in &self.standing {
            println!("kept {name}, which was replaced in this database");
        }
        !self.standing.is_empty()
    }

    /// Puts functions in place as this binary's scripts and migrations define them; whether there were any.
    async fn overwrite(&self, client: &Client, lines: &[Line]) -> Result<bool, String> {
        let texts = lines.iter().flat_map(Line::texts);
        let functions = shipped::functions(texts.chain([shipped::SCRIPT]));
        for name in &self.overwritten {
            // One that this version has no more is gone already.
            if let Some(function) = functions.get(name.as_str()) {
                let done = client.batch_execute(&function.again()).await;
                done.map_err(|error| format!("{name}: {}", describe(&error)))?;
            }
            println!("overwritten {name}");
        }
        Ok(!self.overwritten.is_empty())
    }
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
