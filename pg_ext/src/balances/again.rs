//! Balance events that do not come from staging: a replayed dead letter, and a manual correction.

use ledger::decode::decode_balance_event;
use ledger::event::{Change, Defect, EventHead};
use ledger::identity::{Identity, PayloadHash};
use ledger::staging::{Content, Staged, StagedEvent, StagedRecord};
use ledger::verdict::{RejectReason, Verdict};
use pgrx::spi::SpiClient;

use crate::answer::Counts;
use crate::balances::accounts::Accounts;
use crate::balances::fold::Fold;
use crate::error::assert_count;
use crate::identities::Ownership;
use crate::partition::fence::{self, Fenced};
use crate::pg::log::Log;
use crate::pg::session;
use crate::verdicts::EventName;

/// A balance event, decoded from its payload.
pub struct BalanceEvent<'p> {
    head: EventHead<'p>,
    identity: Identity,
    payload_hash: PayloadHash,
    changes: Vec<Change>,
}

impl<'p> BalanceEvent<'p> {
    pub fn decode(payload: Option<&'p [u8]>) -> Result<Self, Defect> {
        let mut changes = Vec::new();
        let head = decode_balance_event(payload, &mut changes)?;
        Ok(Self {
            identity: head.identity(),
            payload_hash: PayloadHash::of(payload.unwrap_or_default()),
            head,
            changes,
        })
    }

    /// Its identity, and the hash of its payload.
    pub fn carried(&self) -> (Identity, PayloadHash) {
        (self.identity, self.payload_hash)
    }

    pub fn name(&self) -> EventName {
        EventName {
            event_id: Some(self.head.event_id.to_string()),
            source: self.head.source.as_deref().map(str::to_owned),
            time_us: self.head.timestamp_us,
        }
    }

    fn staged(&self) -> StagedEvent<'_> {
        StagedEvent {
            event_id: &self.head.event_id,
            source: self.head.source.as_deref(),
            identity: self.identity,
            payload_hash: self.payload_hash,
            time_us: self.head.timestamp_us,
        }
    }
}

/// Events of one partition, in offset order.
pub struct Part<'e> {
    pub fenced: &'e Fenced,
    pub events: Vec<(i64, &'e BalanceEvent<'e>)>,
}

/// The verdict of an event, and why it was rejected.
pub type Judged = (Verdict, Option<RejectReason>);

/// Applies events of several partitions, one after the other, according to `ownership`; returns their verdicts. All
/// balances are locked in key order before the first event, as in every batch.
pub fn apply(client: &mut SpiClient<'_>, parts: &[Part<'_>], ownership: Ownership) -> Vec<Judged> {
    fence::check_isolation();
    let mut staged = Staged::default();
    for (offset, event) in parts.iter().flat_map(|part| &part.events) {
        let first = staged.changes.len();
        staged.changes.extend_from_slice(&event.changes);
        staged.records.push(StagedRecord {
            offset: *offset,
            content: Content::Event(event.staged(), first..staged.changes.len()),
        });
    }
    let mut accounts = Accounts::lock(&staged, &ownership);
    let created_at = session::now();
    let records = std::mem::take(&mut staged.records).into_iter();
    let mut claimed = records.zip(ownership.into_claims());
    let mut judged = Vec::new();
    for part in parts {
        let mut log = Log::open(part.fenced.partition_id(), created_at);
        let mut logged = 0;
        for (record, claim) in claimed.by_ref().take(part.events.len()) {
            staged.records = vec![record];
            let mut fold = Fold::default();
            let mine = Ownership::known(vec![claim]);
            logged += fold.run(&staged, &mine, &mut accounts, &mut log);
            judged.push(judged_of(&fold.counts));
        }
        assert_count("log rows", log.close() as i64, logged);
    }
    accounts.write(client, session::unix_millis(created_at));
    judged
}

/// The verdict of the only event that was counted.
fn judged_of(counts: &Counts) -> Judged {
    assert_count("events", counts.events(), 1);
    let mut reasons = RejectReason::ALL.iter().copied();
    match reasons.find(|reason| counts.rejections[*reason as usize] > 0) {
        Some(reason) => (Verdict::Rejected, Some(reason)),
        None if counts.duplicates > 0 => (Verdict::Duplicate, None),
        None => (Verdict::Applied, None),
    }
}
