//! `sluice events check`: whether events could be decoded, without Kafka and without PostgreSQL.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use crate::cli::output::{Format, print, write_line};
use crate::operator::event_check::{File, Findings, Refused, Rules, check, events_of};
use crate::words::of_io;

/// Events in files. Shared by `check` and `try`.
#[derive(Args)]
pub struct Files {
    /// Files of events, one JSON text after the other: a line each, or pretty-printed; - is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Bytes of a payload at most, as the ingesters have it
    #[arg(long, env = "MAX_EVENT_BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1024..=67_108_864))]
    max_event_bytes: u32,
}

impl Files {
    pub fn read(&self) -> Result<Vec<File>, String> {
        let files = self.files.iter().map(read);
        let files = files.collect::<Result<Vec<_>, String>>()?;
        if files.iter().all(|file| events_of(file).is_empty()) {
            let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
            return Err(format!("{}: no event", names.join(", ")));
        }
        Ok(files)
    }

    pub fn rules(&self, event_type: Option<String>) -> Rules {
        Rules {
            event_type,
            max_event_bytes: self.max_event_bytes as usize,
        }
    }
}

#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    files: Files,
    /// Check the events for the topic of this type; default: each for the type that it gives itself
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// What the database alone can tell.
const UNCHECKED: &str = "Not checked, because only the database can tell: whether the balances suffice, whether an eventId was used before, \
     and whether the handler of a domain event accepts its data (sluice events try).";

/// Whether all events could be decoded; what could not be read is an error.
pub fn check_events(arguments: &Check) -> Result<bool, String> {
    let files = arguments.files.read()?;
    let findings = check(&files, &arguments.files.rules(arguments.event_type.clone()));
    let output = arguments.format.output;
    if output.is_table() {
        write_line(&as_text(&findings))?;
    } else {
        let rows: Vec<_> = findings.refused.iter().map(Refused::row).collect();
        print(&rows, output, "")?;
    }
    Ok(findings.refused.is_empty())
}

fn read(path: &PathBuf) -> Result<File, String> {
    let (name, bytes) = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().read_to_end(&mut bytes);
        ("stdin".to_owned(), read.map(|_| bytes))
    } else {
        (path.display().to_string(), std::fs::read(path))
    };
    match bytes {
        Ok(bytes) => Ok(File { name, bytes }),
        Err(error) => Err(format!("{name}: cannot be read: {}", of_io(&error))),
    }
}

/// Two lines for each refusal.
pub fn refusals(findings: &Findings) -> Vec<String> {
    let mut lines = Vec::new();
    for refused in &findings.refused {
        let event = match &refused.event_id {
            Some(event_id) => format!("event {}", event_id.escape_debug()),
            None => "event without a readable id".to_owned(),
        };
        let (file, line, reason) = (&refused.file, refused.line, refused.reason);
        lines.push(format!(
            "{file}:{line}: {event}: {reason}: {}",
            refused.message
        ));
        lines.push(format!("    {}", refused.advice));
    }
    lines
}

fn as_text(findings: &Findings) -> String {
    let mut lines = refusals(findings);
    for own_type in findings.own_types() {
        lines.push(format!(
            "{} does not come with Sluice: its events need a handler of your own",
            own_type.escape_debug()
        ));
    }
    lines.push(summary(findings));
    lines.push(UNCHECKED.to_owned());
    lines.join("\n")
}

fn summary(findings: &Findings) -> String {
    let accepted = findings.accepted.iter();
    let accepted: Vec<_> = accepted
        .map(|(event_type, count)| format!("{count} {}", event_type.escape_debug()))
        .collect();
    let events = match findings.events() {
        1 => "1 event".to_owned(),
        count => format!("{count} events"),
    };
    let accepted = match accepted.as_slice() {
        [] => "none can be decoded".to_owned(),
        accepted => format!("can be decoded: {}", accepted.join(", ")),
    };
    let repeated = match findings.duplicates {
        0 => String::new(),
        count => format!(", of which {count} repeated (DUPLICATE)"),
    };
    format!(
        "{events}, {} refused; {accepted}{repeated}.",
        findings.refused.len()
    )
}
