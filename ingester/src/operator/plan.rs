//! What a number of events a day asks of disk, PostgreSQL, Kafka and memory, by what this installation's events have
//! taken until now.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::{Client, Row};

/// What is planned for.
#[derive(Clone, Debug)]
pub struct Plan {
    pub events_per_day: u64,
    /// The part of them that are domain events; `None`: as it is in this database.
    pub domain_share: Option<f64>,
    pub keep_days: u32,
    /// Events a second in the busiest hour ÷ those of the mean.
    pub peak: f64,
    pub instances: u32,
    pub pool_size: u32,
    pub batch_bytes: u32,
    /// Seconds that the traffic is looked at.
    pub watch: u64,
}

const PARTS: &str = include_str!("../../../sql/capacity.sql");
const SERVER: &str = "
    SELECT current_setting('max_connections')::bigint, extract(epoch FROM current_setting('checkpoint_timeout')::interval)::float8,
        (SELECT count(*) FROM ledger.partition_progress WHERE is_domain IS NOT NULL),
        (SELECT sum((last_copy_us + last_apply_us + last_commit_us)::float8) / nullif(sum(last_batch_records), 0)
         FROM ledger.partition_status WHERE last_batch_records > 0)";
const TRAFFIC: &str = "
    SELECT (pg_current_wal_insert_lsn() - '0/0')::float8, (SELECT sum(commit_offset)::float8 FROM ledger.partition_progress)";

const PAGE: f64 = 8192.0;
const MIB: f64 = 1_048_576.0;
const DAY: f64 = 86_400.0;
/// What one partition's session may be busy at the peak.
const UTILISATION: f64 = 0.5;
/// Of an instance without partitions, and of what is bounded for all of them together.
const INSTANCE_MIB: f64 = 40.0;
/// Fetched and not gathered, for each partition: its queue, and the fetch that goes beyond.
const FETCHED_MIB: f64 = 3.0;

/// Bytes of one record.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bytes {
    table: f64,
    index: f64,
}

impl Bytes {
    fn plus(self, other: Self) -> Self {
        Self {
            table: self.table + other.table,
            index: self.index + other.index,
        }
    }

    fn all(self) -> f64 {
        self.table + self.index
    }
}

/// What this installation has shown until now.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    balance_records: i64,
    domain_records: i64,
    /// Of a balance event alone, of a domain event alone, and of either: what `sluice prune` removes.
    balance: Bytes,
    domain: Bytes,
    any: Bytes,
    /// Of a domain event, its rows in schema domain and in the platform's own tables: nothing prunes them.
    rows: Bytes,
    identity_index: f64,
    balances_bytes: f64,
    partitions: i64,
    max_connections: i64,
    checkpoint_s: f64,
    wal_bytes: Option<f64>,
    /// Of one session of PostgreSQL for one record.
    busy_us: Option<f64>,
}

/// One line of the answer.
pub struct Line {
    what: &'static str,
    /// `None` where this installation has not shown it.
    figure: Option<f64>,
    unit: &'static str,
    how: String,
}

impl Line {
    pub fn told(&self) -> Value {
        // Three digits say what there is to say.
        let rounded = |figure: f64| {
            let scale = 10f64.powi(2 - figure.abs().max(1e-9).log10().floor() as i32);
            let rounded = (figure * scale).round() / scale;
            match rounded.fract() == 0.0 {
                true => json!(rounded as i64),
                false => json!(rounded),
            }
        };
        json!({"what": self.what, "figure": self.figure.map(rounded), "unit": self.unit, "how": self.how})
    }
}

impl Shown {
    /// Whether there is nothing to plan by.
    pub fn is_nothing(&self) -> bool {
        self.balance_records + self.domain_records == 0
    }

