//! One batch of balance events: everything that it does to the database in its transaction, in the order of the write
//! protocol.
//!
//! First the fence, then the check of the staged rows against their promise, the identities, the locks of the balances in
//! key order and the fold in offset order. Only then come the writes: each balance once, log and verdicts in bulk.

use ledger::contract::MAX_BATCH_ROWS;
use ledger::span::Span;
use ledger::staging::{self, Content, Promise, Staged};
use pgrx::PgSqlErrorCode as Code;
use pgrx::Spi;
use pgrx::spi::SpiClient;

use crate::answer::{Answer, Counts};
use crate::balances::accounts::Accounts;
use crate::balances::fold::Fold;
use crate::dead_letters::burials::Burials;
use crate::dead_letters::{DeadLetters, breaker};
use crate::error::{assert_count, raise};
use crate::holes;
use crate::identities::Ownership;
use crate::memory;
use crate::partition::fence::{self, BatchHead, Fence, Fenced};
use crate::pg::capture;
use crate::pg::identities::RecordPlace;
use crate::pg::log::Log;
use crate::pg::session;
use crate::steps::Steps;
use crate::verdicts::Verdicts;

/// Applies the staged rows of this transaction.
pub fn balance_batch(head: &BatchHead<'_>, promise: Promise) -> Answer {
    let mut steps = Steps::begin();
    capture::take(|bytes| {
        Spi::connect_mut(|client| match fence::advance(client, head) {
            Fence::AlreadyCommitted { partition_id } => {
                Answer::already_committed(client, partition_id, head.span)
            }
            Fence::Advanced(fenced, has_burials) => {
                steps.done("fence");
                let staged = keep_promise(bytes, head.span, promise);
                steps.done("staged bytes");
                let burials = Burials::within(client, &fenced, head.span, has_burials);
                let counts =
                    apply_behind_fence(client, head, &fenced, &burials, &staged, &mut steps);
                steps.keep();
                Answer::applied(counts)
            }
        })
    })
}

fn apply_behind_fence(
    client: &mut SpiClient<'_>,
    head: &BatchHead<'_>,
    fenced: &Fenced,
    burials: &Burials,
    staged: &Staged<'_>,
    steps: &mut Steps,
) -> Counts {
    let offsets = || staged.records.iter().map(|record| record.offset);
    burials.demand(
        head.name,
        staged.records.iter().map(|record| {
            let reason = match &record.content {
                Content::Dead(dead) => Some(dead.reason),
                Content::Event(..) => None,
            };
            (record.offset, reason)
        }),
    );
    holes::record(client, fenced, head.span, offsets());
    let (counts, verdicts, mut letters) = decide(client, fenced, staged, steps);
    burials.sign(&mut letters);
    breaker::check(client, fenced, head, &letters, offsets());
    assert_count(
        "verdicts",
        verdicts.write(fenced) as i64,
        counts.duplicates + counts.dead,
    );
    assert_count(
        "dead letters",
        letters.write(client, head.name, head.is_domain) as i64,
        counts.dead,
    );
    fault_point!("apply.verdicts");
    burials.settle(client, fenced, head, offsets());
    steps.done("verdicts and dead letters");
    counts
}

/// Claims identities, locks balances, folds, and writes balances and log; the caller writes verdicts without a log row.
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
        partition_id: fenced.partition_id(),
        kafka_offset: staged.records[record].offset,
    });
    fault_point!("apply.identities");
    steps.done("identities");
    let mut accounts = Accounts::lock(staged, &ownership);
    fault_point!("apply.locked");
    steps.done("balances found and locked");
    let mut fold = Fold::default();
    let created_at = session::now();
    let mut log = Log::open(fenced.partition_id(), created_at);
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

/// Reads the staged rows; an emptied or incomplete staging can never pass for a smaller batch.
fn keep_promise<'b>(bytes: &'b [u8], span: Span, promise: Promise) -> Staged<'b> {
    let refuse = |what: String| -> ! {
        raise(
            Code::ERRCODE_DATA_CORRUPTED,
            format!("staged rows do not match the promise: {what}"),
        )
    };
    let checksum = staging::checksum(bytes);
    if checksum != promise.checksum {
        let advice = match bytes.is_empty() {
            true => {
                "; where nothing is ever captured, the trigger of the staging table is missing: run `sluice migrate`"
            }
            false => "",
        };
        refuse(format!(
            "checksum {checksum}, promised {}{advice}",
            promise.checksum
        ));
    }
    if promise.rows > MAX_BATCH_ROWS as i64 {
        raise(
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a batch may stage at most {MAX_BATCH_ROWS} rows: lower BATCH_SIZE"),
        );
    }
    let rows = promise.rows.max(0) as usize;
    memory::ensure(rows.min(bytes.len()) * memory::BYTES_PER_ROW + bytes.len() * memory::COPIES);
    let room = memory::or_refuse(Staged::with_room(rows.min(bytes.len())));
    let staged = staging::read_into(room, bytes, rows)
        .unwrap_or_else(|malformed| refuse(format!("there is {malformed}")));
    let mut floor = span.from();
    for record in &staged.records {
        if record.offset < floor || !span.contains(record.offset) {
            refuse(format!(
                "offset {} is out of order or outside the batch",
                record.offset
            ));
        }
        floor = record.offset + 1;
    }
    staged
}
