//! Compares the database with the reference ledger, record by record: verdict, reason, event id,
//! every log row, every balance, every dead letter byte for byte, and the commit offsets.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::database::{Database, Lines, connect, unescape};
use crate::dead_letters::{Buried, compare_dead_letters, statuses};
use crate::deeds::Deeds;
use crate::event::{Account, Change};
use crate::kafka::{Kafka, Record};
use crate::reference::{Balance, Book, Judgement, Ledger, Verdict, parse_numeric, show};
use crate::stack::Stack;
use crate::workload::Workload;

/// Whose balances an event is judged on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Accounts {
    /// Each partition has its own: everything is determined by the order of its records.
    OfOnePartition,
    /// Commits of several partitions interleave: each event is judged on the balances that its log rows
    /// say it met, and `sql/check_balance_chain.sql` proves that these were there.
    Shared,
}

/// What was found, in all partitions together.
#[derive(Default)]
pub struct Report {
    pub records: u64,
    /// By verdict and reason, for example `REJECTED INSUFFICIENT_BALANCE`.
    pub verdicts: BTreeMap<String, u64>,
    pub changes: u64,
    pub accounts: u64,
    pub difference_count: u64,
    /// The first few, in words.
    pub differences: Vec<String>,
    book: Book,
}

const DIFFERENCES_SHOWN: usize = 20;

impl Report {
    pub(crate) fn differs(&mut self, text: impl FnOnce() -> String) {
        self.difference_count += 1;
        if self.differences.len() < DIFFERENCES_SHOWN {
            self.differences.push(text());
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.records += other.records;
        self.changes += other.changes;
        self.difference_count += other.difference_count;
        self.differences.extend(other.differences);
        self.differences.truncate(DIFFERENCES_SHOWN);
        for (verdict, count) in other.verdicts {
            *self.verdicts.entry(verdict).or_default() += count;
        }
        for (account, balance) in other.book {
            let sum = self.book.entry(account).or_default();
            *sum = Balance {
                available: sum.available + balance.available,
                frozen: sum.frozen + balance.frozen,
            };
        }
    }

    /// How many records got this verdict, whatever the reason.
    pub fn count(&self, verdict: &str) -> u64 {
        self.verdicts
            .iter()
            .filter(|(name, _)| name.starts_with(verdict))
            .map(|(_, count)| count)
            .sum()
    }

    pub fn assert_none(&self) {
        let list = self.differences.join("\n  ");
        assert_eq!(
            self.difference_count, 0,
            "differences from the reference ledger:\n  {list}"
        );
    }
}

/// Where the records are known from.
#[derive(Clone)]
pub enum Source {
    /// Kafka has all of them.
    Topic,
    /// Kafka has lost the older ones, and `sluice.prune` has forgotten them: each partition's are the
    /// beginning of its stream.
    Sent(Workload),
}

/// Reads the topic by itself and compares everything that the database says about it. The database
/// must hold no other topic's balances.
pub async fn compare(
    stack: &Stack,
    database: &Database,
    topic: &str,
    partitions: i32,
    accounts: Accounts,
) -> Report {
    compare_from(Source::Topic, stack, database, topic, partitions, accounts).await
}

/// The same, with the records from `source`.
pub async fn compare_from(
    source: Source,
    stack: &Stack,
    database: &Database,
    topic: &str,
    partitions: i32,
    accounts: Accounts,
) -> Report {
    let deeds = Arc::default();
    let topics = [(topic, partitions, accounts)];
    compare_topics(source, stack, database, &topics, &deeds).await
}

/// The same for all balance topics of a database (name, partitions, whose accounts), after what operators did.
pub async fn compare_topics(
    source: Source,
    stack: &Stack,
    database: &Database,
    topics: &[(&str, i32, Accounts)],
    deeds: &Arc<Deeds>,
) -> Report {
    let mut report = Report::default();
    // Minutes after a million inserts autovacuum may not have counted them yet, and the plans would be bad.
    database
        .client
        .batch_execute("ANALYZE")
        .await
        .expect("a superuser may analyze");
    let mut waiting: Vec<(&str, i32, Accounts)> = Vec::new();
    for (topic, partitions, accounts) in topics {
        waiting.extend((0..*partitions).map(|partition| (*topic, partition, *accounts)));
    }
    waiting.reverse();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        // Two at a time: the cores are few, and each holds a partition in memory.
        while tasks.len() < 2 {
            let Some((topic, partition, accounts)) = waiting.pop() else {
                break;
            };
            tasks.spawn(compare_partition(
                source.clone(),
                stack.kafka.clone(),
                database.admin_url.clone(),
                topic.to_owned(),
                partition,
                accounts,
                deeds.clone(),
            ));
        }
        match tasks.join_next().await {
            Some(part) => report.add(part.expect("the comparison does not panic")),
            None => break,
        }
    }
    compare_balances(database, deeds, &mut report).await;
    for (topic, partitions, _) in topics {
        compare_offsets(stack, database, topic, *partitions, &mut report).await;
    }
    report
}