    pub async fn by(client: &Client, watch: u64) -> Result<Self, tokio_postgres::Error> {
        let mut shown = Self::default();
        for row in client.query(PARTS, &[]).await? {
            shown.add(&row);
        }
        let before = client.query_one(TRAFFIC, &[]).await?;
        tokio::time::sleep(Duration::from_secs(watch)).await;
        let after = client.query_one(TRAFFIC, &[]).await?;
        let grown = |column| -> f64 {
            let at = |row: &Row| row.get::<_, Option<f64>>(column).unwrap_or_default();
            at(&after) - at(&before)
        };
        shown.wal_bytes = (grown(1) > 0.0).then(|| grown(0) / grown(1));
        let server = client.query_one(SERVER, &[]).await?;
        shown.max_connections = server.get(0);
        shown.checkpoint_s = server.get(1);
        shown.partitions = server.get(2);
        shown.busy_us = server.get(3);
        Ok(shown)
    }

    fn add(&mut self, row: &Row) {
        let (kind, part): (&str, &str) = (row.get("kind"), row.get("part"));
        let records: Option<i64> = row.get("records");
        let bytes = |column| row.get::<_, i64>(column) as f64;
        let (table, index) = (bytes("table_bytes"), bytes("index_bytes"));
        if kind == "account" {
            self.balances_bytes = table + index;
        }
        let Some(records) = records.filter(|records| *records > 0) else {
            return;
        };
        let each = Bytes {
            table: table / records as f64,
            index: index / records as f64,
        };
        if part == "identities" {
            self.identity_index = each.index;
        }
        match (kind, part) {
            ("balance", _) => {
                self.balance_records = records;
                self.balance = self.balance.plus(each);
            }
            ("domain", "verdicts") => {
                self.domain_records = records;
                self.domain = self.domain.plus(each);
            }
            ("domain", _) => self.rows = self.rows.plus(each),
            _ => self.any = self.any.plus(each),
        }
    }

    fn domain_share(&self) -> f64 {
        self.domain_records as f64 / (self.balance_records + self.domain_records).max(1) as f64
    }
}

/// The plan, line by line.
pub fn lines(shown: &Shown, plan: &Plan) -> Vec<Line> {
    let share = plan.domain_share.unwrap_or_else(|| shown.domain_share());
    let of = |kind: Bytes, records: i64| (records > 0).then(|| kind.plus(shown.any));
    let balance = of(shown.balance, shown.balance_records);
    let domain = of(shown.domain.plus(shown.rows), shown.domain_records);
    // A kind that is planned for and was never seen leaves no figure.
    let part = |share: f64, kind: Option<Bytes>| match share > 0.0 {
        true => kind.map(|kind| share * kind.all()),
        false => Some(0.0),
    };
    let mixed = part(1.0 - share, balance).zip(part(share, domain));
    let event = mixed.map(|(balance, domain)| balance + domain);
    let kept = share * shown.rows.all();
    let mut lines = vec![];
    let mut say = |what, figure: Option<f64>, unit, how: String| {
        lines.push(Line {
            what,
            figure,
            unit,
            how,
        });
    };
    for (what, kind, records) in [
        (
            "a balance event in tables and indexes",
            balance,
            shown.balance_records,
        ),
        (
            "a domain event in tables and indexes",
            domain,
            shown.domain_records,
        ),
    ] {
        let how = kind.map(|kind| {
            format!(
                "{:.0} in tables, {:.0} in indexes: what is stored now ÷ {records} records",
                kind.table, kind.index
            )
        });
        let how = how.unwrap_or_else(|| "none was committed here".into());
        say(what, kind.map(Bytes::all), "bytes", how);
    }
    let seen = match shown.wal_bytes {
        Some(_) => format!(
            "all of the server's WAL in {} s ÷ records committed meanwhile",
            plan.watch
        ),
        None => "nothing was committed while --watch looked: run it under load".into(),
    };
    say("WAL of an event", shown.wal_bytes, "bytes", seen);
    disk(shown, plan, event, kept, &mut say);
    rates(shown, plan, event, share, &mut say);
    connections(shown, plan, &mut say);
    lines
}

