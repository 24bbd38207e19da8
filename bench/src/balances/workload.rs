//! What is measured: streams of one-change events over accounts that exist, with fixed
//! seeds, so that every run and every contender sees the same ones.

use ledger::account::{AccountKey, Currency};
use ledger::amount::Amount;
use ledger::event::Change;
use ledger::fold::Balance;
use ledger::identity::{Identity, PayloadHash};

use crate::random::Random;

/// Accounts that are opened before the first measurement, numbered from 1.
pub const ACCOUNTS: usize = 1_000_000;
/// Available in each at first: enough that no event is ever rejected.
pub const OPENING_WHOLE: i64 = 1_000_000;
/// The accounts that the skewed workload uses.
const ZIPF_ACCOUNTS: usize = 10_000;
const ZIPF_EXPONENT: f64 = 1.1;
const CURRENCY: &str = "USD";

/// How accounts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    Uniform,
    Zipf,
    Hot,
}

impl Skew {
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Zipf, Self::Hot];

    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform, 1,000,000 accounts",
            Self::Zipf => "zipf 1.1, 10,000 accounts",
            Self::Hot => "one hot account",
        }
    }
}

/// An event with everything that either contender stages or logs.
pub struct Event {
    pub id: String,
    pub identity: Identity,
    pub payload_hash: PayloadHash,
    pub change: Change,
    /// The balance that the log will show.
    pub after: Balance,
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
            zipf: (1..=ZIPF_ACCOUNTS).map(weight).collect(),
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
            Skew::Hot => 0,
            Skew::Zipf => {
                let point = self.random.fraction() * self.zipf[ZIPF_ACCOUNTS - 1];
                self.zipf
                    .partition_point(|cumulated| *cumulated < point)
                    .min(ZIPF_ACCOUNTS - 1)
            }
        };
        index as i64 + 1
    }

    pub fn next_event(&mut self) -> Event {
        // As long as a UUID, which is what most producers send.
        let id = format!("{:>20}-{:015x}", self.label, self.produced).replace(' ', "0");
        self.produced += 1;
        let account_id = self.account();
        // Up to ±50.00 moves between available and frozen, or in and out.
        let cents = self.random.below(10_001) as i128 - 5_000;
        let frozen = if self.random.below(4) == 0 {
            cents.abs()
        } else {
            0
        };
        let amount = |cents: i128| Amount::from_units(cents * 10i128.pow(Amount::SCALE - 2));
        let (available_delta, frozen_delta) = (amount(cents), amount(frozen));
        let opening = Amount::from_units(i128::from(OPENING_WHOLE) * 10i128.pow(Amount::SCALE));
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
            id,
        }
    }
}

/// An event as a producer sends it.
pub fn payload(event: &Event) -> Vec<u8> {
    format!(
        "{{\"eventId\":\"{}\",\"eventType\":\"balance.changed\",\"timestamp\":\"2026-11-21T05:00:00.000Z\",\
         \"source\":\"matching-engine\",\"data\":{{\"accountId\":{},\"shardId\":0,\"changes\":[{{\
         \"currencyCode\":\"{}\",\"availableDelta\":\"{}\",\"frozenDelta\":\"{}\"}}]}}}}",
        event.id,
        event.change.key.account_id,
        event.change.key.currency,
        event.change.available_delta,
        event.change.frozen_delta,
    )
    .into_bytes()
}