/// The same for one partition alone, without balances and offsets.
pub async fn compare_partition(
    source: Source,
    kafka: Kafka,
    admin_url: String,
    topic: String,
    partition: i32,
    accounts: Accounts,
    deeds: Arc<Deeds>,
) -> Report {
    let reading = topic.clone();
    let is_pruned = matches!(source, Source::Sent(_));
    let mut records =
        tokio::task::spawn_blocking(move || source.records(&kafka, &reading, partition))
            .await
            .expect("the topic can be read");
    let place = Place {
        topic: &topic,
        partition,
    };
    let pruned_below = if is_pruned || !deeds.letters.is_empty() {
        pruned_below(&admin_url, &place).await
    } else {
        0
    };
    let timed_from = deeds.timed_from(&topic, partition);
    let mut stored = Stored::open(&admin_url, &place).await;
    // A letter that was replayed was judged on what corrected it.
    let mut originals = HashMap::new();
    let statuses = if deeds.letters.is_empty() {
        HashMap::new()
    } else {
        statuses(&admin_url, &place).await
    };
    // One that was closed may have been pruned since.
    let is_gone = |offset| offset < pruned_below && !statuses.contains_key(&offset);
    for record in &mut records {
        let letter = deeds.letter(&topic, partition, record.offset);
        let status = statuses.get(&record.offset).map(String::as_str);
        if let Some(payload) = letter.and_then(|letter| letter.payload.clone())
            && (status == Some("REPLAYED") || is_gone(record.offset))
        {
            originals.insert(record.offset, record.message.clone());
            record.message.payload = Some(payload);
        }
    }
    let mut ledger = Ledger::default();
    let mut report = Report::default();
    let mut dead = HashMap::new();
    for index in 0..records.len() {
        let offset = records[index].offset;
        let found = stored.take(offset, &mut report, &place).await;
        let met = (accounts == Accounts::Shared).then(|| balances_met(&found));
        let mut expected = ledger.judge(&records, index, met.as_ref());
        if offset < timed_from && found.times().all(|time_us| time_us.is_none()) {
            expected.time_us = None;
        }
        report.records += 1;
        let is_open = matches!(expected.verdict, Verdict::Dead(_));
        let letter = deeds.letter(&topic, partition, offset);
        if letter.is_some() && is_gone(offset) && found.verdict.is_none() && found.log.is_empty() {
            continue;
        }
        if offset < pruned_below && !is_open && letter.is_none() {
            if found.verdict.is_some() || !found.log.is_empty() {
                report.differs(|| format!("{}: was to be pruned", place.at(offset)));
            }
            continue;
        }
        compare_record(&expected, &found, &place, offset, &mut report);
        let original = originals.get(&offset);
        if is_open || original.is_some() {
            let (event_id, reason) = found
                .verdict
                .map(|row| (row.event_id, row.reason))
                .unwrap_or_default();
            dead.insert(
                offset,
                Buried {
                    message: original.unwrap_or(&records[index].message),
                    letter,
                    event_id,
                    reason,
                },
            );
        }
    }
    stored.take(i64::MAX, &mut report, &place).await;
    compare_dead_letters(&stored.session, &place, dead, &mut report).await;
    report.book = ledger.book;
    report
}

