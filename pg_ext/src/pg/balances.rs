//! Balance rows by key: found and locked through the primary key, written once.
//!
//! Both go the way of PostgreSQL's logical replication worker (execReplication.c), which
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
use super::numeric;
use super::target::Target;
use super::varlena::Varlenas;
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
    pub balance: Balance,
    pub last_change: Option<Place>,
}

/// `ledger.account_balances`, open for this batch.
pub struct Balances {
    target: Target,
    primary_key: pg_sys::Oid,
    /// Places of [`LAST_CHANGE`] in a row.
    last_change: [usize; 3],
    search: *mut pg_sys::TupleTableSlot,
    found: *mut pg_sys::TupleTableSlot,
    written: *mut pg_sys::TupleTableSlot,
    epq: Box<pg_sys::EPQState>,
    per_row: PgMemoryContexts,
    varlenas: Varlenas,
}

impl Balances {
    pub fn open() -> Self {
        let target = Target::open("account_balances", &COLUMN_TYPES);
        // SAFETY: the relation is open and its descriptor outlives the slots, which live until `close` or the end of the transaction.
        unsafe {
            let primary_key = pg_sys::RelationGetPrimaryKeyIndex(target.relation);
            if primary_key == pg_sys::InvalidOid {
                raise(
                    Code::ERRCODE_UNDEFINED_OBJECT,
                    "ledger.account_balances has lost its primary key (account_id, shard_id, currency_code): restore it to go on",
                );
            }
            let last_change = LAST_CHANGE.map(|name| target.column(name));
            let descriptor = (*target.relation).rd_att;
            let mut epq: Box<pg_sys::EPQState> = Box::new(std::mem::zeroed());
            pg_sys::EvalPlanQualInit(
                &mut *epq,
                target.estate,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                -1,
            );
            Self {
                primary_key,
                last_change,
                search: pg_sys::MakeSingleTupleTableSlot(
                    descriptor,
                    &raw const pg_sys::TTSOpsVirtual,
                ),
                found: pg_sys::table_slot_create(target.relation, std::ptr::null_mut()),
                written: pg_sys::MakeSingleTupleTableSlot(
                    descriptor,
                    &raw const pg_sys::TTSOpsVirtual,
                ),
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
        let currency = self.varlenas.datum(currency);
        let (target, search, found, primary_key) =
            (&self.target, self.search, self.found, self.primary_key);
        // SAFETY: slots and relation are open; the search slot's values live in `varlenas` through the call; what the
        // scan allocates goes into the per-row context, reset right after the values are copied out.
        unsafe {
            let natts = (*(*target.relation).rd_att).natts as usize;
            pg_sys::ExecClearTuple(search);
            std::slice::from_raw_parts_mut((*search).tts_isnull, natts).fill(true);
            for (column, value) in [
                key.account_id.into(),
                pg_sys::Datum::from(key.shard_id),
                currency,
            ]
            .into_iter()
            .enumerate()
            {
                *(*search).tts_values.add(column) = value;
                *(*search).tts_isnull.add(column) = false;
            }
            pg_sys::ExecStoreVirtualTuple(search);
            let hit = self.per_row.switch_to(|_| {
                pg_sys::RelationFindReplTupleByIndex(
                    target.relation,
                    primary_key,
                    pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                    search,
                    found,
                )
            });
            let row = hit.then(|| {
                pg_sys::slot_getsomeattrs_int(found, natts as i32);
                LockedRow {
                    at: (*found).tts_tid,
                    balance: Balance {
                        available: amount_of(found, AVAILABLE),
                        frozen: amount_of(found, FROZEN),
                    },
                    last_change: place_of(found, self.last_change),
                }
            });
            pg_sys::ExecClearTuple(found);
            self.per_row.reset();
            row
        }
    }

    /// Writes the new balance of a locked row; all its other columns stay as they are.
    pub fn update(
        &mut self,
        row: &LockedRow,
        balance: Balance,
        last_change: Place,
        updated_msec: i64,
    ) {
        self.varlenas.clear();
        let available = self.varlenas.push_amount(balance.available);
        let frozen = self.varlenas.push_amount(balance.frozen);
        let (target, found, written) = (&self.target, self.found, self.written);
        let (available, frozen) = (self.varlenas.datum(available), self.varlenas.datum(frozen));
        let epq: *mut pg_sys::EPQState = &mut *self.epq;
        let [last_partition_id, last_offset, last_change_no] = self.last_change;
        let mut at = row.at;
        // SAFETY: the row is locked by this transaction, so its place stands; the values of both slots live through
        // the call: in the pinned buffer of `found`, and in `varlenas`.
        unsafe {
            let fetched = pg_sys::table_tuple_fetch_row_version(
                target.relation,
                &mut at,
                &raw mut pg_sys::SnapshotAnyData,
                found,
            );
            if !fetched {
                raise(Code::ERRCODE_INTERNAL_ERROR, "a locked balance row is gone");
            }
            let natts = (*(*target.relation).rd_att).natts as usize;
            pg_sys::slot_getsomeattrs_int(found, natts as i32);
            pg_sys::ExecClearTuple(written);
            std::ptr::copy_nonoverlapping((*found).tts_values, (*written).tts_values, natts);
            std::ptr::copy_nonoverlapping((*found).tts_isnull, (*written).tts_isnull, natts);
            for (column, value) in [
                (AVAILABLE, available),
                (FROZEN, frozen),
                (UPDATED_MSEC, pg_sys::Datum::from(updated_msec)),
                (last_partition_id, last_change.partition_id.into()),
                (last_offset, last_change.kafka_offset.into()),
                (last_change_no, last_change.change_no.into()),
            ] {
                *(*written).tts_values.add(column) = value;
                *(*written).tts_isnull.add(column) = false;
            }
            pg_sys::ExecStoreVirtualTuple(written);
            (*epq).origslot = written;
            self.per_row.switch_to(|_| {
                pg_sys::ExecSimpleRelationUpdate(target.result, target.estate, epq, found, written);
            });
            pg_sys::ExecClearTuple(found);
            pg_sys::ExecClearTuple(written);
            target.reset_per_tuple_memory();
            self.per_row.reset();
        }
    }

    pub fn close(self) {
        let Self {
            target,
            search,
            found,
            written,
            mut epq,
            ..
        } = self;
        // SAFETY: all three slots and the EPQ state were made by `open` and are used no more.
        unsafe {
            pg_sys::EvalPlanQualEnd(&mut *epq);
            pg_sys::ExecDropSingleTupleTableSlot(search);
            pg_sys::ExecDropSingleTupleTableSlot(found);
            pg_sys::ExecDropSingleTupleTableSlot(written);
        }
        target.close();
    }
}

/// # Safety
/// `slot` holds a tuple whose attributes are extracted; `columns` are those of [`LAST_CHANGE`].
unsafe fn place_of(slot: *mut pg_sys::TupleTableSlot, columns: [usize; 3]) -> Option<Place> {
    // SAFETY: by contract all attributes up to these columns are there.
    let [partition_id, kafka_offset, change_no] = columns.map(|column| unsafe {
        (!*(*slot).tts_isnull.add(column)).then(|| (*(*slot).tts_values.add(column)).value())
    });
    Some(Place {
        partition_id: partition_id? as i32,
        kafka_offset: kafka_offset? as i64,
        change_no: change_no? as i16,
    })
}

/// # Safety
/// `slot` holds a tuple whose attribute `column` is extracted and of type numeric.
unsafe fn amount_of(slot: *mut pg_sys::TupleTableSlot, column: usize) -> Amount {
    // SAFETY: by contract the datum is a numeric, inline in the tuple; detoasting copies only what is compressed.
    let amount = unsafe {
        let packed =
            pg_sys::pg_detoast_datum_packed((*(*slot).tts_values.add(column)).cast_mut_ptr());
        numeric::decode(pgrx::varlena::varlena_to_byte_slice(packed))
    };
    amount.unwrap_or_else(|| {
        raise(
            Code::ERRCODE_DATA_CORRUPTED,
            "a balance in ledger.account_balances is not a numeric(36,18)",
        )
    })
}
