//! The balances that a batch touches: locked in key order, folded in memory, written once.

use std::ops::Range;

use ledger::account::AccountKey;
use ledger::fold::{Balance, Claim};
use ledger::staging::{Content, Staged};
use pgrx::PgSqlErrorCode as Code;
use pgrx::spi::SpiClient;

use crate::error::{assert_count, raise};
use crate::identities::Ownership;
use crate::memory;
use crate::pg::balances::{Balances, LockedRow};
use crate::pg::log::Place;
use crate::spi::run_planned;

// In key order, so that two partitions that open the same accounts cannot deadlock: the
// later one fails on the primary key, and its batch is tried again.
const INSERT: &str = "
    INSERT INTO ledger.account_balances (
        account_id, shard_id, currency_code, available, frozen, updated_msec,
        last_partition_id, last_offset, last_change_no)
    SELECT u.account_id, u.shard_id, u.currency_code, u.available::numeric, u.frozen::numeric, $9,
        u.last_partition_id, u.last_offset, u.last_change_no
    FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::bigint[], $8::smallint[])
        AS u (account_id, shard_id, currency_code, available, frozen, last_partition_id, last_offset, last_change_no)";

// Only for a table with triggers or computed columns, which only statements honour.
const UPDATE: &str = "
    UPDATE ledger.account_balances b
    SET available = u.available::numeric, frozen = u.frozen::numeric, updated_msec = $9,
        last_partition_id = u.last_partition_id, last_offset = u.last_offset, last_change_no = u.last_change_no
    FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::bigint[], $8::smallint[])
        AS u (account_id, shard_id, currency_code, available, frozen, last_partition_id, last_offset, last_change_no)
    WHERE b.account_id = u.account_id AND b.shard_id = u.shard_id AND b.currency_code = u.currency_code";

/// All balances of a batch, by slot in key order.
pub struct Accounts {
    keys: Vec<AccountKey>,
    /// The slot of each staged change; a duplicate's change has none.
    slots: Vec<u32>,
    rows: Vec<Option<LockedRow>>,
    book: Vec<Balance>,
    /// The last change of each balance that this batch changes.
    changed: Vec<Option<Place>>,
    table: Balances,
}

impl Accounts {
    /// Locks every balance that a record other than a duplicate names. All batches lock
    /// in the same order, so that no two can wait for each other.
    pub fn lock(staged: &Staged<'_>, ownership: &Ownership) -> Self {
        let mut wanted: Vec<(AccountKey, usize)> = memory::vec(staged.changes.len());
        for (index, record) in staged.records.iter().enumerate() {
            if let Content::Event(_, changes) = &record.content
                && ownership.of(index) != Claim::Duplicate
            {
                wanted.extend(
                    changes
                        .clone()
                        .map(|change| (staged.changes[change].key, change)),
                );
            }
        }
        wanted.sort_unstable_by_key(|(key, _)| *key);
        let mut keys: Vec<AccountKey> = Vec::with_capacity(wanted.len());
        let mut slots = memory::filled(u32::MAX, staged.changes.len());
        for (key, change) in wanted {
            if keys.last() != Some(&key) {
                keys.push(key);
            }
            slots[change] = keys.len() as u32 - 1;
        }
        let mut table = Balances::open();
        let mut rows: Vec<Option<LockedRow>> = memory::vec(keys.len());
        for (count, key) in keys.iter().enumerate() {
            if count % 256 == 0 {
                pgrx::check_for_interrupts!();
            }
            rows.push(table.lock(key));
        }
        let mut book = memory::vec(keys.len());
        book.extend(
            rows.iter()
                .map(|row| row.map(|row| row.balance).unwrap_or_default()),
        );
        Self {
            changed: memory::filled(None, keys.len()),
            keys,
            slots,
            rows,
            book,
            table,
        }
    }

    /// The balances of some staged changes.
    pub fn slots(&self, changes: Range<usize>) -> &[u32] {
        &self.slots[changes]
    }

    pub fn book(&mut self) -> &mut [Balance] {
        &mut self.book
    }

    /// Where the log has the last applied change of a balance.
    pub fn last_change(&self, slot: u32) -> Option<Place> {
        let slot = slot as usize;
        self.changed[slot].or(self.rows[slot].and_then(|row| row.last_change))
    }

    pub fn changed(&mut self, slot: u32, last_change: Place) {
        self.changed[slot as usize] = Some(last_change);
    }

    /// Writes every changed balance once; returns how many rows were updated and inserted.
    pub fn write(mut self, client: &mut SpiClient<'_>, updated_msec: i64) -> (i64, i64) {
        let needs_sql = self.table.needs_sql();
        let mut updates = Columns::default();
        let mut inserts = Columns::default();
        let mut updated = 0;
        for (slot, place) in self.changed.iter().enumerate() {
            let Some(place) = *place else { continue };
            let (key, balance) = (&self.keys[slot], self.book[slot]);
            match &self.rows[slot] {
                Some(_) if needs_sql => updates.push(key, balance, place),
                Some(row) => {
                    self.table.update(row, balance, place, updated_msec);
                    updated += 1;
                    if updated % 256 == 0 {
                        pgrx::check_for_interrupts!();
                    }
                }
                None => inserts.push(key, balance, place),
            }
        }
        updated += updates.write(client, UPDATE, updated_msec);
        let inserted = inserts.write(client, INSERT, updated_msec);
        if needs_sql {
            self.check_written();
        }
        self.table.close();
        (updated, inserted)
    }

    /// A trigger may read a balance, but not change or skip what the log records.
    fn check_written(&mut self) {
        for slot in (0..self.keys.len()).filter(|slot| self.changed[*slot].is_some()) {
            let written = self.table.lock(&self.keys[slot]).map(|row| row.balance);
            if written != Some(self.book[slot]) {
                let key = &self.keys[slot];
                raise(
                    Code::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
                    format!(
                        "a trigger on ledger.account_balances changed or skipped the balance of account {}, shard {}, {}",
                        key.account_id,
                        key.shard_id,
                        key.currency.as_str()
                    ),
                );
            }
        }
    }
}

/// Balances as arrays, one per column.
#[derive(Default)]
struct Columns {
    account_ids: Vec<i64>,
    shard_ids: Vec<i32>,
    currencies: Vec<String>,
    available: Vec<String>,
    frozen: Vec<String>,
    last_partition_ids: Vec<i32>,
    last_offsets: Vec<i64>,
    last_change_nos: Vec<i16>,
}

impl Columns {
    fn push(&mut self, key: &AccountKey, balance: Balance, last_change: Place) {
        self.account_ids.push(key.account_id);
        self.shard_ids.push(key.shard_id);
        self.currencies.push(key.currency.as_str().to_owned());
        self.available.push(balance.available.to_string());
        self.frozen.push(balance.frozen.to_string());
        self.last_partition_ids.push(last_change.partition_id);
        self.last_offsets.push(last_change.kafka_offset);
        self.last_change_nos.push(last_change.change_no);
    }

    fn write(self, client: &mut SpiClient<'_>, statement: &'static str, updated_msec: i64) -> i64 {
        if self.account_ids.is_empty() {
            return 0;
        }
        let expected = self.account_ids.len() as i64;
        let args = [
            self.account_ids.into(),
            self.shard_ids.into(),
            self.currencies.into(),
            self.available.into(),
            self.frozen.into(),
            self.last_partition_ids.into(),
            self.last_offsets.into(),
            self.last_change_nos.into(),
            updated_msec.into(),
        ];
        let written = run_planned(client, statement, &args) as i64;
        assert_count("balances", written, expected);
        written
    }
}
