//! Balance rows by key: found through the primary key and locked, written once.
//!
//! They are written as PostgreSQL's logical replication worker writes (execReplication.c), which
//! checks constraints and maintains all indexes, at a fraction of a SQL statement's cost. Only
//! the uniqueness of the primary key, which no update changes, is not checked: the check would
//! visit every version of the row that some snapshot still keeps.
//! Triggers do not fire and columns are not computed, so a table that has either is written by
//! SQL instead: see [`Balances::needs_sql`].

use std::ffi::CStr;

use ledger::account::AccountKey;
use ledger::amount::Amount;
use ledger::fold::Balance;
use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;
use pgrx::{PgMemoryContexts, pg_sys};

use super::hints::Name;
use super::log::Place;
use super::lookup::{self, Lookup, Version};
use super::numeric;
use super::target::{Column, Target};
use super::varlena::{Varlenas, is_text};
use crate::error::raise;
use crate::memory;

const COLUMNS: [Column; 6] = [
    Column::of(pg_sys::INT8OID),
    Column::of(pg_sys::INT4OID),
    Column::of(pg_sys::TEXTOID),
    Column::AMOUNT,
    Column::AMOUNT,
    Column::of(pg_sys::INT8OID),
];
const AVAILABLE: usize = 3;
const FROZEN: usize = 4;
const UPDATED_MSEC: usize = 5;

/// The columns that locate its last change in the log; at any position, because an owner may have added columns before.
const LAST_CHANGE: [&CStr; 3] = [c"last_partition_id", c"last_offset", c"last_change_no"];

/// A balance row that this transaction has locked.
#[derive(Clone, Copy)]
pub struct LockedRow {
    at: pg_sys::ItemPointerData,
    name: Name,
    /// The position of the whole row in [`Balances::images`], in words, and its length in bytes.
    image: (usize, u32),
    pub balance: Balance,
    pub last_change: Option<Place>,
}

/// `ledger.account_balances`, open for this batch.
pub struct Balances {
    target: Target,
    lookup: Lookup,
    /// Positions of [`LAST_CHANGE`] in a row.
    last_change: [usize; 3],
    /// Locked rows as they were, aligned as in a page.
    images: Vec<u64>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    /// The values of the row to be written.
    new: *mut pg_sys::TupleTableSlot,
    per_row: PgMemoryContexts,
    varlenas: Varlenas,
}

