//! The command line of Sluice: what can be asked for, and who does it.
//! The only room besides `config` that knows clap; what an operator can do stands in `operator`.

mod arguments;
pub mod check;
pub mod dead_letters;
mod event_check;
mod event_try;
pub mod events;
pub mod find;
mod letters;
mod manual;
pub mod migrate;
pub mod output;
pub mod partitions;
pub mod plan;
pub mod prune;
pub mod session;
mod signals;
mod strangers;
mod table;
mod uninstall;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::cli::check::Checked;
use crate::cli::dead_letters::Dlq;
use crate::cli::events::Events;
use crate::cli::output::{Format, write_line};
use crate::config::database::DatabaseArgs;
use crate::config::help::{with_secrets_apart, without_empty_variables};
use crate::config::kafka::KafkaArgs;
use crate::config::names::{NearMiss, near_misses};
use crate::config::redis_server::RedisArgs;
use crate::config::run::{RunArgs, RunSettings};
use crate::config::secrets::{refuse_secrets_in, with_secret_files};
use crate::config::sessions::SessionArgs;
use crate::config::setting::{BadSetting, environment};
use crate::instance::{self, VERSION};
use crate::kafka;
use crate::operator::partitions::Action;
use crate::run::start;
use crate::terminal;
use crate::words::of_io;

/// Balance and domain events from Kafka into PostgreSQL: in order, exactly once in effect, fenced.
#[derive(Parser)]
#[command(name = "sluice", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// Format of the log on stderr; default: text on a terminal, else json
    #[arg(long, env = "LOG_FORMAT", value_enum, global = true)]
    pub log_format: Option<LogFormat>,
    /// What is logged, for example info or sluice=debug
    #[arg(long, env = "RUST_LOG", default_value = "info", global = true)]
    pub rust_log: String,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
pub enum Command {
    /// Read events and commit them, until SIGTERM or SIGINT
    Run {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        kafka: KafkaArgs,
        #[command(flatten)]
        redis: RedisArgs,
        #[command(flatten)]
        run: Box<RunArgs>,
    },
    /// Create or update extension and tables; a second time changes nothing
    Migrate {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        choices: migrate::Choices,
    },
    /// Remove all that migrate made: schemas, extension and roles. Without --yes it says what that is, and changes nothing
    Uninstall {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        consent: uninstall::Consent,
    },
    /// Connect to everything and say what fits; exit status 1 where something does not
    Check {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        sessions: SessionArgs,
        #[command(flatten)]
        kafka: KafkaArgs,
        #[command(flatten)]
        redis: RedisArgs,
        #[command(flatten)]
        format: Format,
    },
    #[command(flatten)]
    Partitions(OfPartitions),
    /// Remove log, verdicts and identities of records that Kafka does not hold any more; a dry run unless --apply is given
    Prune {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        kafka: KafkaArgs,
        #[command(flatten)]
        prune: prune::Prune,
    },
    /// What a number of events a day asks of disk, PostgreSQL, Kafka and memory, by what events have taken here until now
    Plan {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        plan: plan::PlanArgs,
    },
    /// Dead letters: list, show, stats, replay, discard, export
    Dlq {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(subcommand)]
        command: Dlq,
    },
    /// Event types that come with Sluice: list, schema, sample, topics; events before they are sent: check, try; and what became of one: find
    Events {
        #[command(subcommand)]
        command: Events,
    },
    /// Print a completion script, for example: sluice completions bash >/etc/bash_completion.d/sluice
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages into a folder
    Man { folder: std::path::PathBuf },
    /// Print the version
    Version,
}

