//! The batched apply: everything that one batch of balance events does to the database,
//! in one transaction, in the order that the write protocol gives.
//!
//! Fence, then the staged rows against their promise, identities, balances locked in key
//! order, the fold in offset order, and only then writes: once per account, log and
//! verdicts in bulk. The fold itself is the `ledger` crate's.

use ledger::contract::MAX_BATCH_ROWS;
use ledger::event::Change;
use ledger::fold::{self, Balance, Leg};
use ledger::identity::{Identity, PayloadHash};
use ledger::staging::{self, Content, Record, Staged};
use ledger::verdict::Verdict;
use pgrx::PgSqlErrorCode as Code;
use pgrx::Spi;
use pgrx::spi::SpiClient;

use crate::accounts::Accounts;
use crate::breaker;
use crate::burials::Burials;
use crate::error::{assert_count, raise};
use crate::fence::{self, Fence, Fenced, Span};
use crate::identities::Ownership;
use crate::leader::internal;
use crate::memory;
use crate::outcome::{DeadLetters, EventName, Holes, Verdicts};
use crate::pg::capture;
use crate::pg::identities::RecordPlace;
use crate::pg::log::{Log, LogRow, Place};
use crate::pg::session;
use crate::rejections::{self, Rejections};
use crate::steps::Steps;

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
    /// What `rejected` is made of.
    pub rejections: Rejections,
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

const RECORDED: &str = "
    SELECT l.applied + v.applied, l.rejected + v.rejected, v.duplicates, v.dead, l.error_rows
    FROM (
        SELECT count(*) FILTER (WHERE g.change_no = 0 AND g.reject_reason IS NULL) AS applied,
            count(*) FILTER (WHERE g.change_no = 0 AND g.reject_reason IS NOT NULL) AS rejected,
            count(*) FILTER (WHERE g.reject_reason IS NOT NULL) AS error_rows
        FROM ledger.balance_log g WHERE g.partition_id = $1 AND g.kafka_offset >= $2 AND g.kafka_offset < $3
    ) l, (
        SELECT count(*) FILTER (WHERE e.verdict = 'APPLIED') AS applied, count(*) FILTER (WHERE e.verdict = 'REJECTED') AS rejected,
            count(*) FILTER (WHERE e.verdict = 'DUPLICATE') AS duplicates, count(*) FILTER (WHERE e.verdict = 'DEAD') AS dead
        FROM ledger.verdicts e WHERE e.partition_id = $1 AND e.kafka_offset >= $2 AND e.kafka_offset < $3
    ) v";

impl Answer {
    /// The verdicts as they are recorded; how many balance rows the batch wrote is not.
    pub fn already_committed(
        client: &mut SpiClient<'_>,
        partition_id: i32,
        span: &Span<'_>,
    ) -> Self {
        let args = [
            partition_id.into(),
            span.from_offset.into(),
            span.next_offset.into(),
        ];
        let rows = client
            .update(RECORDED, Some(1), &args)
            .unwrap_or_else(internal);
        let row = rows.first();
        let count =
            |column| -> i64 { row.get(column).unwrap_or_else(internal).unwrap_or_default() };
        let mut counts = Counts {
            applied: count(1),
            rejected: count(2),
            duplicates: count(3),
            dead: count(4),
            error_rows: count(5),
            ..Counts::default()
        };
        if counts.rejected > 0 {
            let (from, next) = (span.from_offset, span.next_offset);
            counts.rejections = rejections::recorded(client, partition_id, from, next);
        }
        Self::of("ALREADY_COMMITTED", counts)
    }

    pub fn applied(counts: Counts) -> Self {
        Self::of("APPLIED", counts)
    }

    fn of(outcome: &'static str, counts: Counts) -> Self {
        rejections::keep(counts.rejections);
        Self { outcome, counts }
    }
}

