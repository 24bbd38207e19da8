//! The process: its log, its runtime, and how it ends.

use std::io::IsTerminal;
use std::process::ExitCode;

use sluice::cli::{self, BAD_SETTING, LogArgs, LogFormat, fail};
use sluice::{instance, terminal, words};
use tracing::subscriber::set_global_default;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    instance::begins();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    if let Err(bad) = log(&cli.log) {
        return fail(BAD_SETTING, &bad);
    }
    // A defect of ours is one line too; the log of a service is no place for a backtrace.
    std::panic::set_hook(Box::new(|panic| {
        let file = panic
            .location()
            .map_or("", |location| words::place(location.file()));
        let line = panic.location().map_or(0, std::panic::Location::line);
        let message = panic
            .payload_as_str()
            .unwrap_or("no message")
            .replace('\n', " ");
        tracing::error!("internal error: panicked at {file}:{line}: {message}");
    }));
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("cannot start: {}", words::of_io(&error))),
    };
    let status = runtime.block_on(cli::execute(cli.command));
    // Blocking calls into librdkafka end by their own time-outs; nobody waits for them.
    runtime.shutdown_background();
    status
}

const BAD_FILTER: &str = "RUST_LOG: must be a level (error, warn, info, debug, trace) or a list of targets with levels, for example sluice=debug,warn";

fn log(args: &LogArgs) -> Result<(), String> {
    let filter = EnvFilter::try_new(&args.rust_log).map_err(|_| BAD_FILTER.to_owned())?;
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
    // Not by `init`, which would show what libraries log, in their words and with source files of the builder.
    let installed = match text {
        true => set_global_default(builder.with_ansi(terminal).finish()),
        false => set_global_default(builder.json().flatten_event(true).finish()),
    };
    installed.map_err(|_| "the log was set up already".to_owned())
}
