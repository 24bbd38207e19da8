//! Transfers between any two of some accounts: one event, two changes.

use crate::measure::random::Random;

use super::workload::{FEW_ACCOUNTS, PARTITIONS, Waiting, amount, envelope, event_id};

pub struct Transfer {
    id: String,
    number: u64,
    from: usize,
    to: usize,
    cents: i128,
}

/// An endless stream of transfers.
pub struct Transfers {
    name: &'static str,
    random: Random,
    produced: u64,
}

impl Transfers {
    /// Two of another name have no event in common.
    pub fn new(name: &'static str, seed: u64) -> Self {
        Self {
            name,
            random: Random(seed),
            produced: 0,
        }
    }

    pub fn take(&mut self, count: usize) -> Vec<Transfer> {
        (0..count).map(|_| self.next_transfer()).collect()
    }

    fn next_transfer(&mut self) -> Transfer {
        let number = self.produced;
        self.produced += 1;
        let from = self.random.below(FEW_ACCOUNTS);
        // Any other account.
        let to = (from + 1 + self.random.below(FEW_ACCOUNTS - 1)) % FEW_ACCOUNTS;
        Transfer {
            id: event_id(self.name, number),
            number,
            from: from + 1,
            to: to + 1,
            cents: 1 + self.random.below(5_000) as i128,
        }
    }
}

pub fn payload(transfer: &Transfer) -> Vec<u8> {
    let change = |account: usize, cents: i128| {
        format!(
            "{{\"accountId\":{account},\"shardId\":0,\"currencyCode\":\"USD\",\"availableDelta\":\"{}\"}}",
            amount(cents)
        )
    };
    let data = format!(
        "\"changes\":[{},{}]",
        change(transfer.from, -transfer.cents),
        change(transfer.to, transfer.cents)
    );
    envelope(&transfer.id, &data)
}

/// No partition has an account to itself: the transfers of any two meet.
pub fn record(transfer: &Transfer) -> Waiting {
    Waiting {
        partition: transfer.number as usize % PARTITIONS,
        payload: payload(transfer),
        key: transfer.id.clone(),
    }
}