/// Applies what this transaction has staged.
pub fn balance_batch(call: &BatchCall<'_>) -> Answer {
    call.span.check();
    let mut steps = Steps::begin();
    capture::take(|bytes| {
        Spi::connect_mut(|client| match fence::advance(client, &call.span) {
            Fence::AlreadyCommitted { partition_id } => {
                Answer::already_committed(client, partition_id, &call.span)
            }
            Fence::Advanced(fenced, has_burials) => {
                steps.done("fence");
                let staged = keep_promise(bytes, call);
                steps.done("staged bytes");
                let burials = Burials::within(client, &fenced, &call.span, has_burials);
                let counts =
                    apply_behind_fence(client, call, &fenced, &burials, &staged, &mut steps);
                steps.keep();
                Answer::applied(counts)
            }
        })
    })
}

fn apply_behind_fence(
    client: &mut SpiClient<'_>,
    call: &BatchCall<'_>,
    fenced: &Fenced,
    burials: &Burials,
    staged: &Staged<'_>,
    steps: &mut Steps,
) -> Counts {
    let offsets = || staged.records.iter().map(|record| record.offset);
    burials.demand(
        &call.span,
        staged.records.iter().map(|record| {
            let reason = match &record.content {
                Content::Dead(dead) => Some(dead.reason),
                Content::Event(..) => None,
            };
            (record.offset, reason)
        }),
    );
    Holes::between(&call.span, offsets()).write(client, fenced);
    let (counts, verdicts, mut letters) = decide(client, fenced, staged, steps);
    burials.sign(&mut letters);
    breaker::check(client, fenced, &call.span, &letters, offsets());
    assert_count(
        "verdicts",
        verdicts.write(fenced) as i64,
        counts.duplicates + counts.dead,
    );
    assert_count(
        "dead letters",
        letters.write(client, call.span.name, call.span.is_domain) as i64,
        counts.dead,
    );
    fault_point!("apply.verdicts");
    burials.settle(client, fenced, &call.span, offsets());
    steps.done("verdicts and dead letters");
    counts
}

/// Identities, balances locked, the fold, balances and log written; what has no row there is the caller's to write.
fn decide(
    client: &mut SpiClient<'_>,
    fenced: &Fenced,
    staged: &Staged<'_>,
    steps: &mut Steps,
) -> (Counts, Verdicts, DeadLetters) {
    let mut carried = memory::vec(staged.records.len());
    carried.extend(staged.records.iter().map(|record| match &record.content {
        Content::Event(event, _) => Some((event.identity, event.payload_hash)),
        Content::Dead(_) => None,
    }));
    let ownership = Ownership::claim(client, &carried, |record| RecordPlace {
        partition_id: fenced.partition_id,
        kafka_offset: staged.records[record].offset,
    });
    fault_point!("apply.identities");
    steps.done("identities");
    let mut accounts = Accounts::lock(staged, &ownership);
    fault_point!("apply.locked");
    steps.done("balances found and locked");
    let mut fold = Fold::default();
    let created_at = session::now();
    let mut log = Log::open(fenced.partition_id, created_at);
    let logged = fold.run(staged, &ownership, &mut accounts, &mut log);
    assert_count("log rows", log.close() as i64, logged);
    fault_point!("apply.folded");
    steps.done("fold and log");
    (fold.counts.updated_rows, fold.counts.inserted_rows) =
        accounts.write(client, session::unix_millis(created_at));
    fault_point!("apply.balances");
    steps.done("balances written");
    assert_count("events", fold.counts.events(), staged.records.len() as i64);
    (fold.counts, fold.verdicts, fold.letters)
}

/// A balance event that does not come from staging.
#[derive(Clone)]
pub struct Decodable {
    pub offset: i64,
    pub event_id: String,
    pub source: Option<String>,
    pub identity: Identity,
    pub payload_hash: PayloadHash,
    /// When it happened, in microseconds since 1970, where it says so.
    pub time_us: Option<i64>,
    pub changes: Vec<Change>,
}