impl Source {
    fn records(&self, kafka: &Kafka, topic: &str, partition: i32) -> Vec<Record> {
        let Self::Sent(workload) = self else {
            return kafka.read(topic, partition);
        };
        let (begin, end) = kafka.watermarks(topic, partition);
        let sent = workload.stream(partition).take(end as usize);
        let sent: Vec<Record> = sent
            .zip(0..)
            .map(|(message, offset)| Record { offset, message })
            .collect();
        assert!(
            kafka.read(topic, partition) == sent[begin as usize..],
            "{topic}/{partition} is not what was sent"
        );
        sent
    }
}

pub(crate) struct Place<'a> {
    pub topic: &'a str,
    pub partition: i32,
}

impl Place<'_> {
    pub fn filter(&self) -> String {
        format!(
            "topic = '{}' AND partition = {}",
            self.topic, self.partition
        )
    }

    pub fn at(&self, offset: i64) -> String {
        format!("{}/{}@{offset}", self.topic, self.partition)
    }
}

struct VerdictRow {
    offset: i64,
    event_id: Option<String>,
    verdict: String,
    reason: Option<String>,
    time_us: Option<i64>,
}

struct LogRow {
    offset: i64,
    change_no: usize,
    event_id: Option<String>,
    change: Change,
    after: Balance,
    status: String,
    reason: Option<String>,
    time_us: Option<i64>,
}

/// Microseconds since 1970.
const TIME_US: &str = "(extract(epoch FROM event_time) * 1000000)::bigint";

/// The first offset that pruning has left alone.
async fn pruned_below(admin_url: &str, place: &Place<'_>) -> i64 {
    let query = "SELECT r.pruned_below FROM ledger.retention r JOIN ledger.partition_leases l USING (partition_id)
        WHERE l.topic = $1 AND l.partition = $2";
    let at = [&place.topic as &(dyn ToSql + Sync), &place.partition];
    let row = connect(admin_url).await.query_opt(query, &at).await;
    let row = row.expect("the table of what was pruned");
    row.map_or(0, |row| row.get(0))
}

/// What the database says about one record.
#[derive(Default)]
struct Found {
    verdict: Option<VerdictRow>,
    log: Vec<LogRow>,
}

impl Found {
    /// The event's time as it stands in the verdict and in each row of the log.
    fn times(&self) -> impl Iterator<Item = Option<i64>> {
        let log = self.log.iter().map(|row| row.time_us);
        log.chain(self.verdict.iter().map(|row| row.time_us))
    }
}

/// Verdicts and log rows of a partition, read side by side in offset order.
struct Stored {
    verdicts: Lines,
    logs: Lines,
    verdict: Option<VerdictRow>,
    log: Option<LogRow>,
    session: Client,
}

impl Stored {
    async fn open(admin_url: &str, place: &Place<'_>) -> Self {
        let filter = place.filter();
        // Two sessions, because one connection carries one COPY at a time.
        let session = connect(admin_url).await;
        let verdicts = Lines::of(
            &session,
            &format!("SELECT kafka_offset, event_id, verdict, reason, {TIME_US} FROM ledger.event_verdicts WHERE {filter} ORDER BY kafka_offset"),
        )
        .await;
        let logs = Lines::of(
            &connect(admin_url).await,
            &format!(
                "SELECT kafka_offset, change_no, event_id, account_id, shard_id, currency_code, available_delta, frozen_delta,
                    available_after, frozen_after, status, reject_reason, {TIME_US}
                 FROM ledger.balance_change_logs WHERE {filter} ORDER BY kafka_offset, change_no"
            ),
        )
        .await;
        let mut stored = Self {
            verdicts,
            logs,
            verdict: None,
            log: None,
            session,
        };
        stored.verdict = stored.verdicts.next().await.map(verdict_row);
        stored.log = stored.logs.next().await.map(log_row);
        stored
    }

