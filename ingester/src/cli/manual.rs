//! The manual pages: what clap knows of each command, and behind it its environment, examples and exit status.

use std::io::{self, Write};
use std::path::Path;

use clap::{Arg, Command};
use clap_mangen::Man;

use crate::config::secrets::is_secret;

/// Lines that people type, each with what it is for. A page shows those of its own command.
const EXAMPLES: [(&str, &str); 38] = [
    (
        "sluice migrate && sluice check && sluice run",
        "from an empty database to committed events",
    ),
    (
        "DATABASE_URL_FILE=/run/secrets/database-url KAFKA_BROKERS=kafka:9092 sluice run",
        "the address of the database comes from a file",
    ),
    (
        "INSTALLATION=bank EVENT_TOPICS= sluice run",
        "balance events alone, of one of several installations on this Kafka",
    ),
    (
        "ADMIN_DATABASE_URL=postgres://postgres@db/bank sluice migrate",
        "before the first start, and before the ingesters of a new version",
    ),
    ("sluice uninstall", "what would be removed"),
    ("sluice uninstall --yes", "removes it"),
    (
        "sluice check -o json",
        "for programs: what does not fit, and what to change",
    ),
    (
        "sluice status --watch --troubled",
        "what waits for a person, again every second",
    ),
    (
        "sluice status --topic balance.changed -o wide",
        "all columns in full",
    ),
    (
        "sluice partitions --topic balance.changed",
        "offsets, also while no ingester runs",
    ),
    (
        "sluice pause balance.changed/3 --why 'ticket 4711'",
        "its records wait in Kafka",
    ),
    (
        "sluice resume balance.changed/3",
        "goes on where it stopped",
    ),
    (
        "sluice resume balance.changed --why 'trigger mended'",
        "all partitions that the circuit breaker has paused",
    ),
    (
        "sluice bury balance.changed/3 4711 --why 'ticket 4711'",
        "one record becomes a dead letter",
    ),
    (
        "sluice step-down balance.changed/3",
        "another instance takes over, if there is one",
    ),
    (
        "sluice accept balance.changed/3 --offset 5000 --why 'ticket 4712: lost up to 4999'",
        "after a loss of records in Kafka",
    ),
    (
        "sluice prune --topic balance.changed",
        "what would be removed",
    ),
    (
        "sluice prune --topic balance.changed --older-than 90d --apply",
        "removes it, chunk by chunk; from cron, for example",
    ),
    (
        "sluice plan --events-per-day 50000000 --keep-days 30",
        "disk, connections and memory for so many events",
    ),
    (
        "sluice dlq stats",
        "how many there are, by topic, code and status",
    ),
    (
        "sluice dlq list --code HANDLER_FAILED --since yesterday",
        "the latest first",
    ),
    (
        "sluice dlq show 42",
        "one of them, and what was done with it",
    ),
    (
        "sluice dlq show 42 --payload >corrected.json",
        "to be corrected in a file",
    ),
    (
        "sluice dlq replay --topic user.created",
        "a dry run: what each would become",
    ),
    (
        "sluice dlq replay --id 42 --payload corrected.json --apply --why 'decimal comma'",
        "with a corrected payload",
    ),
    (
        "sluice dlq discard --id 43 --apply --why 'test data'",
        "gives one up",
    ),
    (
        "sluice dlq restore --id 43 --apply --why 'needed after all'",
        "parks it again",
    ),
    (
        "sluice dlq export --status PARKED >letters.jsonl",
        "all about them, one JSON object a line",
    ),
    ("sluice events list", "the types that come with Sluice"),
    (
        "sluice events schema user.created",
        "the JSON Schema of a type",
    ),
    (
        "sluice events sample user.created",
        "an event that is ready to be sent",
    ),
    (
        "sluice events check events.jsonl",
        "whether events can be decoded, before they are sent",
    ),
    (
        "sluice events try user.created events.jsonl",
        "what the handler of the type makes of them, rolled back",
    ),
    (
        "sluice events find dep-1 --source bank",
        "what became of an event",
    ),
    (
        "sluice events topics --create --partitions 8",
        "makes the topics that are not there",
    ),
    (
        "sluice completions bash >/etc/bash_completion.d/sluice",
        "for all users of a machine",
    ),
    ("sluice man /usr/local/share/man/man1", "these pages"),
    ("sluice version", "what is installed"),
];

const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "Done, or stopped by SIGTERM or SIGINT."),
    (
        "1",
        "Something fails that does not heal by itself; for check: something does not fit; for events check and try: an event is refused.",
    ),
    ("2", "A setting or an argument is wrong; one line names it."),
];

/// Writes a page for each command into a folder.
pub fn write(command: Command, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write_pages(&command, &[], folder)
}