/// What is seen of partitions, and done with them.
#[derive(Subcommand)]
pub enum OfPartitions {
    /// Partitions: who leads, how far, whether they run
    Status {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        status: partitions::StatusArgs,
    },
    /// Offsets of partitions: what Kafka has, and what the database has of it
    Partitions {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        kafka: KafkaArgs,
        #[command(flatten)]
        offsets: partitions::Offsets,
    },
    /// Pause a partition: its leader stays, and commits nothing of it until it is resumed
    Pause {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        which: partitions::Which,
        /// Why, for those who see it paused
        #[arg(long)]
        why: String,
    },
    /// Resume a paused partition where it stopped, or a topic that its circuit breaker has paused
    Resume {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        resumed: partitions::Resumed,
        /// Why, for those who read the record later
        #[arg(long, default_value = "")]
        why: String,
    },
    /// Make one record a dead letter by hand, untried: one that the database cannot take, for no fault of the record
    Bury {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        burial: partitions::Burial,
    },
    /// Take a partition from its leader; another instance takes over, if there is one
    StepDown {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        which: partitions::Which,
        /// Why, for those who read the record later
        #[arg(long, default_value = "")]
        why: String,
    },
    /// End the halt of a partition whose topic was not recognised: what Kafka holds now is read on
    Accept {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        which: partitions::Which,
        /// Go on at this offset, behind the committed one; what lies between is given up
        #[arg(long)]
        offset: Option<i64>,
        /// Why, for those who read the record later
        #[arg(long)]
        why: String,
    },
}

pub const BAD_SETTING: u8 = 2;

/// What the command line and the environment ask for; or, where that is said already, the exit status.
pub fn parse() -> Result<Cli, ExitCode> {
    let bad = |bad: BadSetting| fail(BAD_SETTING, &bad.0);
    let command = with_secret_files(command_line()).map_err(bad)?;
    let matches = without_empty_variables(command).try_get_matches();
    let matches = matches.map_err(|error| refuse(&error))?;
    refuse_secrets_in(&matches).map_err(bad)?;
    Cli::from_arg_matches(&matches).map_err(|error| refuse(&error))
}

fn command_line() -> clap::Command {
    with_secrets_apart(Cli::command())
}

/// Variables that look like a setting and are none; named here, but for `check`, which has a line for each.
fn name_misses(command: &Command) -> Vec<NearMiss> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let misses = near_misses(&command_line(), names);
    for miss in &misses {
        match command {
            Command::Version | Command::Completions { .. } | Command::Man { .. } => {}
            Command::Check { .. } => {}
            Command::Run { .. } => warn!("{}", miss.told()),
            _ => terminal::tell(&format!("sluice: {}", miss.told())),
        }
    }
    misses
}

/// Does what is asked for.
pub async fn execute(command: Command) -> ExitCode {
    let misses = name_misses(&command);
    match command {
        Command::Version => said(write_line(&format!("sluice {VERSION}"))),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut command_line(), "sluice", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Man { folder } => said(manual(&folder)),
        Command::Run {
            database,
            kafka,
            redis,
            run,
        } => match run.settings(&database, &kafka, &redis, environment()) {
            Ok(settings) => serve(settings).await,
            Err(bad) => refuse_setting(&bad),
        },
        Command::Check {
            database,
            sessions,
            kafka,
            redis,
            format,
        } => {
            let checked = Checked {
                database: &database,
                sessions: &sessions,
                kafka: &kafka,
                redis: &redis,
                misses: &misses,
            };
            checks(&checked, &format).await
        }
        Command::Migrate { database, choices } => said(migrate::migrate(&database, &choices).await),
        Command::Uninstall { database, consent } => {
            said(uninstall::uninstall(&database, &consent).await)
        }
        Command::Plan { database, plan } => said(plan::plan(&database, &plan).await),
        Command::Dlq { database, command } => dlq(&database, &command).await,
        Command::Events { command } => of_events(&command).await,
        Command::Prune {
            database,
            kafka,
            prune,
        } => match kafka.settings(environment()) {
            Ok(settings) => match stop_on_signals() {
                Ok(stop) => said(prune::prune(&database, &settings, &prune, &stop).await),
                Err(line) => fail(1, &line),
            },
            Err(bad) => refuse_setting(&bad),
        },
        Command::Partitions(command) => of_partitions(command).await,
    }
}

async fn checks(checked: &Checked<'_>, format: &Format) -> ExitCode {
    match check::check(checked, format).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(bad) => refuse_setting(&bad),
    }
}

/// Runs until a signal.
async fn serve(settings: RunSettings) -> ExitCode {
    instance::is_called(&settings.service_id);
    if let Err(line) = kafka::config::validate(&settings.kafka) {
        return fail(BAD_SETTING, &line);
    }
    match stop_on_signals() {
        Ok(stop) => said(start::run(settings, stop).await),
        Err(line) => fail(1, &line),
    }
}

