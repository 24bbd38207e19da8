//! The batched apply: everything that one batch of balance events does to the database,
//! in one transaction, in the order that the write protocol gives.
//!
//! Fence, then the staged rows against their promise, identities, balances locked in key
//! order, the fold in offset order, and only then writes: once per account, log and
//! verdicts in bulk. The fold itself is the `ledger` crate's.

use ledger::account::AccountKey;
use ledger::contract::Checksum;
use ledger::fold::{self, Balance, Leg};
use ledger::verdict::Verdict;
use pgrx::PgSqlErrorCode as Code;
use pgrx::Spi;
use pgrx::datum::Uuid;
use pgrx::spi::SpiClient;

use crate::accounts::Accounts;
use crate::error::raise;
use crate::fence::{self, Fence, Fenced};
use crate::identities::Ownership;
use crate::leader::{Leadership, PartitionName, check_name};
use crate::outcome::{DeadLetters, Exceptions, Holes};
use crate::pg::capture::{self, DeadRow, Row, Staged};
use crate::pg::log::{Log, LogRow};
use crate::pg::session;

/// The arguments of `sluice.apply_balance_batch`.
pub struct BatchCall<'a> {
    pub name: PartitionName<'a>,
    pub leadership: Leadership,
    pub from_offset: i64,
    pub next_offset: i64,
    pub row_count: i64,
    pub checksum: i64,
    pub last_record: Option<Uuid>,
}

/// What the batch did, in records, balance rows and log rows.
#[derive(Default)]
pub struct Counts {
    pub applied: i64,
    pub rejected: i64,
    pub duplicates: i64,
    pub dead: i64,
    pub updated_rows: i64,
    pub inserted_rows: i64,
    pub error_rows: i64,
}

impl Counts {
    pub fn events(&self) -> i64 {
        self.applied + self.rejected + self.duplicates + self.dead
    }
}

pub struct Answer {
    pub outcome: &'static str,
    pub counts: Counts,
}

/// Applies what this transaction has staged.
pub fn balance_batch(call: &BatchCall<'_>) -> Answer {
    check_call(call);
    let staged = capture::take();
    Spi::connect_mut(|client| match fence::advance(client, call) {
        Fence::AlreadyCommitted => Answer {
            outcome: "ALREADY_COMMITTED",
            counts: Counts::default(),
        },
        Fence::Advanced(fenced) => Answer {
            outcome: "APPLIED",
            counts: apply_behind_fence(client, call, &fenced, &staged),
        },
    })
}

fn check_call(call: &BatchCall<'_>) {
    check_name(call.name);
    if call.from_offset < 0 || call.next_offset < call.from_offset {
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "offsets must satisfy 0 <= from_offset <= next_offset",
        );
    }
    if !session::commits_durably() {
        raise(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "synchronous_commit is off: set it to on for the ingester's role",
        );
    }
}

fn apply_behind_fence(
    client: &mut SpiClient<'_>,
    call: &BatchCall<'_>,
    fenced: &Fenced,
    staged: &Staged,
) -> Counts {
    check_promise(staged, call);
    let records = records(staged, call);
    holes(&records, call).write(client, fenced);

    let ownership = Ownership::claim(client, staged, &records);
    let mut accounts = Accounts::lock(staged, &records, &ownership);
    let mut fold = Fold {
        counts: Counts::default(),
        exceptions: Exceptions::default(),
        letters: DeadLetters::default(),
    };
    let created_at = session::now();
    let mut log = Log::open(fenced.partition_id, created_at);
    let logged = fold.run(staged, &records, &ownership, &mut accounts, &mut log);

    let Fold {
        mut counts,
        exceptions,
        letters,
    } = fold;
    assert_count("log rows", log.close() as i64, logged);
    (counts.updated_rows, counts.inserted_rows) =
        accounts.write(client, session::unix_millis(created_at));
    assert_count(
        "verdicts",
        exceptions.write(client, fenced) as i64,
        counts.duplicates + counts.dead,
    );
    assert_count(
        "dead letters",
        letters.write(client, call) as i64,
        counts.dead,
    );
    assert_count("events", counts.events(), records.len() as i64);
    counts
}

/// All staged rows of one Kafka record.
pub struct Record {
    pub offset: i64,
    first_row: usize,
    next_row: usize,
}

impl Record {
    pub fn rows<'s>(&self, staged: &'s Staged) -> &'s [Row] {
        &staged.rows[self.first_row..self.next_row]
    }
}

/// An emptied or torn staging can never pass for a smaller batch.
fn check_promise(staged: &Staged, call: &BatchCall<'_>) {
    let mut checksum = Checksum::default();
    for row in &staged.rows {
        checksum.add(&staged.contract_row(row));
    }
    if staged.rows.len() as i64 != call.row_count || checksum.as_i64() != call.checksum {
        raise(
            Code::ERRCODE_DATA_CORRUPTED,
            format!(
                "staged rows do not match the promise: {} rows, promised {}; checksum {}, promised {}",
                staged.rows.len(),
                call.row_count,
                checksum.as_i64(),
                call.checksum
            ),
        );
    }
}

