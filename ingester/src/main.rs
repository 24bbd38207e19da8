//! The command line of Sluice.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use sluice::commands::dlq::{self, Dlq};
use sluice::commands::events::{self, Events};
use sluice::commands::partitions::Action;
use sluice::commands::{check, find, migrate, partitions, plan, prune, write_line};
use sluice::config::{
    DatabaseArgs, KafkaArgs, RedisArgs, RunArgs, refuse_secrets_in, with_secret_files,
    with_secrets_apart, without_empty_variables,
};
use sluice::terminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Balance and domain events from Kafka into PostgreSQL: in order, exactly once in effect, fenced.
#[derive(Parser)]
#[command(name = "sluice", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(clap::Args)]
struct LogArgs {
    /// Format of the log on stderr; default: text on a terminal, else json
    #[arg(long, env = "LOG_FORMAT", value_enum, global = true)]
    log_format: Option<LogFormat>,
    /// What is logged, for example info or sluice=debug
    #[arg(long, env = "RUST_LOG", default_value = "info", global = true)]
    rust_log: String,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
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
    /// Connect to everything and say what fits; exit status 1 where something does not
    Check {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        kafka: KafkaArgs,
        #[command(flatten)]
        redis: RedisArgs,
    },
    /// Partitions: who leads, how far, whether they run
    Status {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        status: partitions::Status,
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
    /// Remove log, verdicts and identities of records that Kafka does not hold any more
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
        plan: plan::Plan,
    },
    /// Dead letters: list, show, stats, replay, discard, export
    Dlq {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(subcommand)]
        command: Dlq,
    },
    /// Event types that come with Sluice: list, schema, sample, topics; and what became of an event: find
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

const BAD_SETTING: u8 = 2;

fn main() -> ExitCode {
    let command = match with_secret_files(command_line()) {
        Ok(command) => without_empty_variables(command),
        Err(bad) => return fail(BAD_SETTING, &bad.0),
    };
    let matches = match command.try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return refuse(&error),
    };
    if let Err(bad) = refuse_secrets_in(&matches) {
        return fail(BAD_SETTING, &bad.0);
    }
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    if let Err(bad) = log(&cli.log) {
        return fail(BAD_SETTING, &bad);
    }
    // A defect of ours is one line too; the log of a service is no place for a backtrace.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("defect: {}", panic.to_string().replace('\n', " "));
    }));
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("cannot start: {error}")),
    };
    let status = runtime.block_on(execute(cli.command));
    // Blocking calls into librdkafka end by their own time-outs; nobody waits for them.
    runtime.shutdown_background();
    status
}

fn command_line() -> clap::Command {
    with_secrets_apart(Cli::command())
}

