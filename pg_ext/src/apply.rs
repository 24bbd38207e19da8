//! The batched apply: everything that one batch of balance events does to the database,
//! in one transaction, in the order that the write protocol gives.
//!
//! Fence, then the staged rows against their promise, identities, balances locked in key
//! order, the fold in offset order, and only then writes: once per account, log and
//! verdicts in bulk. The fold itself is the `ledger` crate's.

use ledger::account::AccountKey;
use ledger::contract::Checksum;
use ledger::event::Change;
use ledger::fold::{self, Balance, Leg};
use ledger::identity::{Identity, PayloadHash};
use ledger::verdict::Verdict;
use pgrx::PgSqlErrorCode as Code;
use pgrx::Spi;
use pgrx::spi::SpiClient;

use crate::accounts::Accounts;
use crate::error::raise;
use crate::fence::{self, Fence, Fenced, Span};
use crate::identities::Ownership;
use crate::outcome::{DeadLetters, EventName, Holes, Verdicts};
use crate::pg::capture::{self, DeadRow, Row, Staged};
use crate::pg::log::{Log, LogRow, Place};
use crate::pg::session;

/// The arguments of `sluice.apply_balance_batch`.
pub struct BatchCall<'a> {
    pub span: Span<'a>,
    pub row_count: i64,
    pub checksum: i64,
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

impl Answer {
    pub fn already_committed() -> Self {
        Self {
            outcome: "ALREADY_COMMITTED",
            counts: Counts::default(),
        }
    }

    pub fn applied(counts: Counts) -> Self {
        Self {
            outcome: "APPLIED",
            counts,
        }
    }
}

/// Applies what this transaction has staged.
pub fn balance_batch(call: &BatchCall<'_>) -> Answer {
    call.span.check();
    let staged = capture::take();
    Spi::connect_mut(|client| match fence::advance(client, &call.span) {
        Fence::AlreadyCommitted => Answer::already_committed(),
        Fence::Advanced(fenced) => {
            Answer::applied(apply_behind_fence(client, call, &fenced, &staged))
        }
    })
}

fn apply_behind_fence(
    client: &mut SpiClient<'_>,
    call: &BatchCall<'_>,
    fenced: &Fenced,
    staged: &Staged,
) -> Counts {
    check_promise(staged, call);
    let records = records(staged, call);
    Holes::between(&call.span, records.iter().map(|record| record.offset)).write(client, fenced);

    let carried: Vec<_> = records
        .iter()
        .map(|record| {
            let first = &record.rows(staged)[0];
            first.identity.zip(first.payload_hash)
        })
        .collect();
    let ownership = Ownership::claim(&carried);
    let (counts, verdicts, letters) = decide(client, fenced, staged, &records, &ownership);
    assert_count(
        "verdicts",
        verdicts.write(client, fenced) as i64,
        counts.duplicates + counts.dead,
    );
    assert_count(
        "dead letters",
        letters.write(client, call.span.name) as i64,
        counts.dead,
    );
    assert_count("events", counts.events(), records.len() as i64);
    counts
}

/// Locks balances, folds, writes balances and log; what has no row there is the caller's to write.
fn decide(
    client: &mut SpiClient<'_>,
    fenced: &Fenced,
    staged: &Staged,
    records: &[Record],
    ownership: &Ownership,
) -> (Counts, Verdicts, DeadLetters) {
    let mut accounts = Accounts::lock(staged, records, ownership);
    let mut fold = Fold {
        counts: Counts::default(),
        verdicts: Verdicts::default(),
        letters: DeadLetters::default(),
    };
    let created_at = session::now();
    let mut log = Log::open(fenced.partition_id, created_at);
    let logged = fold.run(staged, records, ownership, &mut accounts, &mut log);
    assert_count("log rows", log.close() as i64, logged);
    (fold.counts.updated_rows, fold.counts.inserted_rows) =
        accounts.write(client, session::unix_millis(created_at));
    (fold.counts, fold.verdicts, fold.letters)
}

/// A balance event that does not come from staging.
pub struct Decodable {
    pub offset: i64,
    pub event_id: String,
    pub source: Option<String>,
    pub identity: Identity,
    pub payload_hash: PayloadHash,
    pub changes: Vec<Change>,
}