    /// What belongs to `offset`; what stands before it belongs to no record and is a difference.
    async fn take(&mut self, offset: i64, report: &mut Report, place: &Place<'_>) -> Found {
        let mut found = Found::default();
        while let Some(row) = self.verdict.take_if(|row| row.offset <= offset) {
            if row.offset < offset || found.verdict.is_some() {
                report.differs(|| {
                    format!(
                        "{}: one verdict too many, {}",
                        place.at(row.offset),
                        row.verdict
                    )
                });
            } else {
                found.verdict = Some(row);
            }
            self.verdict = self.verdicts.next().await.map(verdict_row);
        }
        while let Some(row) = self.log.take_if(|row| row.offset <= offset) {
            if row.offset < offset {
                report.differs(|| format!("{}: a log row without a record", place.at(row.offset)));
            } else {
                found.log.push(row);
            }
            self.log = self.logs.next().await.map(log_row);
        }
        found
    }
}

fn verdict_row(line: &str) -> VerdictRow {
    let fields: Vec<&str> = line.split('\t').collect();
    VerdictRow {
        offset: fields[0].parse().expect("an offset"),
        event_id: unescape(fields[1]),
        verdict: fields[2].to_owned(),
        reason: unescape(fields[3]),
        time_us: time_us(fields[4]),
    }
}

fn log_row(line: &str) -> LogRow {
    let fields: Vec<&str> = line.split('\t').collect();
    let number = |field: usize| {
        parse_numeric(fields[field]).unwrap_or_else(|| panic!("no amount: {}", fields[field]))
    };
    let account = Account::new(
        fields[3].parse().expect("an account"),
        fields[4].parse().expect("a shard"),
        fields[5],
    );
    LogRow {
        offset: fields[0].parse().expect("an offset"),
        change_no: fields[1].parse().expect("a number"),
        event_id: unescape(fields[2]),
        change: Change {
            account: account.expect("a currency code"),
            available: number(6),
            frozen: number(7),
        },
        after: Balance {
            available: number(8),
            frozen: number(9),
        },
        status: fields[10].to_owned(),
        reason: unescape(fields[11]),
        time_us: time_us(fields[12]),
    }
}

fn time_us(field: &str) -> Option<i64> {
    unescape(field).map(|text| text.parse().expect("microseconds"))
}

/// The balances before the event, as its own log rows tell.
fn balances_met(found: &Found) -> Book {
    let mut met = Book::new();
    for row in &found.log {
        let before = if row.status == "APPLIED" {
            row.after.minus(&row.change)
        } else {
            row.after
        };
        met.entry(row.change.account).or_insert(before);
    }
    met
}

fn compare_record(
    expected: &Judgement,
    found: &Found,
    place: &Place<'_>,
    offset: i64,
    report: &mut Report,
) {
    let Some(row) = &found.verdict else {
        report.differs(|| {
            format!(
                "{}: no verdict, expected {:?}",
                place.at(offset),
                expected.verdict
            )
        });
        return;
    };
    let name = row.reason.as_ref().map_or_else(
        || row.verdict.clone(),
        |reason| format!("{} {reason}", row.verdict),
    );
    *report.verdicts.entry(name).or_default() += 1;
    let reason = row.reason.as_deref();
    let verdict_fits = match &expected.verdict {
        Verdict::Applied => (row.verdict.as_str(), reason) == ("APPLIED", None),
        Verdict::Duplicate => (row.verdict.as_str(), reason) == ("DUPLICATE", None),
        Verdict::Rejected(why) => (row.verdict.as_str(), reason) == ("REJECTED", Some(*why)),
        Verdict::Dead(any) => {
            row.verdict == "DEAD" && reason.is_some_and(|reason| any.contains(&reason))
        }
    };
    if !verdict_fits {
        report.differs(|| {
            format!(
                "{}: {} {reason:?}, expected {:?}",
                place.at(offset),
                row.verdict,
                expected.verdict
            )
        });
    }
    // A dead record's id is shown where a reader could find it; an invented one is a difference.
    let id_fits =
        row.event_id == expected.event_id || (row.verdict == "DEAD" && row.event_id.is_none());
    if !id_fits {
        report.differs(|| {
            format!(
                "{}: event id {:?}, expected {:?}",
                place.at(offset),
                row.event_id,
                expected.event_id
            )
        });
    }
    if row.verdict != "DEAD" && found.times().any(|time_us| time_us != expected.time_us) {
        report.differs(|| {
            format!(
                "{}: not its own time {:?}",
                place.at(offset),
                expected.time_us
            )
        });
    }
    compare_log(expected, found, place, offset, report);
}

