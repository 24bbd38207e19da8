//! Compares the database with the reference ledger, record by record: verdict, reason, event id,
//! every log row, every balance, every dead letter byte for byte, and the commit offsets.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Client;

use crate::database::{Database, Lines, connect, unescape};
use crate::event::{Account, Change};
use crate::json::{self, Json};
use crate::kafka::{Kafka, Record};
use crate::reference::{Balance, Book, Judgement, Ledger, Verdict, parse_numeric, show};
use crate::stack::Stack;
use crate::workload::Message;

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
    fn differs(&mut self, text: impl FnOnce() -> String) {
        self.difference_count += 1;
        if self.differences.len() < DIFFERENCES_SHOWN {
            self.differences.push(text());
        }
    }

    fn add(&mut self, other: Self) {
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

/// Reads the topic by itself and compares everything that the database says about it. The database
/// must hold no other topic's balances.
pub async fn compare(
    stack: &Stack,
    database: &Database,
    topic: &str,
    partitions: i32,
    accounts: Accounts,
) -> Report {
    let mut report = Report::default();
    let mut waiting: Vec<i32> = (0..partitions).rev().collect();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        // Two at a time: the cores are few, and each holds a partition in memory.
        while tasks.len() < 2 {
            let Some(partition) = waiting.pop() else {
                break;
            };
            tasks.spawn(compare_partition(
                stack.kafka.clone(),
                database.admin_url.clone(),
                topic.to_owned(),
                partition,
                accounts,
            ));
        }
        match tasks.join_next().await {
            Some(part) => report.add(part.expect("the comparison does not panic")),
            None => break,
        }
    }
    compare_balances(database, &mut report).await;
    compare_offsets(stack, database, topic, partitions, &mut report).await;
    report
}

/// The same for one partition alone, without balances and offsets.
pub async fn compare_partition(
    kafka: Kafka,
    admin_url: String,
    topic: String,
    partition: i32,
    accounts: Accounts,
) -> Report {
    let reading = topic.clone();
    let records = tokio::task::spawn_blocking(move || kafka.read(&reading, partition))
        .await
        .expect("the topic can be read");
    let place = Place {
        topic: &topic,
        partition,
    };
    let mut stored = Stored::open(&admin_url, &place).await;
    let mut ledger = Ledger::default();
    let mut report = Report::default();
    let mut dead = HashMap::new();
    for index in 0..records.len() {
        let offset = records[index].offset;
        let found = stored.take(offset, &mut report, &place).await;
        let met = (accounts == Accounts::Shared).then(|| balances_met(&found));
        let expected = ledger.judge(&records, index, met.as_ref());
        report.records += 1;
        compare_record(&expected, &found, &place, offset, &mut report);
        if let Verdict::Dead(_) = expected.verdict {
            dead.insert(offset, index);
        }
    }
    stored.take(i64::MAX, &mut report, &place).await;
    compare_dead_letters(&stored.session, &place, &records, dead, &mut report).await;
    report.book = ledger.book;
    report
}

struct Place<'a> {
    topic: &'a str,
    partition: i32,
}

impl Place<'_> {
    fn filter(&self) -> String {
        format!(
            "topic = '{}' AND partition = {}",
            self.topic, self.partition
        )
    }

    fn at(&self, offset: i64) -> String {
        format!("{}/{}@{offset}", self.topic, self.partition)
    }
}

struct VerdictRow {
    offset: i64,
    event_id: Option<String>,
    verdict: String,
    reason: Option<String>,
}

struct LogRow {
    offset: i64,
    change_no: usize,
    event_id: Option<String>,
    change: Change,
    after: Balance,
    status: String,
    reason: Option<String>,
}