/// Groups rows into records; they must stand in offset order, changes counted from 0.
fn records(staged: &Staged, call: &BatchCall<'_>) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::with_capacity(staged.rows.len());
    for (index, row) in staged.rows.iter().enumerate() {
        match records.last_mut() {
            Some(last) if last.offset == row.kafka_offset => {
                let first = &staged.rows[last.first_row];
                let continues = row.change_no as usize == index - last.first_row
                    && row.dead.is_none()
                    && row.identity == first.identity
                    && row.payload_hash == first.payload_hash;
                if !continues {
                    out_of_order(row);
                }
                last.next_row = index + 1;
            }
            last => {
                let floor = last.map_or(call.from_offset, |last| last.offset + 1);
                if row.change_no != 0
                    || row.kafka_offset < floor
                    || row.kafka_offset >= call.next_offset
                {
                    out_of_order(row);
                }
                records.push(Record {
                    offset: row.kafka_offset,
                    first_row: index,
                    next_row: index + 1,
                });
            }
        }
    }
    records
}

fn out_of_order(row: &Row) -> ! {
    raise(
        Code::ERRCODE_DATA_CORRUPTED,
        format!(
            "staged change {} of offset {} is out of order or outside the batch",
            row.change_no, row.kafka_offset
        ),
    )
}

fn holes(records: &[Record], call: &BatchCall<'_>) -> Holes {
    let mut holes = Holes::default();
    let mut next = call.from_offset;
    for record in records {
        holes.push(next, record.offset);
        next = record.offset + 1;
    }
    holes.push(next, call.next_offset);
    holes
}

/// The walk over the records in offset order, and what it finds.
struct Fold {
    counts: Counts,
    exceptions: Exceptions,
    letters: DeadLetters,
}

impl Fold {
    /// Answers how many rows it logged.
    fn run(
        &mut self,
        staged: &Staged,
        records: &[Record],
        ownership: &Ownership,
        accounts: &mut Accounts,
        log: &mut Log,
    ) -> i64 {
        let mut logged = 0;
        let mut legs: Vec<Leg> = Vec::new();
        let mut after: Vec<Balance> = Vec::new();
        for (index, record) in records.iter().enumerate() {
            let rows = record.rows(staged);
            if let Some(dead) = &rows[0].dead {
                self.bury(staged, record, &rows[0], dead);
                continue;
            }
            let claim = ownership.of(index);
            if claim == fold::Claim::Duplicate {
                self.counts.duplicates += 1;
                self.exceptions.push(
                    record.offset,
                    text(staged, &rows[0].event_id),
                    Verdict::Duplicate.as_str(),
                    None,
                );
                continue;
            }
            legs.clear();
            legs.extend(rows.iter().filter_map(|row| row.change).map(|change| Leg {
                slot: accounts.slot(&change.key),
                available_delta: change.available_delta,
                frozen_delta: change.frozen_delta,
            }));
            let verdict = fold::apply_event(accounts.book(), &legs, claim, &mut after);
            let reject_reason = verdict.err().map(|reason| reason.as_str());
            match reject_reason {
                None => {
                    self.counts.applied += 1;
                    accounts.touch(&legs);
                }
                Some(_) => {
                    self.counts.rejected += 1;
                    self.counts.error_rows += rows.len() as i64;
                }
            }
            for (row, after) in rows.iter().zip(&after) {
                let (Some(change), Some(event_id)) = (row.change, &row.event_id) else {
                    continue;
                };
                log.append(&LogRow {
                    kafka_offset: record.offset,
                    change_no: row.change_no,
                    event_id: staged.slice(event_id),
                    change,
                    after: *after,
                    reject_reason,
                });
            }
            logged += rows.len() as i64;
        }
        logged
    }

    fn bury(&mut self, staged: &Staged, record: &Record, row: &Row, dead: &DeadRow) {
        let string = |range| String::from_utf8_lossy(staged.slice(range)).into_owned();
        let bytes = |range: &Option<_>| range.as_ref().map(|range| staged.slice(range).to_vec());
        let event_id = text(staged, &row.event_id);
        let code = string(&dead.error_code);
        self.counts.dead += 1;
        self.exceptions.push(
            record.offset,
            event_id.clone(),
            Verdict::Dead.as_str(),
            Some(code.clone()),
        );
        self.letters.offsets.push(record.offset);
        self.letters.event_ids.push(event_id);
        self.letters.codes.push(code);
        self.letters.messages.push(string(&dead.error_message));
        self.letters.attempts.push(dead.attempts);
        self.letters.keys.push(bytes(&dead.key));
        self.letters.payloads.push(bytes(&dead.payload));
        self.letters.headers.push(dead.headers.as_ref().map(string));
    }
}

fn text(staged: &Staged, range: &Option<std::ops::Range<usize>>) -> Option<String> {
    range
        .as_ref()
        .map(|range| String::from_utf8_lossy(staged.slice(range)).into_owned())
}

/// The keys that a batch touches, for the accounts that it must lock.
pub fn keys<'s>(staged: &'s Staged, record: &Record) -> impl Iterator<Item = AccountKey> + 's {
    record
        .rows(staged)
        .iter()
        .filter_map(|row| row.change.map(|change| change.key))
}

/// What was to be written and what was written are counted apart, and must agree.
pub fn assert_count(what: &str, written: i64, expected: i64) {
    if written != expected {
        raise(
            Code::ERRCODE_INTERNAL_ERROR,
            format!("{what}: wrote {written}, expected {expected}"),
        );
    }
}