impl Balances {
    pub fn open() -> Self {
        let target = Target::open("account_balances", &COLUMNS);
        let lookup = target.lookup(
            &[lookup::INT8, lookup::INT4, lookup::TEXT],
            "account_id, shard_id, currency_code",
        );
        let last_change = LAST_CHANGE.map(|name| target.column(name));
        // SAFETY: the relation is open and its descriptor outlives the slot, which lives until `close` or the end of the transaction.
        let new = unsafe {
            pg_sys::CheckCmdReplicaIdentity(target.relation, pg_sys::CmdType::CMD_UPDATE);
            let descriptor = (*target.relation).rd_att;
            pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual)
        };
        let columns = target.columns();
        Self {
            lookup,
            last_change,
            images: Vec::new(),
            values: vec![pg_sys::Datum::from(0usize); columns],
            nulls: vec![true; columns],
            new,
            per_row: PgMemoryContexts::new("sluice balance row"),
            varlenas: Varlenas::default(),
            target,
        }
    }

    /// Whether an owner has added triggers, foreign keys or computed columns, which only SQL honours.
    pub fn needs_sql(&self) -> bool {
        self.target.has_triggers() || self.target.has_computed_columns()
    }

    /// Finds and locks the row of a key, and waits for other transactions that have locked or create it.
    pub fn lock(&mut self, key: &AccountKey) -> Option<LockedRow> {
        self.varlenas.clear();
        let currency = self.varlenas.push(key.currency.as_str().as_bytes());
        let values = [
            key.account_id.into(),
            key.shard_id.into(),
            self.varlenas.datum(currency),
        ];
        let name = Name::of(key);
        let (relation, images) = (self.target.relation, &mut self.images);
        let mut hint = name.hint();
        let row = loop {
            let mut outcome = Outcome::NoRow;
            let mut root = None;
            let mut visit = |version: &mut Version| {
                root = Some(version.root);
                outcome = match version.undecided {
                    Some(transaction) => Outcome::Undecided(transaction),
                    // SAFETY: the version is in a pinned page of this relation.
                    None => unsafe { lock_version(relation, version, images, name) },
                };
                true
            };
            // SAFETY: the key's values live in `varlenas` through the call; a version that a hint led to is one of this
            // relation.
            let by_hint = unsafe {
                match hint.take() {
                    Some(at) => {
                        self.lookup.version_at_hint(at, |version| {
                            has_key(relation, version, key) && visit(version)
                        });
                        true
                    }
                    None => {
                        self.lookup.versions(&values, &mut visit);
                        false
                    }
                }
            };
            match outcome {
                Outcome::Locked(row) => {
                    root.into_iter().for_each(|root| name.remember(root));
                    break row;
                }
                // In every other case the index decides.
                _ if by_hint => {}
                Outcome::NoRow => return None,
                Outcome::Undecided(transaction) => self.lookup.wait_for(transaction),
                Outcome::Moved => {}
            }
            pgrx::check_for_interrupts!();
        };
        Some(self.read(row))
    }

    fn read(&mut self, mut row: LockedRow) -> LockedRow {
        self.deform(&row);
        row.balance = Balance {
            available: self.amount(AVAILABLE),
            frozen: self.amount(FROZEN),
        };
        let [partition_id, kafka_offset, change_no] = self
            .last_change
            .map(|column| (!self.nulls[column]).then(|| self.values[column].value()));
        row.last_change = partition_id.zip(kafka_offset).zip(change_no).map(
            |((partition_id, kafka_offset), change_no)| Place {
                partition_id: partition_id as i32,
                kafka_offset: kafka_offset as i64,
                change_no: change_no as i16,
            },
        );
        row
    }

    /// Deforms a locked row into `values` and `nulls`, which point into its image.
    fn deform(&mut self, row: &LockedRow) {
        let (start, length) = row.image;
        // SAFETY: the image is a copy of a tuple of this relation, aligned as in a page; both arrays have a place per
        // column.
        unsafe {
            let mut tuple: pg_sys::HeapTupleData = std::mem::zeroed();
            tuple.t_len = length;
            tuple.t_self = row.at;
            tuple.t_tableOid = (*self.target.relation).rd_id;
            tuple.t_data = self.images.as_mut_ptr().add(start).cast();
            pg_sys::heap_deform_tuple(
                &mut tuple,
                (*self.target.relation).rd_att,
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
        }
    }

    fn amount(&self, column: usize) -> Amount {
        // SAFETY: by COLUMNS the datum is a numeric, inline in the image and NOT NULL; detoasting copies only what
        // is compressed.
        let amount = unsafe {
            let packed = pg_sys::pg_detoast_datum_packed(self.values[column].cast_mut_ptr());
            numeric::decode(pgrx::varlena::varlena_to_byte_slice(packed))
        };
        amount.unwrap_or_else(|| {
            raise(
                Code::ERRCODE_DATA_CORRUPTED,
                "a balance in ledger.account_balances is not a numeric(36,18)",
            )
        })
    }

    /// Writes the new balance of a locked row; all its other columns keep their values.
    pub fn update(
        &mut self,
        row: &LockedRow,
        balance: Balance,
        last_change: Place,
        updated_msec: i64,
    ) {
        self.deform(row);
        self.varlenas.clear();
        let available = self.varlenas.push_amount(balance.available);
        let frozen = self.varlenas.push_amount(balance.frozen);
        let [last_partition_id, last_offset, last_change_no] = self.last_change;
        for (column, value) in [
            (AVAILABLE, self.varlenas.datum(available)),
            (FROZEN, self.varlenas.datum(frozen)),
            (UPDATED_MSEC, pg_sys::Datum::from(updated_msec)),
            (last_partition_id, last_change.partition_id.into()),
            (last_offset, last_change.kafka_offset.into()),
            (last_change_no, last_change.change_no.into()),
        ] {
            self.values[column] = value;
            self.nulls[column] = false;
        }
        let (target, index, new) = (&self.target, self.lookup.index(), self.new);
        let mut at = row.at;
        // SAFETY: the row is locked by this transaction, so its place stands; the values live through the call, in the
        // row's image and in `varlenas`; the table has no triggers.
        unsafe {
            pg_sys::ExecClearTuple(new);
            std::ptr::copy_nonoverlapping(
                self.values.as_ptr(),
                (*new).tts_values,
                self.values.len(),
            );
            std::ptr::copy_nonoverlapping(self.nulls.as_ptr(), (*new).tts_isnull, self.nulls.len());
            pg_sys::ExecStoreVirtualTuple(new);
            let moved = self
                .per_row
                .switch_to(|_| target.update(&mut at, new, index));
            moved.into_iter().for_each(|at| row.name.remember(at));
            pg_sys::ExecClearTuple(new);
            target.reset_per_tuple_memory();
            self.per_row.reset();
        }
    }

    pub fn close(self) {
        let Self {
            target,
            lookup,
            new,
            ..
        } = self;
        lookup.close();
        // SAFETY: the slot was made by `open` and is used no more.
        unsafe { pg_sys::ExecDropSingleTupleTableSlot(new) };
        target.close();
    }
}

