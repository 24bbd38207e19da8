//! Transfers between any two of some accounts: one event, two changes.

use crate::random::Random;

use super::whole_way::{PARTITIONS, Waiting};
use super::workload::{FEW_ACCOUNTS, amount, envelope, event_id};

pub struct Transfer {
    number: u64,
    from: usize,
    to: usize,
    cents: i128,
}

/// An endless stream of transfers.
pub struct Transfers {
    random: Random,
    produced: u64,
}

impl Transfers {
    pub fn new(seed: u64) -> Self {
        Self {
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
            number,
            from: from + 1,
            to: to + 1,
            cents: 1 + self.random.below(5_000) as i128,
        }
    }
}

/// No partition has an account to itself: the transfers of any two meet.
pub fn record(transfer: &Transfer) -> Waiting {
    let id = event_id("transfer", transfer.number);
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
    Waiting {
        partition: transfer.number as usize % PARTITIONS,
        payload: envelope(&id, &data),
        key: id,
    }
}
