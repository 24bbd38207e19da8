//! The walk over the records of a batch in offset order. It decides nothing itself: the rules are the `ledger` crate's.

use ledger::event::Change;
use ledger::fold::{self, Balance, Leg};
use ledger::staging::{self, Content, Staged};
use ledger::verdict::Verdict;

use crate::answer::Counts;
use crate::balances::accounts::Accounts;
use crate::dead_letters::DeadLetters;
use crate::identities::Ownership;
use crate::pg::log::{Log, LogRow, Place};
use crate::pg::session;
use crate::verdicts::{EventName, Verdicts};

/// The results of the walk, besides the rows that it logs.
#[derive(Default)]
pub struct Fold {
    pub counts: Counts,
    pub verdicts: Verdicts,
    pub letters: DeadLetters,
}

/// An event that the fold has decided.
struct Decided<'a> {
    offset: i64,
    event: &'a staging::StagedEvent<'a>,
    reject_reason: Option<&'static str>,
}

impl Decided<'_> {
    /// One row for each change; `after` is the balance after each leg or, for a rejected event, before it.
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
    /// Returns how many rows it logged.
    pub fn run(
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
                    .push(record.offset, name, Verdict::Duplicate, None);
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
            .push(offset, name, Verdict::Dead, Some(code.clone()));
        self.letters.codes.push(code);
        self.letters.messages.push(dead.message.to_owned());
        self.letters.attempts.push(dead.attempts);
        self.letters.keys.push(dead.key.map(<[u8]>::to_vec));
        self.letters.payloads.push(dead.payload.map(<[u8]>::to_vec));
        self.letters.headers.push(dead.headers.map(str::to_owned));
        self.letters.record_times_ms.push(dead.time_ms);
        // Whatever the reason, the ingester sent no identity to claim.
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