/// The outcome of a search for a row.
enum Outcome {
    NoRow,
    /// Another transaction creates, changes or deletes it.
    Undecided(pg_sys::TransactionId),
    /// It was changed while we waited for its lock.
    Moved,
    Locked(LockedRow),
}

/// Whether a version has this key.
///
/// # Safety
/// The version is one of `relation`, its page pinned.
unsafe fn has_key(relation: pg_sys::Relation, version: &mut Version, key: &AccountKey) -> bool {
    // SAFETY: by COLUMNS these are a bigint, an integer and a text, NOT NULL as columns of the primary key.
    unsafe {
        let descriptor = (*relation).rd_att;
        let column = |number| pg_sys::nocachegetattr(&mut version.tuple, number, descriptor);
        let [account_id, shard_id, currency] = [1, 2, 3].map(column);
        account_id.value() as i64 == key.account_id
            && shard_id.value() as i32 == key.shard_id
            && is_text(currency, key.currency.as_str())
    }
}

/// Locks a version and copies it.
///
/// # Safety
/// The version is one of `relation`, its page pinned.
unsafe fn lock_version(
    relation: pg_sys::Relation,
    version: &mut Version,
    images: &mut Vec<u64>,
    name: Name,
) -> Outcome {
    let tuple = &mut version.tuple;
    let mut buffer = pg_sys::InvalidBuffer as pg_sys::Buffer;
    // SAFETY: heap_lock_tuple reads and pins the page of `tuple` anew and points the tuple into it; a locked tuple does
    // not change while its page is pinned.
    unsafe {
        let mut failure: pg_sys::TM_FailureData = std::mem::zeroed();
        let result = pg_sys::heap_lock_tuple(
            relation,
            tuple,
            pg_sys::GetCurrentCommandId(false),
            pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
            pg_sys::LockWaitPolicy::LockWaitBlock,
            false,
            &mut buffer,
            &mut failure,
        );
        let outcome = match result {
            pg_sys::TM_Result::TM_Ok => {
                let (start, length) = (images.len(), tuple.t_len as usize);
                let words = length.div_ceil(size_of::<u64>());
                memory::reserve(images, words);
                images.resize(start + words, 0);
                let image = images[start..].as_mut_ptr().cast::<u8>();
                std::ptr::copy_nonoverlapping(tuple.t_data.cast::<u8>(), image, length);
                Outcome::Locked(LockedRow {
                    at: tuple.t_self,
                    name,
                    image: (start, tuple.t_len),
                    balance: Balance::default(),
                    last_change: None,
                })
            }
            pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => Outcome::Moved,
            _ => raise(
                Code::ERRCODE_INTERNAL_ERROR,
                "a balance row cannot be locked",
            ),
        };
        pg_sys::ReleaseBuffer(buffer);
        outcome
    }
}
