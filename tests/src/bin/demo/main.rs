//! `make demo`: a million balance events from Kafka to PostgreSQL, with a leader killed half way,
//! then domain events of all types, and the proof after each act. EVENTS, DOMAIN_EVENTS and KILLS
//! change the numbers.

mod events;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use proofs::campaign::{Audience, Outcome, Plan, run};
use proofs::rng::seed;
use proofs::stack::Stack;
use proofs::workload::Workload;

const PARTITIONS: i32 = 8;

#[tokio::main]
async fn main() -> ExitCode {
    let plan = Plan {
        events: number("EVENTS", 1_000_000),
        partitions: PARTITIONS,
        kills: number("KILLS", 1),
        workload: Workload::new(seed()),
    };
    let stack = Stack::get();
    let mut screen = Screen::new(plan.events);
    let outcome = run(&stack, &plan, &mut screen).await;
    screen.bar.finish_and_clear();
    print(&outcome);
    let domain_events = number("DOMAIN_EVENTS", 60_000) as usize;
    let events_are_good = events::run(&stack, domain_events, &mut screen).await;
    print_next(&stack);
    if outcome.is_good() && events_are_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn number(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    text.parse().unwrap_or_else(|_| {
        eprintln!("demo: {name} must be a whole number, not {text:?}");
        std::process::exit(2)
    })
}

/// A bar for a person at a terminal, a line now and then for a log.
struct Screen {
    bar: ProgressBar,
    is_terminal: bool,
    events: u64,
    start: Option<Instant>,
    last_line: Instant,
}

const LINE_EVERY: Duration = Duration::from_secs(3);

impl Screen {
    fn new(events: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = if is_terminal {
            ProgressBar::new(events)
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template(
            "  {bar:40.cyan/blue} {human_pos} of {human_len} committed, {msg}",
        );
        bar.set_style(style.expect("a valid template"));
        Self {
            bar,
            is_terminal,
            events,
            start: None,
            last_line: Instant::now(),
        }
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Audience for Screen {
    fn step(&mut self, what: &str) {
        self.say(&format!("▸ {what}"));
        self.start = Some(Instant::now());
    }

    fn progress(&mut self, sent: u64, committed: u64) {
        let seconds = self
            .start
            .map_or(1.0, |start| start.elapsed().as_secs_f64())
            .max(0.001);
        let rate = thousands((committed as f64 / seconds) as u64);
        if self.is_terminal {
            self.bar.set_position(committed);
            self.bar
                .set_message(format!("{} sent, {rate}/s", thousands(sent)));
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            self.say(&format!(
                "  {} of {} committed, {} sent, {rate}/s",
                thousands(committed),
                thousands(self.events),
                thousands(sent)
            ));
        }
    }

    fn note(&mut self, what: &str) {
        self.say(&format!("  ✂ {what}"));
    }
}

fn print(outcome: &Outcome) {
    let report = &outcome.report;
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    let mut row = |name: &str, value: String| {
        table.add_row([
            Cell::new(name),
            Cell::new(value).set_alignment(CellAlignment::Right),
        ]);
    };
    row("records", thousands(report.records));
    row(
        "seconds from the first one sent to the last one committed",
        format!("{:.1}", outcome.took.as_secs_f64()),
    );
    row(
        "events per second, kills included",
        thousands((report.records as f64 / outcome.took.as_secs_f64()) as u64),
    );
    row("balance changes logged", thousands(report.changes));
    row("accounts", thousands(report.accounts));
    row(
        "largest ingester at its peak, MB of memory",
        (outcome.peak_rss_bytes >> 20).to_string(),
    );
    for (number, kill) in (1..).zip(&outcome.kills) {
        let name = format!(
            "take-over after kill -9 no. {number} of a leader of {}, first to last partition, ms",
            kill.led
        );
        let ms = |time: Duration| time.as_millis().to_string();
        let value = kill
            .takeover
            .map_or("nothing left to take over".to_owned(), |(first, last)| {
                format!("{} to {}", ms(first), ms(last))
            });
        row(&name, value);
    }
    println!("{table}");

    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_BORDERS_ONLY)
        .set_header(["verdict", "records", "share"]);
    for (verdict, count) in &report.verdicts {
        let share = format!(
            "{:.2} %",
            *count as f64 * 100.0 / report.records.max(1) as f64
        );
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([Cell::new(verdict), right(thousands(*count)), right(share)]);
    }
    println!("{table}");

    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_BORDERS_ONLY)
        .set_header(["check", "result"]);
    let result = |found: Option<String>| match found {
        None => Cell::new("ok").fg(Color::Green),
        Some(found) => Cell::new(found).fg(Color::Red),
    };
    for (check, found) in &outcome.checks {
        table.add_row([Cell::new(format!("sql/{check}.sql")), result(found.clone())]);
    }
    let differences = (report.difference_count > 0)
        .then(|| format!("{} differences", thousands(report.difference_count)));
    table.add_row([
        Cell::new("every record, change, balance and dead letter against the reference ledger"),
        result(differences),
    ]);
    println!("{table}");
    report
        .differences
        .iter()
        .for_each(|difference| println!("  {difference}"));
}

fn print_next(stack: &Stack) {
    let kept = std::env::var("KEEP").is_ok_and(|keep| keep == "1");
    let first = format!("set -a; . {}/env; set +a", stack.dir.display());
    println!(
        "{}",
        if kept {
            format!("To look around:\n  {first}")
        } else {
            "To look around, run it again as: make demo KEEP=1. Then:".to_owned()
        }
    );
    for query in [
        "SELECT verdict, reason, count(*) FROM ledger.event_verdicts GROUP BY 1, 2 ORDER BY 3 DESC",
        "SELECT kafka_offset, status, reject_reason, available_delta, available_after FROM ledger.balance_change_logs \
         WHERE account_id = 256 AND currency_code = 'USD' ORDER BY kafka_offset LIMIT 20",
        "SELECT kafka_offset, error_code, error_message, left(encode(payload, 'escape'), 40) FROM ledger.dead_letters LIMIT 10",
    ] {
        println!("  psql \"$ADMIN_DATABASE_URL\" -c \"{query}\"");
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