type Say<'s> = dyn FnMut(&'static str, Option<f64>, &'static str, String) + 's;

/// `kept` are the bytes of an event that no pruning removes.
fn disk(shown: &Shown, plan: &Plan, event: Option<f64>, kept: f64, say: &mut Say<'_>) {
    let events = plan.events_per_day as f64;
    let gigabytes = |days: f64, bytes: Option<f64>| bytes.map(|bytes| events * days * bytes / 1e9);
    say(
        "on disk after 30 days",
        gigabytes(30.0, event),
        "GB",
        "nothing pruned".into(),
    );
    say(
        "on disk after a year",
        gigabytes(365.0, event),
        "GB",
        "nothing pruned".into(),
    );
    // A day more than is kept: what was removed last is not used again yet.
    let longest = f64::from(plan.keep_days) + 1.0;
    for (what, days) in [
        ("with pruning, after 30 days", 30.0),
        ("with pruning, after a year", 365.0),
    ] {
        let there = longest.min(days);
        let figure = event.map(|event| events * (there * (event - kept) + days * kept) / 1e9);
        let how = format!(
            "`sluice prune --older-than {}d --apply` every day: {there} days of events, and of {days} days the rows in schema domain \
             and in tables of your own, {kept:.0} bytes of an event, which are not pruned",
            plan.keep_days
        );
        say(what, figure, "GB", how);
    }
    say(
        "WAL a day",
        gigabytes(1.0, shown.wal_bytes),
        "GB",
        "for archive and replicas".into(),
    );
    let balances = shown.balances_bytes / 1e9;
    say(
        "balances",
        Some(balances),
        "GB",
        "by accounts, not by events: as they are now".into(),
    );
}

fn rates(shown: &Shown, plan: &Plan, event: Option<f64>, share: f64, say: &mut Say<'_>) {
    let mean = plan.events_per_day as f64 / DAY;
    let peak = mean * plan.peak;
    say(
        "events a second, mean",
        Some(mean),
        "1/s",
        "over 24 hours".into(),
    );
    say(
        "events a second, peak",
        Some(peak),
        "1/s",
        format!("--peak {} × the mean", plan.peak),
    );
    // Between two checkpoints a page is written once, however often it changes.
    let interval = shown.checkpoint_s.max(1.0);
    let kept = plan.events_per_day as f64 * f64::from(plan.keep_days);
    let leaves = (peak * interval).min(kept * shown.identity_index / PAGE) / interval;
    let touched = (peak * interval * (1.0 - share)).min(shown.balances_bytes / PAGE) / interval;
    let iops = event
        .zip(shown.wal_bytes)
        .map(|(event, wal)| peak * (event + wal) / PAGE + leaves + touched);
    let how = format!(
        "pages of 8 kB at the peak: WAL, rows at the end of tables, and once every {interval:.0} s (checkpoint_timeout) \
         each page of identities ({leaves:.0}/s) and balances ({touched:.0}/s) that changed"
    );
    say("writes a second, at most", iops, "1/s", how);
    let busy = shown.busy_us.map(|us| peak * us / 1e6 / UTILISATION);
    let how = match shown.busy_us {
        Some(us) => format!(
            "{us:.0} µs of a session for an event in the last batches, half of the time at most"
        ),
        None => "no batch was reported in the last 10 s: run it under load".into(),
    };
    say(
        "partitions of Kafka, at least",
        busy.map(|partitions| partitions.ceil().max(1.0)),
        "",
        how,
    );
}