/// Balance events of one partition, in offset order, that were dead letters until now.
pub struct Anew {
    pub fenced: Fenced,
    pub events: Vec<Decodable>,
}

/// Applies events of several partitions by what `ownership` says of each, one after the other: all balances are
/// locked in key order before the first of them, as every batch locks.
pub fn decide_anew(client: &mut SpiClient<'_>, parts: &[Anew], mut ownership: Ownership) {
    fence::check_isolation();
    let mut staged = Staged::default();
    for event in parts.iter().flat_map(|part| &part.events) {
        let first = staged.changes.len();
        staged.changes.extend_from_slice(&event.changes);
        let content = staging::Event {
            event_id: &event.event_id,
            source: event.source.as_deref(),
            identity: event.identity,
            payload_hash: event.payload_hash,
            time_us: event.time_us,
        };
        staged.records.push(Record {
            offset: event.offset,
            content: Content::Event(content, first..staged.changes.len()),
        });
    }
    let mut accounts = Accounts::lock(&staged, &ownership);
    let created_at = session::now();
    let mut records = std::mem::take(&mut staged.records).into_iter();
    for part in parts {
        staged.records = records.by_ref().take(part.events.len()).collect();
        let mut fold = Fold::default();
        let mut log = Log::open(part.fenced.partition_id, created_at);
        let mine = ownership.split(part.events.len());
        let logged = fold.run(&staged, &mine, &mut accounts, &mut log);
        assert_count("log rows", log.close() as i64, logged);
        assert_count("events", fold.counts.events(), part.events.len() as i64);
    }
    accounts.write(client, session::unix_millis(created_at));
}

/// Reads what was staged; an emptied or torn staging can never pass for a smaller batch.
fn keep_promise<'b>(bytes: &'b [u8], call: &BatchCall<'_>) -> Staged<'b> {
    let refuse = |what: String| -> ! {
        raise(
            Code::ERRCODE_DATA_CORRUPTED,
            format!("staged rows do not match the promise: {what}"),
        )
    };
    let checksum = staging::checksum(bytes);
    if checksum != call.checksum {
        let advice = match bytes.is_empty() {
            true => {
                "; where nothing is ever captured, the trigger of the staging table is missing: run `sluice migrate`"
            }
            false => "",
        };
        refuse(format!(
            "checksum {checksum}, promised {}{advice}",
            call.checksum
        ));
    }
    if call.row_count > MAX_BATCH_ROWS as i64 {
        raise(
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a batch may stage at most {MAX_BATCH_ROWS} rows: lower BATCH_SIZE"),
        );
    }
    let rows = call.row_count.max(0) as usize;
    memory::ensure(rows.min(bytes.len()) * memory::BYTES_PER_ROW + bytes.len() * memory::COPIES);
    let room = memory::or_refuse(Staged::with_room(rows.min(bytes.len())));
    let staged = staging::read_into(room, bytes, rows)
        .unwrap_or_else(|malformed| refuse(format!("there is {malformed}")));
    let mut floor = call.span.from_offset;
    for record in &staged.records {
        if record.offset < floor || record.offset >= call.span.next_offset {
            refuse(format!(
                "offset {} is out of order or outside the batch",
                record.offset
            ));
        }
        floor = record.offset + 1;
    }
    staged
}

/// The walk over the records in offset order, and what it finds.
#[derive(Default)]
struct Fold {
    counts: Counts,
    verdicts: Verdicts,
    letters: DeadLetters,
}

/// An event that the fold has judged.
struct Decided<'a> {
    offset: i64,
    event: &'a staging::Event<'a>,
    reject_reason: Option<&'static str>,
}

