//! `sluice events check`: whether events could be decoded, without Kafka and without PostgreSQL.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use crate::cli::output::{Format, Output, print, write_line};
use crate::operator::event_check::{File, Findings, Rules, check};
use crate::words::of_io;

#[derive(Args)]
pub struct Check {
    /// Files of events, one JSON text after the other: a line each, or pretty-printed; - is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Check the events for the topic of this type; default: each for the type that it gives itself
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Bytes of a payload at most, as the ingesters have it
    #[arg(long, env = "MAX_EVENT_BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1024..=67_108_864))]
    max_event_bytes: u32,
    #[command(flatten)]
    format: Format,
}

/// What the database alone can tell.
const UNCHECKED: &str = "Not checked, because only the database can tell: whether the balances suffice, whether an eventId was used before, \
     and whether the handler of a domain event accepts its data.";

/// Whether all events could be decoded; what could not be read is an error.
pub fn check_events(arguments: &Check) -> Result<bool, String> {
    let files = arguments.files.iter().map(read);
    let files = files.collect::<Result<Vec<_>, String>>()?;
    let rules = Rules {
        event_type: arguments.event_type.clone(),
        max_event_bytes: arguments.max_event_bytes as usize,
    };
    let findings = check(&files, &rules);
    if findings.events() == 0 {
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        return Err(format!("{}: no event", names.join(", ")));
    }
    let output = arguments.format.output;
    if output == Output::Table {
        write_line(&as_text(&findings))?;
    } else {
        let rows: Vec<_> = findings
            .refused
            .iter()
            .map(|refused| refused.row())
            .collect();
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

fn as_text(findings: &Findings) -> String {
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
