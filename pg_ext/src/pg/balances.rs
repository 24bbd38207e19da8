//! Balance rows by key: found through the primary key and locked, written once.
//!
//! They are written as PostgreSQL's logical replication worker writes (execReplication.c), which
//! checks constraints and maintains all indexes, at a fraction of a SQL statement's cost.
//! It fires no triggers, so a table that has some is written by SQL instead: see
//! [`Balances::has_triggers`].

use std::ffi::CStr;

use ledger::account::AccountKey;
use ledger::amount::Amount;
use ledger::fold::Balance;
use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;
use pgrx::{PgMemoryContexts, pg_sys};

use super::log::Place;
use super::lookup::{self, Lookup, Version};
use super::numeric;
use super::target::Target;
use super::varlena::Varlenas;
use super::versions;
use crate::error::raise;

const COLUMN_TYPES: [pg_sys::Oid; 6] = [
    pg_sys::INT8OID,
    pg_sys::INT4OID,
    pg_sys::TEXTOID,
    pg_sys::NUMERICOID,
    pg_sys::NUMERICOID,
    pg_sys::INT8OID,
];
const AVAILABLE: usize = 3;
const FROZEN: usize = 4;
const UPDATED_MSEC: usize = 5;

/// Where the row of its last change is in the log; wherever they stand, for an owner may have added columns before.
const LAST_CHANGE: [&CStr; 3] = [c"last_partition_id", c"last_offset", c"last_change_no"];

/// A balance row that this transaction has locked.
#[derive(Clone, Copy)]
pub struct LockedRow {
    at: pg_sys::ItemPointerData,
    /// Where [`Balances::images`] has the whole row, in words and bytes.
    image: (usize, u32),
    pub balance: Balance,
    pub last_change: Option<Place>,
}

/// `ledger.account_balances`, open for this batch.
pub struct Balances {
    target: Target,
    lookup: Lookup,
    /// Places of [`LAST_CHANGE`] in a row.
    last_change: [usize; 3],
    /// Locked rows as they were, aligned as in a page.
    images: Vec<u64>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    /// Says which row is written, and with what.
    old: *mut pg_sys::TupleTableSlot,
    new: *mut pg_sys::TupleTableSlot,
    epq: Box<pg_sys::EPQState>,
    per_row: PgMemoryContexts,
    varlenas: Varlenas,
}

impl Balances {
    pub fn open() -> Self {
        let target = Target::open("account_balances", &COLUMN_TYPES);
        let lookup = Lookup::open(
            &target,
            &[lookup::INT8, lookup::INT4, lookup::TEXT],
            "account_id, shard_id, currency_code",
        );
        let last_change = LAST_CHANGE.map(|name| target.column(name));
        // SAFETY: the relation is open and its descriptor outlives the slots, which live until `close` or the end of the transaction.
        unsafe {
            let descriptor = (*target.relation).rd_att;
            let natts = (*descriptor).natts as usize;
            let slot =
                || pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
            let mut epq: Box<pg_sys::EPQState> = Box::new(std::mem::zeroed());
            versions::init_recheck(&mut *epq, target.estate);
            Self {
                lookup,
                last_change,
                images: Vec::new(),
                values: vec![pg_sys::Datum::from(0usize); natts],
                nulls: vec![true; natts],
                old: slot(),
                new: slot(),
                epq,
                per_row: PgMemoryContexts::new("sluice balance row"),
                varlenas: Varlenas::default(),
                target,
            }
        }
    }

    /// Whether an owner has added triggers or foreign keys, which only SQL honours.
    pub fn has_triggers(&self) -> bool {
        self.target.has_triggers()
    }

    /// Finds and locks the row of a key, waiting out other transactions that hold or create it.
    pub fn lock(&mut self, key: &AccountKey) -> Option<LockedRow> {
        self.varlenas.clear();
        let currency = self.varlenas.push(key.currency.as_str().as_bytes());
        let key = [
            key.account_id.into(),
            key.shard_id.into(),
            self.varlenas.datum(currency),
        ];
        let (relation, images) = (self.target.relation, &mut self.images);
        let row = loop {
            let mut outcome = Outcome::NoRow;
            let visit = |version: &mut Version| {
                outcome = match version.undecided {
                    Some(transaction) => Outcome::Undecided(transaction),
                    // SAFETY: the version is in a pinned page of this relation.
                    None => unsafe { lock_version(relation, version, images) },
                };
                true
            };
            // SAFETY: the key's values live in `varlenas` through the call.
            unsafe { self.lookup.versions(&key, visit) };
            match outcome {
                Outcome::NoRow => return None,
                Outcome::Undecided(transaction) => self.lookup.wait_for(transaction),
                Outcome::Moved => {}
                Outcome::Locked(row) => break row,
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

    /// Takes a locked row apart into `values` and `nulls`, which point into its image.
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
        // SAFETY: by COLUMN_TYPES the datum is a numeric, inline in the image and NOT NULL; detoasting copies only what
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

    /// Writes the new balance of a locked row; all its other columns stay as they are.
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
        let (target, old, new) = (&self.target, self.old, self.new);
        let epq: *mut pg_sys::EPQState = &mut *self.epq;
        // SAFETY: the row is locked by this transaction, so its place stands; the values live through the call, in the
        // row's image and in `varlenas`; of `old` only the place is read, for the table has no triggers.
        unsafe {
            (*old).tts_tid = row.at;
            pg_sys::ExecClearTuple(new);
            std::ptr::copy_nonoverlapping(
                self.values.as_ptr(),
                (*new).tts_values,
                self.values.len(),
            );
            std::ptr::copy_nonoverlapping(self.nulls.as_ptr(), (*new).tts_isnull, self.nulls.len());
            pg_sys::ExecStoreVirtualTuple(new);
            self.per_row.switch_to(|_| {
                pg_sys::ExecSimpleRelationUpdate(target.result, target.estate, epq, old, new);
            });
            pg_sys::ExecClearTuple(new);
            target.reset_per_tuple_memory();
            self.per_row.reset();
        }
    }

    pub fn close(self) {
        let Self {
            target,
            lookup,
            old,
            new,
            mut epq,
            ..
        } = self;
        lookup.close();
        // SAFETY: both slots and the EPQ state were made by `open` and are used no more.
        unsafe {
            pg_sys::EvalPlanQualEnd(&mut *epq);
            pg_sys::ExecDropSingleTupleTableSlot(old);
            pg_sys::ExecDropSingleTupleTableSlot(new);
        }
        target.close();
    }
}

/// What came of looking for a row.
enum Outcome {
    NoRow,
    /// Another transaction creates, changes or deletes it.
    Undecided(pg_sys::TransactionId),
    /// It was changed while its lock was waited for.
    Moved,
    Locked(LockedRow),
}

/// Locks a version and keeps a copy of it.
///
/// # Safety
/// The version is one of `relation`, its page pinned.
unsafe fn lock_version(
    relation: pg_sys::Relation,
    version: &mut Version,
    images: &mut Vec<u64>,
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
                images.resize(start + length.div_ceil(size_of::<u64>()), 0);
                let image = images[start..].as_mut_ptr().cast::<u8>();
                std::ptr::copy_nonoverlapping(tuple.t_data.cast::<u8>(), image, length);
                Outcome::Locked(LockedRow {
                    at: tuple.t_self,
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