impl Decided<'_> {
    /// A row for each change; `after` is what each leg came to, or met where the event is rejected.
    fn log(
        &self,
        changes: &[Change],
        legs: &[Leg],
        after: &[Balance],
        accounts: &mut Accounts,
        log: &mut Log,
    ) {
        let event = self.event;
        for (change_no, ((change, leg), after)) in changes.iter().zip(legs).zip(after).enumerate() {
            let place = Place {
                partition_id: log.partition_id(),
                kafka_offset: self.offset,
                change_no: change_no as i16,
            };
            log.append(&LogRow {
                place,
                event_id: event.event_id.as_bytes(),
                source: event.source.map(str::as_bytes),
                event_time: event.time_us.map(session::timestamp),
                change: *change,
                after: *after,
                reject_reason: self.reject_reason,
                previous: accounts.last_change(leg.slot),
            });
            if self.reject_reason.is_none() {
                accounts.changed(leg.slot, place);
            }
        }
    }
}

impl Fold {
    /// Answers how many rows it logged.
    fn run(
        &mut self,
        staged: &Staged<'_>,
        ownership: &Ownership,
        accounts: &mut Accounts,
        log: &mut Log,
    ) -> i64 {
        let mut logged = 0;
        let mut legs: Vec<Leg> = Vec::new();
        let mut after: Vec<Balance> = Vec::new();
        for (index, record) in staged.records.iter().enumerate() {
            #[cfg(feature = "fault-points")]
            if index == staged.records.len() / 2 {
                crate::fault::point("apply.mid_fold");
            }
            let (event, places) = match &record.content {
                Content::Event(event, places) => (event, places),
                Content::Dead(dead) => {
                    self.bury(record.offset, dead);
                    continue;
                }
            };
            let claim = ownership.of(index);
            if claim == fold::Claim::Duplicate {
                self.counts.duplicates += 1;
                let name = event_name(Some(event.event_id), event.source, event.time_us);
                self.verdicts
                    .push(record.offset, name, Verdict::Duplicate.as_str(), None);
                continue;
            }
            legs.clear();
            let (changes, slots) = (
                &staged.changes[places.clone()],
                accounts.slots(places.clone()),
            );
            legs.extend(changes.iter().zip(slots).map(|(change, slot)| Leg {
                slot: *slot,
                available_delta: change.available_delta,
                frozen_delta: change.frozen_delta,
            }));
            let verdict = fold::apply_event(accounts.book(), &legs, claim, &mut after);
            match verdict {
                Ok(()) => self.counts.applied += 1,
                Err(reason) => {
                    self.counts.rejected += 1;
                    self.counts.rejections[reason as usize] += 1;
                    self.counts.error_rows += changes.len() as i64;
                }
            }
            let decided = Decided {
                offset: record.offset,
                event,
                reject_reason: verdict.err().map(|reason| reason.as_str()),
            };
            decided.log(changes, &legs, &after, accounts, log);
            logged += changes.len() as i64;
        }
        logged
    }

    fn bury(&mut self, offset: i64, dead: &staging::Dead<'_>) {
        let name = event_name(dead.event_id, dead.source, dead.event_time_us);
        let code = dead.reason.to_owned();
        self.counts.dead += 1;
        self.letters.offsets.push(offset);
        self.letters.event_ids.push(name.event_id.clone());
        self.verdicts
            .push(offset, name, Verdict::Dead.as_str(), Some(code.clone()));
        self.letters.codes.push(code);
        self.letters.messages.push(dead.message.to_owned());
        self.letters.attempts.push(dead.attempts);
        self.letters.keys.push(dead.key.map(<[u8]>::to_vec));
        self.letters.payloads.push(dead.payload.map(<[u8]>::to_vec));
        self.letters.headers.push(dead.headers.map(str::to_owned));
        self.letters.record_times_ms.push(dead.time_ms);
        // Whatever the reason, the ingester sent no identity to be claimed.
        self.letters.own_identity.push(false);
    }
}

fn event_name(event_id: Option<&str>, source: Option<&str>, time_us: Option<i64>) -> EventName {
    EventName {
        event_id: event_id.map(str::to_owned),
        source: source.map(str::to_owned),
        time_us,
    }
}