/// Applies events that were dead letters until now; answers the verdicts of duplicates among them.
pub fn decide_anew(client: &mut SpiClient<'_>, fenced: &Fenced, events: &[Decodable]) -> Verdicts {
    let mut staged = Staged::default();
    let mut records = Vec::new();
    for event in events {
        let first_row = staged.rows.len();
        let event_id = staged.keep(event.event_id.as_bytes());
        let source = event
            .source
            .as_ref()
            .map(|source| staged.keep(source.as_bytes()));
        for (change_no, change) in event.changes.iter().enumerate() {
            staged.rows.push(Row {
                kafka_offset: event.offset,
                change_no: change_no as i16,
                event_id: Some(event_id.clone()),
                source: source.clone(),
                identity: Some(event.identity),
                payload_hash: Some(event.payload_hash),
                change: Some(*change),
                dead: None,
            });
        }
        records.push(Record {
            offset: event.offset,
            first_row,
            next_row: staged.rows.len(),
        });
    }
    let carried: Vec<_> = events
        .iter()
        .map(|event| Some((event.identity, event.payload_hash)))
        .collect();
    let ownership = Ownership::claim(&carried);
    let (counts, verdicts, _) = decide(client, fenced, &staged, &records, &ownership);
    assert_count("events", counts.events(), events.len() as i64);
    verdicts
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
                let floor = last.map_or(call.span.from_offset, |last| last.offset + 1);
                if row.change_no != 0
                    || row.kafka_offset < floor
                    || row.kafka_offset >= call.span.next_offset
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

/// The walk over the records in offset order, and what it finds.
struct Fold {
    counts: Counts,
    verdicts: Verdicts,
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
                let verdict = Verdict::Duplicate.as_str();
                self.verdicts
                    .push(record.offset, event_name(staged, &rows[0]), verdict, None);
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
                None => self.counts.applied += 1,
                Some(_) => {
                    self.counts.rejected += 1;
                    self.counts.error_rows += rows.len() as i64;
                }
            }
            for ((row, leg), after) in rows.iter().zip(&legs).zip(&after) {
                let (Some(change), Some(event_id)) = (row.change, &row.event_id) else {
                    continue;
                };
                let place = Place {
                    partition_id: log.partition_id(),
                    kafka_offset: record.offset,
                    change_no: row.change_no,
                };
                log.append(&LogRow {
                    place,
                    event_id: staged.slice(event_id),
                    source: row.source.as_ref().map(|source| staged.slice(source)),
                    change,
                    after: *after,
                    reject_reason,
                    previous: accounts.last_change(leg.slot),
                });
                if reject_reason.is_none() {
                    accounts.changed(leg.slot, place);
                }
            }
            logged += rows.len() as i64;
        }
        logged
    }

    fn bury(&mut self, staged: &Staged, record: &Record, row: &Row, dead: &DeadRow) {
        let string = |range| String::from_utf8_lossy(staged.slice(range)).into_owned();
        let bytes = |range: &Option<_>| range.as_ref().map(|range| staged.slice(range).to_vec());
        let event = event_name(staged, row);
        let code = string(&dead.error_code);
        self.counts.dead += 1;
        self.verdicts.push(
            record.offset,
            event.clone(),
            Verdict::Dead.as_str(),
            Some(code.clone()),
        );
        self.letters.offsets.push(record.offset);
        self.letters.event_ids.push(event.event_id);
        self.letters.codes.push(code);
        self.letters.messages.push(string(&dead.error_message));
        self.letters.attempts.push(dead.attempts);
        self.letters.keys.push(bytes(&dead.key));
        self.letters.payloads.push(bytes(&dead.payload));
        self.letters.headers.push(dead.headers.as_ref().map(string));
        self.letters.record_times_ms.push(None);
    }
}

fn event_name(staged: &Staged, row: &Row) -> EventName {
    let text = |range| String::from_utf8_lossy(staged.slice(range)).into_owned();
    EventName {
        event_id: row.event_id.as_ref().map(text),
        source: row.source.as_ref().map(text),
    }
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