/// What the database says about one record.
#[derive(Default)]
struct Found {
    verdict: Option<VerdictRow>,
    log: Vec<LogRow>,
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
            &format!("SELECT kafka_offset, event_id, verdict, reason FROM ledger.event_verdicts WHERE {filter} ORDER BY kafka_offset"),
        )
        .await;
        let logs = Lines::of(
            &connect(admin_url).await,
            &format!(
                "SELECT kafka_offset, change_no, event_id, account_id, shard_id, currency_code, available_delta, frozen_delta,
                    available_after, frozen_after, status, reject_reason
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
    }
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

async fn compare_balances(database: &Database, report: &mut Report) {
    let query = "SELECT account_id, shard_id, currency_code, available, frozen FROM ledger.account_balances";
    let mut lines = Lines::of(&database.client, query).await;
    let mut book = std::mem::take(&mut report.book);
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

/// Each dead record must stand in `dead_letters` byte for byte, and nothing else.
async fn compare_dead_letters(
    client: &Client,
    place: &Place<'_>,
    records: &[Record],
    mut dead: HashMap<i64, usize>,
    report: &mut Report,
) {
    let query = format!(
        "SELECT d.kafka_offset, encode(d.key, 'hex'), encode(d.payload, 'hex'), d.headers, d.error_code, d.event_id, d.status,
            d.attempts, d.error_message <> '' AND v.reason = d.error_code AND v.event_id IS NOT DISTINCT FROM d.event_id
         FROM ledger.dead_letters d JOIN ledger.event_verdicts v USING (topic, partition, kafka_offset)
         WHERE {}",
        place.filter()
    );
    let mut lines = Lines::of(client, &query).await;
    while let Some(line) = lines.next().await {
        let fields: Vec<Option<String>> = line.split('\t').map(unescape).collect();
        let text = |field: usize| fields[field].as_deref();
        let offset: i64 = text(0)
            .and_then(|text| text.parse().ok())
            .expect("an offset");
        let Some(index) = dead.remove(&offset) else {
            report.differs(|| {
                format!(
                    "{}: a dead letter of a record that is not dead",
                    place.at(offset)
                )
            });
            continue;
        };
        let stored = Message {
            key: text(1).map(from_hex),
            payload: text(2).map(from_hex),
            headers: text(3).map(headers).unwrap_or_default(),
        };
        let sent = &records[index].message;
        if stored != *sent {
            report.differs(|| {
                format!(
                    "{}: dead letter {stored:?}, sent {sent:?}",
                    place.at(offset)
                )
            });
        }
        if (text(6), text(7), text(8)) != (Some("PARKED"), Some("1"), Some("t")) {
            report.differs(|| format!("{}: dead letter {line}", place.at(offset)));
        }
    }
    for offset in dead.keys() {
        report.differs(|| format!("{}: no dead letter", place.at(*offset)));
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hexadecimal digit") as u8;
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

/// `[{"key": …, "value": text}, {"key": …, "base64": …}]` back into what was sent.
fn headers(text: &str) -> Vec<(String, Option<Vec<u8>>)> {
    let Some(Json::Array(items)) = json::parse(text.as_bytes()) else {
        panic!("headers are no array: {text}")
    };
    items
        .iter()
        .map(|item| header(item).unwrap_or_else(|| panic!("no header: {item:?}")))
        .collect()
}

fn header(item: &Json) -> Option<(String, Option<Vec<u8>>)> {
    let Json::Object(fields) = item else {
        return None;
    };
    let field = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    };
    let Some(Json::String(key)) = field("key") else {
        return None;
    };
    let value = match (field("value"), field("base64")) {
        (Some(Json::String(text)), None) => Some(text.clone().into_bytes()),
        (None, Some(Json::String(text))) => Some(from_base64(text)),
        (Some(Json::Null), None) => None,
        _ => return None,
    };
    Some((key.clone(), value))
}

pub fn from_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("not base64: {text}"),
    };
    let digits: Vec<u32> = text.trim_end_matches('=').bytes().map(value).collect();
    let decode = |group: &[u32]| {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    };
    digits.chunks(4).flat_map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_gives_bytes_back() {
        assert_eq!(from_base64("//57fQ=="), [0xff, 0xfe, 0x7b, 0x7d]);
        assert_eq!(from_base64("aGVsbG8="), b"hello");
        assert_eq!(from_base64(""), b"");
    }

    #[test]
    fn headers_keep_order_repeats_and_bytes() {
        let text = r#"[{"key": "a", "value": "1"}, {"key": "a", "base64": "/wA="}, {"key": "", "value": null}]"#;
        let expected = vec![
            ("a".into(), Some(b"1".to_vec())),
            ("a".into(), Some(vec![0xff, 0])),
            (String::new(), None),
        ];
        assert_eq!(headers(text), expected);
    }
}