fn connections(shown: &Shown, plan: &Plan, say: &mut Say<'_>) {
    let instances = f64::from(plan.instances);
    let connections = instances * f64::from(plan.pool_size);
    let how = format!(
        "{} instances × DB_POOL_SIZE {}; max_connections is {}",
        plan.instances, plan.pool_size, shown.max_connections
    );
    say("connections, at most", Some(connections), "", how);
    let led = (shown.partitions as f64 / instances).ceil();
    let bytes = f64::from(plan.batch_bytes) / MIB;
    let memory = INSTANCE_MIB + led * (FETCHED_MIB + 2.0 * bytes);
    let how = format!(
        "{INSTANCE_MIB} + {led} partitions × ({FETCHED_MIB} fetched + 2 × BATCH_BYTES): reached under a backlog on all of them"
    );
    say("memory of an instance, at most", Some(memory), "MiB", how);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(shown: &Shown, plan: &Plan) -> Vec<(&'static str, Option<f64>)> {
        let lines = lines(shown, plan);
        lines.iter().map(|line| (line.what, line.figure)).collect()
    }

    /// docs/capacity.md: balance events with one change, and `payment.completed`.
    fn example() -> (Shown, Plan) {
        let bytes = |table, index| Bytes { table, index };
        let shown = Shown {
            balance_records: 800,
            domain_records: 200,
            balance: bytes(172.0, 41.0),
            domain: bytes(127.0, 32.0),
            any: bytes(77.0, 44.0),
            rows: bytes(207.0, 189.0),
            identity_index: 44.0,
            balances_bytes: 819_200.0,
            partitions: 8,
            max_connections: 100,
            checkpoint_s: 300.0,
            wal_bytes: Some(0.8 * 484.0 + 0.2 * 1060.0),
            busy_us: Some(20.0),
        };
        let plan = Plan {
            events_per_day: 20_000_000,
            domain_share: None,
            keep_days: 30,
            peak: 3.0,
            instances: 2,
            pool_size: 20,
            batch_bytes: 4 << 20,
            watch: 10,
        };
        (shown, plan)
    }

    #[test]
    fn the_worked_example_of_the_page() {
        let (shown, plan) = example();
        let known = figures(&shown, &plan);
        let figure = |name: &str| known.iter().find(|(what, _)| *what == name).expect(name).1;
        let peak = 3.0 * 20e6 / DAY;
        for (what, expected) in [
            ("a balance event in tables and indexes", 334.0),
            ("a domain event in tables and indexes", 676.0),
            ("on disk after 30 days", 241.44),
            ("on disk after a year", 2_937.52),
            ("with pruning, after 30 days", 241.44),
            // 31 days of it all, and 334 days of the rows of payments, 396 bytes each.
            (
                "with pruning, after a year",
                0.02 * (31.0 * 402.4 + 334.0 * 0.2 * 396.0),
            ),
            ("WAL a day", 11.984),
            ("events a second, peak", peak),
            // Each event changes a leaf of its own, and each of 100 pages of balances is written once.
            (
                "writes a second, at most",
                peak * (402.4 + 599.2) / 8192.0 + peak + 100.0 / 300.0,
            ),
            ("partitions of Kafka, at least", 1.0),
            ("connections, at most", 40.0),
            ("memory of an instance, at most", 40.0 + 4.0 * 11.0),
        ] {
            let figure = figure(what).expect(what);
            assert!(
                (figure - expected).abs() < 1e-6 * expected,
                "{what}: {figure}, not {expected}"
            );
        }
        // Ten days of what is pruned, and thirty of what is not.
        let short = Plan {
            keep_days: 9,
            ..plan
        };
        let known = figures(&shown, &short);
        let (_, figure) = known
            .iter()
            .find(|(what, _)| *what == "with pruning, after 30 days")
            .expect("a line");
        let expected = 0.02 * (10.0 * (402.4 - 79.2) + 30.0 * 79.2);
        assert!((figure.expect("a figure") - expected).abs() < 1e-6 * expected);
        // What was never seen is not made up.
        let silent = Shown {
            wal_bytes: None,
            domain_records: 0,
            ..shown
        };
        let all = Plan {
            domain_share: Some(1.0),
            ..short
        };
        let known = figures(&silent, &all);
        for what in [
            "WAL a day",
            "on disk after a year",
            "with pruning, after a year",
            "writes a second, at most",
        ] {
            assert!(known.contains(&(what, None)), "{what}");
        }
    }
}
