//! What is measured: streams of one-change events over accounts that exist, with fixed
//! seeds, so that every run and every contender sees the same ones. A tenth of them may be
//! such that they are refused.

use ledger::account::{AccountKey, Currency};
use ledger::amount::Amount;
use ledger::event::Change;
use ledger::fold::Balance;
use ledger::identity::{Identity, PayloadHash};
use ledger::verdict::Verdict;

use crate::measure::random::Random;

/// Of each topic.
pub const PARTITIONS: usize = 8;
/// Accounts that are opened before the first measurement, numbered from 1.
pub const ACCOUNTS: usize = 1_000_000;
/// Available in each at first: enough that no event is rejected by chance.
pub const OPENING_WHOLE: i64 = 1_000_000;
/// Those of them that most workloads use.
pub const FEW_ACCOUNTS: usize = 10_000;
const ZIPF_EXPONENT: f64 = 1.1;
const CURRENCY: &str = "USD";
/// Each tenth event, where some are to be refused.
const REFUSED_EVERY: usize = 10;

/// A record that waits in a topic.
pub struct Waiting {
    pub partition: usize,
    pub key: String,
    pub payload: Vec<u8>,
}

/// How accounts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    Uniform,
    UniformFew,
    Zipf,
    Hot,
}

impl Skew {
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform, 1,000,000 accounts",
            Self::UniformFew => "uniform, 10,000 accounts",
            Self::Zipf => "zipf 1.1, 10,000 accounts",
            Self::Hot => "one hot account",
        }
    }
}

/// An event with everything that either contender stages or logs.
#[derive(Clone)]
pub struct Event {
    pub id: String,
    pub identity: Identity,
    pub payload_hash: PayloadHash,
    pub change: Change,
    /// The balance that the log will show.
    pub after: Balance,
    pub verdict: Verdict,
}

/// An endless stream of events.
pub struct Stream {
    skew: Skew,
    /// How many the uniform workload uses.
    accounts: usize,
    random: Random,
    /// Which stream an event id belongs to, so that no two streams share one.
    label: String,
    produced: u64,
    /// Cumulated weights of the skewed workload.
    zipf: Vec<f64>,
    currency: Currency,
}

impl Stream {
    pub fn new(skew: Skew, label: String, seed: u64) -> Self {
        let mut total = 0.0;
        let weight = |rank: usize| {
            total += (rank as f64).powf(-ZIPF_EXPONENT);
            total
        };
        Self {
            skew,
            accounts: ACCOUNTS,
            random: Random(seed),
            label,
            produced: 0,
            zipf: (1..=FEW_ACCOUNTS).map(weight).collect(),
            currency: Currency::new(CURRENCY).expect("a currency"),
        }
    }

    /// Uses fewer accounts.
    pub fn over(mut self, accounts: usize) -> Self {
        self.accounts = accounts;
        self
    }

    pub fn take(&mut self, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.next_event()).collect()
    }

    fn account(&mut self) -> i64 {
        let index = match self.skew {
            Skew::Uniform => self.random.below(self.accounts),
            Skew::UniformFew => self.random.below(FEW_ACCOUNTS),
            Skew::Hot => 0,
            Skew::Zipf => {
                let point = self.random.fraction() * self.zipf[FEW_ACCOUNTS - 1];
                self.zipf
                    .partition_point(|cumulated| *cumulated < point)
                    .min(FEW_ACCOUNTS - 1)
            }
        };
        index as i64 + 1
    }

    pub fn next_event(&mut self) -> Event {
        let id = event_id(&self.label, self.produced);
        self.produced += 1;
        let account_id = self.account();
        // Up to ±50.00 moves between available and frozen, or in and out.
        let cents = self.random.below(10_001) as i128 - 5_000;
        let frozen = if self.random.below(4) == 0 {
            cents.abs()
        } else {
            0
        };
        let (available_delta, frozen_delta) = (amount(cents), amount(frozen));
        let opening = amount(100 * i128::from(OPENING_WHOLE));
        Event {
            identity: Identity::of(None, &id),
            payload_hash: PayloadHash::of(id.as_bytes()),
            change: Change {
                key: AccountKey {
                    account_id,
                    shard_id: 0,
                    currency: self.currency,
                },
                available_delta,
                frozen_delta,
            },
            after: Balance {
                available: opening.saturating_add(available_delta),
                frozen: frozen_delta,
            },
            verdict: Verdict::Applied,
            id,
        }
    }
}

/// As long as a UUID, which is what most producers send.
pub fn event_id(label: &str, number: u64) -> String {
    format!("{label:0>20}-{number:015x}")
}

pub fn amount(cents: i128) -> Amount {
    Amount::from_units(cents * 10i128.pow(Amount::SCALE - 2))
}

/// Every tenth takes more than any account has.
pub fn with_rejects(mut events: Vec<Event>) -> Vec<Event> {
    for event in events
        .iter_mut()
        .skip(REFUSED_EVERY - 1)
        .step_by(REFUSED_EVERY)
    {
        event.change.available_delta = amount(-200 * i128::from(OPENING_WHOLE));
        event.verdict = Verdict::Rejected;
    }
    events
}

/// Every tenth is another one over again: in turns one of the same batch, and one of `seen`,
/// which earlier batches brought.
pub fn with_duplicates(mut events: Vec<Event>, batch_size: usize, seen: &[Event]) -> Vec<Event> {
    let mut random = Random(events.len() as u64);
    for batch in events.chunks_mut(batch_size) {
        for place in (REFUSED_EVERY - 1..batch.len()).step_by(REFUSED_EVERY) {
            let original = if (place / REFUSED_EVERY).is_multiple_of(2) {
                // The nine before it are no duplicates themselves.
                &batch[place - 1 - random.below(REFUSED_EVERY - 1)]
            } else {
                &seen[random.below(seen.len())]
            };
            batch[place] = Event {
                verdict: Verdict::Duplicate,
                ..original.clone()
            };
        }
    }
    events
}

impl Event {
    /// As it waits in a topic: an account's events stay in one partition, as any producer would send them.
    pub fn waiting(&self) -> Waiting {
        let account_id = self.change.key.account_id;
        Waiting {
            partition: account_id as usize % PARTITIONS,
            key: account_id.to_string(),
            payload: payload(self),
        }
    }
}

/// An event as a producer sends it.
pub fn payload(event: &Event) -> Vec<u8> {
    let Change {
        key,
        available_delta,
        frozen_delta,
    } = event.change;
    envelope(
        &event.id,
        &format!(
            "\"accountId\":{},\"shardId\":0,\"changes\":[{{\
             \"currencyCode\":\"{}\",\"availableDelta\":\"{available_delta}\",\"frozenDelta\":\"{frozen_delta}\"}}]",
            key.account_id, key.currency,
        ),
    )
}

/// What stands around the data of each event.
pub fn envelope(id: &str, data: &str) -> Vec<u8> {
    format!(
        "{{\"eventId\":\"{id}\",\"eventType\":\"balance.changed\",\"timestamp\":\"2026-11-21T05:00:00.000Z\",\
         \"source\":\"matching-engine\",\"data\":{{{data}}}}}"
    )
    .into_bytes()
}