/// `above` are the names of the commands that this one is below of.
fn write_pages(command: &Command, above: &[&str], folder: &Path) -> io::Result<()> {
    let names = [above, &[command.get_name()]].concat();
    let below: Vec<&Command> = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .collect();
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    environment(command, &mut page)?;
    examples(&names, &mut page)?;
    exit_status(&mut page)?;
    let mut related: Vec<String> = (1..names.len())
        .map(|count| names[..count].join("-"))
        .collect();
    related.extend(
        below
            .iter()
            .map(|below| format!("{}-{}", names.join("-"), below.get_name())),
    );
    see_also(&related, &mut page)?;
    std::fs::write(folder.join(format!("{}.1", names.join("-"))), page)?;
    below
        .iter()
        .try_for_each(|below| write_pages(below, &names, folder))
}

/// Text as roff takes it: no line begins with a control character, and a backslash is one.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

fn environment(command: &Command, page: &mut impl Write) -> io::Result<()> {
    let named = |argument: &&Arg| argument.get_env().is_some();
    let mut arguments: Vec<&Arg> = command.get_arguments().filter(named).collect();
    arguments.sort_by_key(|argument| argument.get_env());
    writeln!(page, ".SH ENVIRONMENT")?;
    if arguments.is_empty() {
        return writeln!(page, "None of its own; see \\fBsluice\\-run\\fR(1).");
    }
    for argument in arguments {
        let name = argument.get_env().and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        let help = argument.get_help().map(ToString::to_string);
        writeln!(page, ".TP\n\\fB{}\\fR", roff(name))?;
        writeln!(page, "{}", roff(&help.unwrap_or_default()))?;
        if is_secret(name) {
            writeln!(
                page,
                "A secret: never a flag; {}_FILE names a file that holds it.",
                roff(name)
            )?;
        }
    }
    if command
        .get_arguments()
        .any(|argument| argument.get_id() == "kafka_brokers")
    {
        writeln!(page, ".TP\n\\fBKAFKA_\\fR\\fINAME\\fR")?;
        writeln!(
            page,
            "A property of librdkafka: KAFKA_SECURITY_PROTOCOL is security.protocol; KAFKA_\\fINAME\\fR_FILE names a file that holds it."
        )?;
    }
    Ok(())
}

/// Those that type this command, or one below it.
fn of_command(names: &[&str]) -> Vec<(&'static str, &'static str)> {
    if let [_] = names {
        return vec![EXAMPLES[0]];
    }
    let words = names.join(" ");
    let types_it = |line: &str| {
        let ends = |rest: &str| rest.is_empty() || rest.starts_with(' ');
        line.match_indices(&words)
            .any(|(at, found)| ends(&line[at + found.len()..]))
    };
    let of_its_own = EXAMPLES[1..].iter().filter(|(line, _)| types_it(line));
    of_its_own.copied().collect()
}

fn examples(names: &[&str], page: &mut impl Write) -> io::Result<()> {
    writeln!(page, ".SH EXAMPLES")?;
    for (line, meaning) in of_command(names) {
        writeln!(page, ".TP\n\\fB{}\\fR\n{}", roff(line), roff(meaning))?;
    }
    Ok(())
}

fn exit_status(page: &mut impl Write) -> io::Result<()> {
    writeln!(page, ".SH \"EXIT STATUS\"")?;
    for (status, meaning) in EXIT_STATUS {
        writeln!(page, ".TP\n\\fB{status}\\fR\n{}", roff(meaning))?;
    }
    Ok(())
}

fn see_also(related: &[String], page: &mut impl Write) -> io::Result<()> {
    writeln!(page, ".SH \"SEE ALSO\"")?;
    let pages = related.iter().map(String::as_str).chain(["psql"]);
    let pages: Vec<String> = pages
        .map(|name| format!("\\fB{}\\fR(1)", roff(name)))
        .collect();
    writeln!(page, "{}", pages.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_examples_environment_exit_status_and_see_also() {
        let folder = std::env::temp_dir().join(format!("sluice-man-{}", std::process::id()));
        write(crate::cli::command_line(), &folder).expect("a folder of our own");
        let mut pages = 0;
        for file in std::fs::read_dir(&folder).expect("it is there") {
            let file = file.expect("an entry").path();
            let page = std::fs::read_to_string(&file).expect("text");
            for section in [
                "EXAMPLES\n.TP",
                "ENVIRONMENT\n",
                "\"EXIT STATUS\"\n.TP",
                "\"SEE ALSO\"\n\\fB",
            ] {
                assert!(
                    page.contains(&format!(".SH {section}")),
                    "{}: {section}",
                    file.display()
                );
            }
            pages += 1;
        }
        std::fs::remove_dir_all(&folder).expect("ours");
        assert!(pages > 25, "{pages}");
    }

    #[test]
    fn a_page_shows_the_lines_of_its_own_command() {
        let lines = |names: &[&str]| of_command(names).len();
        assert_eq!(lines(&["sluice"]), 1);
        assert_eq!(lines(&["sluice", "dlq", "replay"]), 2);
        assert_eq!(lines(&["sluice", "dlq"]), 9);
        assert_eq!(lines(&["sluice", "man"]), 1);
    }
}