fn compare_log(
    expected: &Judgement,
    found: &Found,
    place: &Place<'_>,
    offset: i64,
    report: &mut Report,
) {
    report.changes += found.log.len() as u64;
    if found.log.len() != expected.log.len() {
        report.differs(|| {
            format!(
                "{}: {} log rows, expected {}",
                place.at(offset),
                found.log.len(),
                expected.log.len()
            )
        });
        return;
    }
    let (status, reason) = match &expected.verdict {
        Verdict::Rejected(why) => ("REJECTED", Some(*why)),
        _ => ("APPLIED", None),
    };
    for (number, (row, (change, after))) in found.log.iter().zip(&expected.log).enumerate() {
        let fits = row.change_no == number
            && row.change == *change
            && row.after == *after
            && row.event_id == expected.event_id
            && row.status == status
            && row.reason.as_deref() == reason;
        if !fits {
            let (available, frozen) = (show(row.after.available), show(row.after.frozen));
            let wanted = (show(after.available), show(after.frozen));
            report.differs(|| {
                format!(
                    "{} change {number}: {} {} after {available} and {frozen}, expected {status} {} after {} and {}",
                    place.at(offset), row.status, row.change.account, change.account, wanted.0, wanted.1
                )
            });
        }
    }
}

async fn compare_balances(database: &Database, deeds: &Deeds, report: &mut Report) {
    let query = "SELECT account_id, shard_id, currency_code, available, frozen FROM ledger.account_balances";
    let mut lines = Lines::of(&database.client, query).await;
    let mut book = std::mem::take(&mut report.book);
    let mut possible = deeds.corrected(&mut book);
    report.accounts = book.len() as u64;
    while let Some(line) = lines.next().await {
        let fields: Vec<&str> = line.split('\t').collect();
        let account = Account::new(
            fields[0].parse().expect("an account"),
            fields[1].parse().expect("a shard"),
            fields[2],
        );
        let account = account.expect("a currency code");
        let found = parse_numeric(fields[3])
            .zip(parse_numeric(fields[4]))
            .map(|(available, frozen)| Balance { available, frozen });
        match book.remove(&account) {
            Some(expected) if found == Some(expected) => {}
            None if found.is_some() && possible.remove(&account) == found => {}
            expected => report.differs(|| {
                let expected =
                    expected.map(|balance| (show(balance.available), show(balance.frozen)));
                format!(
                    "balance of {account}: {} and {}, expected {expected:?}",
                    fields[3], fields[4]
                )
            }),
        }
    }
    for account in book.keys() {
        report.differs(|| format!("balance of {account}: missing"));
    }
}

async fn compare_offsets(
    stack: &Stack,
    database: &Database,
    topic: &str,
    partitions: i32,
    report: &mut Report,
) {
    let progress = database.progress(topic).await;
    for (partition, end) in (0..partitions).zip(stack.kafka.ends(topic, partitions)) {
        let committed = progress
            .get(&partition)
            .map(|progress| progress.commit_offset);
        if committed != Some(end) {
            report.differs(|| format!("{topic}/{partition}: commit offset {committed:?}, but the partition ends at {end}"));
        }
    }
}