fn manual(folder: &Path) -> Result<(), String> {
    manual::write(command_line(), folder)
        .map_err(|error| format!("{}: {}", folder.display(), of_io(&error)))
}

async fn dlq(database: &DatabaseArgs, command: &Dlq) -> ExitCode {
    let stop = match command.works_in_chunks() {
        true => stop_on_signals(),
        false => Ok(CancellationToken::new()),
    };
    match stop {
        Ok(stop) => said(dead_letters::dlq(database, command, &stop).await),
        Err(line) => fail(1, &line),
    }
}

async fn of_events(command: &Events) -> ExitCode {
    match command {
        Events::Types(types) => match events::types_as_text(types) {
            Ok(text) => said(write_line(&text)),
            Err(line) => fail(BAD_SETTING, &line),
        },
        Events::Check(check) => match event_check::check_events(check) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(line) => fail(BAD_SETTING, &line),
        },
        Events::Try { database, events } => match event_try::try_events(database, events).await {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(line) => fail(1, &line),
        },
        Events::Find { database, find } => said(find::find(database, find).await),
        Events::Topics { kafka, topics } => match kafka.settings(environment()) {
            Ok(settings) => said(events::topics(&settings, topics).await),
            Err(bad) => refuse_setting(&bad),
        },
    }
}

async fn of_partitions(command: OfPartitions) -> ExitCode {
    said(match command {
        OfPartitions::Status { database, status } => partitions::status(&database, &status).await,
        OfPartitions::Partitions {
            database,
            kafka,
            offsets,
        } => match kafka.settings(environment()) {
            Ok(settings) => partitions::offsets(&database, &settings, &offsets).await,
            Err(bad) => return refuse_setting(&bad),
        },
        OfPartitions::Pause {
            database,
            which,
            why,
        } => partitions::act(&database, &which, Action::Pause, &why).await,
        OfPartitions::Resume {
            database,
            resumed,
            why,
        } => partitions::resume(&database, &resumed, &why).await,
        OfPartitions::Bury { database, burial } => partitions::bury(&database, &burial).await,
        OfPartitions::StepDown {
            database,
            which,
            why,
        } => partitions::act(&database, &which, Action::StepDown, &why).await,
        OfPartitions::Accept {
            database,
            which,
            offset,
            why,
        } => partitions::accept(&database, &which, offset, &why).await,
    })
}

/// Cancelled by the first SIGTERM or SIGINT.
fn stop_on_signals() -> Result<CancellationToken, String> {
    let stop = CancellationToken::new();
    signals::cancel(stop.clone())
        .map_err(|error| format!("cannot listen for signals: {}", of_io(&error)))?;
    Ok(stop)
}

fn refuse_setting(bad: &BadSetting) -> ExitCode {
    fail(BAD_SETTING, &bad.0)
}

/// What a command had to say stands on stdout, unless it failed.
fn said(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => fail(1, &line),
    }
}

/// One line on stderr.
pub fn fail(status: u8, line: &str) -> ExitCode {
    terminal::tell(&format!("sluice: {line}"));
    ExitCode::from(status)
}

/// clap's own words, but for a bad value the one line that names the setting.
fn refuse(error: &clap::Error) -> ExitCode {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    if let (ErrorKind::ValueValidation | ErrorKind::InvalidValue, Some(argument)) =
        (error.kind(), context(ContextKind::InvalidArg))
    {
        let name = argument
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .trim_start_matches("--");
        let setting = name.to_uppercase().replace('-', "_");
        let value = context(ContextKind::InvalidValue).unwrap_or_default();
        let reason = match (
            std::error::Error::source(error),
            error.get(ContextKind::ValidValue),
        ) {
            (Some(source), _) => arguments::reason(source, &value),
            (None, Some(ContextValue::Strings(values))) => {
                format!("must be one of {}", values.join(", "))
            }
            (None, _) => "cannot be used".to_owned(),
        };
        return fail(BAD_SETTING, &format!("{setting}: {value:?} {reason}"));
    }
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(BAD_SETTING)
    } else {
        ExitCode::SUCCESS
    }
}