async fn execute(command: Command) -> ExitCode {
    match command {
        Command::Version => {
            println!("sluice {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut command_line(), "sluice", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Man { folder } => match std::fs::create_dir_all(&folder)
            .and_then(|()| clap_mangen::generate_to(command_line(), &folder))
        {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &format!("{}: {error}", folder.display())),
        },
        Command::Dlq { database, command } => {
            let shutdown = CancellationToken::new();
            if command.works_in_chunks()
                && let Err(error) = on_signals(shutdown.clone())
            {
                return fail(1, &format!("cannot listen for signals: {error}"));
            }
            said(dlq::dlq(&database, &command, &shutdown).await)
        }
        Command::Prune {
            database,
            kafka,
            prune,
        } => {
            let settings = match kafka.settings(sluice::config::environment()) {
                Ok(settings) => settings,
                Err(bad) => return fail(BAD_SETTING, &bad.0),
            };
            let shutdown = CancellationToken::new();
            if let Err(error) = on_signals(shutdown.clone()) {
                return fail(1, &format!("cannot listen for signals: {error}"));
            }
            said(prune::prune(&database, &settings, &prune, &shutdown).await)
        }
        Command::Plan { database, plan } => said(plan::plan(&database, &plan).await),
        Command::Status { database, status } => said(partitions::status(&database, &status).await),
        Command::Partitions {
            database,
            kafka,
            offsets,
        } => match kafka.settings(sluice::config::environment()) {
            Ok(settings) => said(partitions::offsets(&database, &settings, &offsets).await),
            Err(bad) => fail(BAD_SETTING, &bad.0),
        },
        Command::Pause {
            database,
            which,
            why,
        } => said(partitions::act(&database, &which, Action::Pause, &why).await),
        Command::Resume {
            database,
            resumed,
            why,
        } => said(partitions::resume(&database, &resumed, &why).await),
        Command::Bury { database, burial } => said(partitions::bury(&database, &burial).await),
        Command::StepDown {
            database,
            which,
            why,
        } => said(partitions::act(&database, &which, Action::StepDown, &why).await),
        Command::Accept {
            database,
            which,
            offset,
            why,
        } => said(partitions::accept(&database, &which, offset, &why).await),
        Command::Events { command } => match command {
            Events::Types(types) => match events::types_as_text(&types) {
                Ok(text) => said(write_line(&text)),
                Err(line) => fail(BAD_SETTING, &line),
            },
            Events::Find { database, find } => said(find::find(&database, &find).await),
            Events::Topics { kafka, topics } => {
                match kafka.settings(sluice::config::environment()) {
                    Ok(settings) => said(events::topics(&settings, &topics).await),
                    Err(bad) => fail(BAD_SETTING, &bad.0),
                }
            }
        },
        Command::Migrate { database, choices } => said(migrate::migrate(&database, &choices).await),
        Command::Check {
            database,
            kafka,
            redis,
        } => match check::check(&database, &kafka, &redis).await {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(bad) => fail(BAD_SETTING, &bad.0),
        },
        Command::Run {
            database,
            kafka,
            redis,
            run,
        } => {
            let settings =
                match run.settings(&database, &kafka, &redis, sluice::config::environment()) {
                    Ok(settings) => settings,
                    Err(bad) => return fail(BAD_SETTING, &bad.0),
                };
            if let Err(line) = sluice::source::validate(&settings.kafka) {
                return fail(BAD_SETTING, &line);
            }
            let shutdown = CancellationToken::new();
            if let Err(error) = on_signals(shutdown.clone()) {
                return fail(1, &format!("cannot listen for signals: {error}"));
            }
            match sluice::run::run(settings, shutdown).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(line) => fail(1, &line),
            }
        }
    }
}

/// The first SIGTERM or SIGINT asks to stop, the second ends the process at once.
fn on_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            let status = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            if shutdown.is_cancelled() {
                std::process::exit(status);
            }
            shutdown.cancel();
        }
    });
    Ok(())
}

fn log(args: &LogArgs) -> Result<(), String> {
    let filter =
        EnvFilter::try_new(&args.rust_log).map_err(|error| format!("RUST_LOG: {error}"))?;
    // What a migration did stands on stdout.
    let filter = filter.add_directive(
        "refinery_core=warn"
            .parse()
            .map_err(|error| format!("RUST_LOG: {error}"))?,
    );
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| terminal::Log)
        // It would say on standard error that standard error takes no more, and abort: a full disk under a log is no
        // reason to stop.
        .log_internal_errors(false)
        .with_target(false);
    let text = args
        .log_format
        .map_or(terminal, |format| format == LogFormat::Text);
    if text {
        builder.with_ansi(terminal).init()
    } else {
        builder.json().flatten_event(true).init()
    }
    Ok(())
}

/// What a command had to say stands on stdout, unless it failed.
fn said(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => fail(1, &line),
    }
}

fn fail(status: u8, line: &str) -> ExitCode {
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
        let reason = std::error::Error::source(error).map_or_else(
            || match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(values)) => {
                    format!("must be one of {}", values.join(", "))
                }
                _ => "is not valid".to_owned(),
            },
            ToString::to_string,
        );
        return fail(BAD_SETTING, &format!("{setting}: {value:?} {reason}"));
    }
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(BAD_SETTING)
    } else {
        ExitCode::SUCCESS
    }
}
