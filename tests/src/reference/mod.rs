//! The reference ledger: one record after the other, no batches, no locks, nothing clever.

pub mod event;
pub mod json;

use std::collections::HashMap;

use crate::event::{Account, Change, Dead, Event, UNIT};
use crate::kafka::Record;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    pub available: i128,
    pub frozen: i128,
}

impl Balance {
    pub fn plus(self, change: &Change) -> Self {
        Self {
            available: self.available + change.available,
            frozen: self.frozen + change.frozen,
        }
    }

    pub fn minus(self, change: &Change) -> Self {
        Self {
            available: self.available - change.available,
            frozen: self.frozen - change.frozen,
        }
    }
}

/// The largest value of numeric(36,18).
const MAX: i128 = UNIT * UNIT - 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Applied,
    Rejected(&'static str),
    Duplicate,
    /// Any one of these reasons.
    Dead(Vec<&'static str>),
}

/// What one record must come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    /// For a dead record: what a reader may have found.
    pub event_id: Option<String>,
    /// The event's own time; of a dead record it is not asked for.
    pub time_us: Option<i64>,
    /// Each change with the balance that belongs into its log row.
    pub log: Vec<(Change, Balance)>,
}

pub type Book = HashMap<Account, Balance>;

/// One partition's ledger.
#[derive(Default)]
pub struct Ledger {
    pub book: Book,
    /// Which record owns the identity (source, eventId).
    owners: HashMap<(String, String), usize>,
}

impl Ledger {
    /// Judges `records[index]`; to be called in order. `met` gives the balances that the event met where
    /// they are not determined by this partition alone; otherwise they are this ledger's own.
    pub fn judge(&mut self, records: &[Record], index: usize, met: Option<&Book>) -> Judgement {
        let payload = records[index].message.payload.as_deref();
        let event = match event::decode(payload) {
            Ok(event) => event,
            Err(Dead { reasons, event_id }) => {
                return Judgement {
                    verdict: Verdict::Dead(reasons),
                    event_id,
                    time_us: None,
                    log: Vec::new(),
                };
            }
        };
        let identity = (event.source.clone(), event.event_id.clone());
        let owner = *self.owners.entry(identity).or_insert(index);
        if owner != index && records[owner].message.payload.as_deref() == payload {
            return Judgement {
                verdict: Verdict::Duplicate,
                event_id: Some(event.event_id),
                time_us: event.time_us,
                log: Vec::new(),
            };
        }
        let before = |book: &Book, account: &Account| {
            met.unwrap_or(book)
                .get(account)
                .copied()
                .unwrap_or_default()
        };
        let tried = if owner == index {
            try_changes(&event, |account| before(&self.book, account))
        } else {
            Err("EVENT_ID_CONFLICT")
        };
        let (verdict, log) = match tried {
            Ok(after) => (
                Verdict::Applied,
                event.changes.iter().copied().zip(after).collect(),
            ),
            Err(reason) => {
                let log = event
                    .changes
                    .iter()
                    .map(|change| (*change, before(&self.book, &change.account)))
                    .collect();
                (Verdict::Rejected(reason), log)
            }
        };
        if verdict == Verdict::Applied {
            for change in &event.changes {
                let balance = self.book.entry(change.account).or_default();
                *balance = balance.plus(change);
            }
        }
        Judgement {
            verdict,
            event_id: Some(event.event_id),
            time_us: event.time_us,
            log,
        }
    }
}

/// The balance after each change, each tried on what the ones before it left; or why that cannot be.
fn try_changes(
    event: &Event,
    before: impl Fn(&Account) -> Balance,
) -> Result<Vec<Balance>, &'static str> {
    let mut trial = Book::new();
    let mut after = Vec::with_capacity(event.changes.len());
    for change in &event.changes {
        let balance = trial
            .entry(change.account)
            .or_insert_with(|| before(&change.account));
        *balance = balance.plus(change);
        if balance.available < 0 {
            return Err("INSUFFICIENT_BALANCE");
        }
        if balance.frozen < 0 {
            return Err("INSUFFICIENT_FROZEN");
        }
        if balance.available > MAX || balance.frozen > MAX {
            return Err("BALANCE_OVERFLOW");
        }
        after.push(*balance);
    }
    Ok(after)
}

/// An amount as PostgreSQL prints it: any number of decimals.
pub fn parse_numeric(text: &str) -> Option<i128> {
    event::amount(text)
}

pub fn show(units: i128) -> String {
    let sign = if units < 0 { "-" } else { "" };
    let units = units.unsigned_abs();
    let unit = UNIT as u128;
    let text = format!("{sign}{}.{:018}", units / unit, units % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Message, credit};

    fn verdicts(messages: Vec<Message>) -> Vec<Verdict> {
        let records: Vec<Record> = messages
            .into_iter()
            .zip(0..)
            .map(|(message, offset)| Record { offset, message })
            .collect();
        let mut ledger = Ledger::default();
        (0..records.len())
            .map(|index| ledger.judge(&records, index, None).verdict)
            .collect()
    }

    #[test]
    fn order_decides_and_an_identity_is_taken_once() {
        let short = Verdict::Rejected("INSUFFICIENT_BALANCE");
        let stream = vec![
            credit("a", 1, "-50"),
            credit("b", 1, "100"),
            credit("a", 1, "-50"),
            credit("b", 1, "7"),
            credit("c", 1, "-100"),
        ];
        let expected = vec![
            short,
            Verdict::Applied,
            Verdict::Duplicate,
            Verdict::Rejected("EVENT_ID_CONFLICT"),
            Verdict::Applied,
        ];
        assert_eq!(verdicts(stream), expected);
    }
}
