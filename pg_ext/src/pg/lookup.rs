//! Rows by their primary key, through one index scan that is reused for each key.
//!
//! It sees what PostgreSQL's own unique checks see: every live version, and those that another
//! transaction in progress has inserted or deleted.
//!
//! Such a search is no snapshot. The entries of an index page are read first and the rows visited
//! afterwards; if another transaction moves a row in between, by an update that needs a new entry, the
//! old version is dead and the new one is not among the entries. So the search concludes that there is
//! no such row only if no entry led to a row that some transaction may still see, or if an MVCC
//! snapshot, which sees each row at exactly one place, has none either.

use super::versions;
use pgrx::pg_sys;

/// Equality of a key column's type, and the column's collation is the index's own.
pub const INT8: u32 = pg_sys::F_INT8EQ;
pub const INT4: u32 = pg_sys::F_INT4EQ;
pub const TEXT: u32 = pg_sys::F_TEXTEQ;
pub const UUID: u32 = pg_sys::F_UUID_EQ;

/// The primary key of a table, whose columns are the table's first.
pub struct Lookup {
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    keys: Vec<pg_sys::ScanKeyData>,
    /// The size of the table when it was opened; our lock prevents it from shrinking.
    blocks: pg_sys::BlockNumber,
    /// The scan points into it, and it has the transaction in progress of the last version.
    snapshot: Box<pg_sys::SnapshotData>,
}

/// A version of a row, in a page that is pinned while it is read.
pub struct Version {
    pub tuple: pg_sys::HeapTupleData,
    /// Where the index entry points to, or would: the first of the versions that share it.
    pub root: pg_sys::ItemPointerData,
    /// The transaction in progress that inserted or deleted this version.
    pub undecided: Option<pg_sys::TransactionId>,
    /// The transaction that has locked or replaced it: `xmax` and `t_infomask`, read together.
    pub holder: (pg_sys::TransactionId, u32),
}

/// The outcome of one search.
#[derive(PartialEq, Eq)]
enum Scan {
    /// A version of the row was shown.
    Shown,
    /// None was shown, and no transaction could see any version that was visited.
    NoRow,
    /// None was shown, but an entry led to versions that may have been the row until a moment ago.
    Inconclusive,
}

/// The result at one place.
struct Seen {
    /// The visitor needs no further version.
    enough: bool,
    /// No transaction can see any of the versions there.
    all_dead: bool,
}

impl Lookup {
    /// `equal` has the equality of each key column; `None` where these are not the primary key.
    ///
    /// # Safety
    /// `heap` is an open table that stays open as long as this.
    pub unsafe fn open(heap: pg_sys::Relation, equal: &[u32]) -> Option<Self> {
        // SAFETY: the relation is open; the index is checked before it is used, and closed in `close` or at the end of
        // the transaction; the snapshot's address is that of its box, which the scan does not outlive.
        unsafe {
            let oid = versions::primary_key(heap);
            if oid == pg_sys::InvalidOid {
                return None;
            }
            let index = pg_sys::index_open(oid, pg_sys::RowExclusiveLock as _);
            let form = &*(*index).rd_index;
            let columns = form.indkey.values.as_slice(form.indnkeyatts as usize);
            if !columns.iter().copied().eq(1..=equal.len() as i16) {
                pg_sys::index_close(index, pg_sys::NoLock as _);
                return None;
            }
            let mut snapshot: Box<pg_sys::SnapshotData> = Box::new(std::mem::zeroed());
            snapshot.snapshot_type = pg_sys::SnapshotType::SNAPSHOT_DIRTY;
            let keys = equal
                .iter()
                .enumerate()
                .map(|(column, &equal)| {
                    let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
                    pg_sys::ScanKeyInit(
                        &mut key,
                        column as i16 + 1,
                        pg_sys::BTEqualStrategyNumber as _,
                        equal.into(),
                        pg_sys::Datum::from(0usize),
                    );
                    key.sk_collation = *(*index).rd_indcollation.add(column);
                    key
                })
                .collect();
            Some(Self {
                heap,
                index,
                scan: versions::begin_index_scan(heap, index, &mut *snapshot, equal.len() as i32),
                keys,
                blocks: pg_sys::RelationGetNumberOfBlocksInFork(
                    heap,
                    pg_sys::ForkNumber::MAIN_FORKNUM,
                ),
                snapshot,
            })
        }
    }

    /// Shows `visit` the versions of a key's row until it needs no more; if it was shown none, there was a moment during
    /// this call without such a row. No page is locked while `visit` runs. Versions come from the end of the table,
    /// where the youngest mostly is: an old snapshot may keep many that no other transaction sees.
    ///
    /// # Safety
    /// `key` has a valid datum for each key column.
    pub unsafe fn versions(
        &mut self,
        key: &[pg_sys::Datum],
        mut visit: impl FnMut(&mut Version) -> bool,
    ) {
        for (scan_key, value) in self.keys.iter_mut().zip(key) {
            scan_key.sk_argument = *value;
        }
        // SAFETY: the key's values live through the call; the box of the snapshot outlives it.
        unsafe {
            let dirty = &raw mut *self.snapshot;
            while self.scan(dirty, &mut visit) == Scan::Inconclusive && self.is_visible() {
                pgrx::check_for_interrupts!();
            }
        }
    }

    /// Whether an MVCC snapshot of this moment has a row of the key that was searched last.
    ///
    /// # Safety
    /// As [`Self::scan`].
    unsafe fn is_visible(&mut self) -> bool {
        // SAFETY: the snapshot is registered while it is used; an ERROR releases it.
        unsafe {
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            let found = self.scan(snapshot, &mut |_| true);
            pg_sys::UnregisterSnapshot(snapshot);
            found == Scan::Shown
        }
    }

    /// Shows `visit` the version of the row with `keys` that `snapshot` sees.
    ///
    /// # Safety
    /// The values of `keys` and the snapshot live through the call.
    unsafe fn scan(
        &mut self,
        snapshot: pg_sys::Snapshot,
        visit: &mut impl FnMut(&mut Version) -> bool,
    ) -> Scan {
        let (mut shown, mut somebody_may_see) = (false, false);
        let mut visit = |version: &mut Version| {
            shown = true;
            visit(version)
        };
        // SAFETY: the scan is live, and what an index leads to exists.
        unsafe {
            let keys = self.keys.as_mut_ptr();
            let count = self.keys.len() as i32;
            pg_sys::index_rescan(self.scan, keys, count, std::ptr::null_mut(), 0);
            loop {
                let found = pg_sys::index_getnext_tid(
                    self.scan,
                    pg_sys::ScanDirection::BackwardScanDirection,
                );
                if found.is_null() {
                    break;
                }
                let seen = self.version_at(*found, snapshot, &mut visit);
                if seen.enough {
                    break;
                }
                somebody_may_see |= !seen.all_dead;
                // As PostgreSQL's own scans do: an entry whose versions nobody can see is skipped from now on.
                (*self.scan).kill_prior_tuple = seen.all_dead;
            }
        }
        match (shown, somebody_may_see) {
            (true, _) => Scan::Shown,
            (false, true) => Scan::Inconclusive,
            (false, false) => Scan::NoRow,
        }
    }

    /// Shows `visit` the version at a place that the index pointed to earlier, if one is there now, whatever its key.
    ///
    /// # Safety
    /// `visit` believes of the version only what it sees.
    pub unsafe fn version_at_hint(
        &mut self,
        root: pg_sys::ItemPointerData,
        mut visit: impl FnMut(&mut Version) -> bool,
    ) {
        // SAFETY: the block is looked at only where it exists, and what is not or no more in it is no version.
        unsafe {
            if pgrx::itemptr::item_pointer_get_block_number_no_check(root) < self.blocks {
                let dirty = &raw mut *self.snapshot;
                self.version_at(root, dirty, &mut visit);
            }
        }
    }

    /// Visits the versions that share this place.
    ///
    /// # Safety
    /// The block exists; the snapshot lives through the call.
    unsafe fn version_at(
        &mut self,
        root: pg_sys::ItemPointerData,
        snapshot: pg_sys::Snapshot,
        visit: &mut impl FnMut(&mut Version) -> bool,
    ) -> Seen {
        // SAFETY: the version's tuple points into its page, which is pinned until it is released here or by the abort of
        // the transaction.
        unsafe {
            let mut at = root;
            let mut tuple: pg_sys::HeapTupleData = std::mem::zeroed();
            let block = pgrx::itemptr::item_pointer_get_block_number_no_check(at);
            let buffer = pg_sys::ReadBuffer(self.heap, block);
            prune_if_short_of_room(self.heap, buffer);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as _);
            let mut all_dead = false;
            let alive = pg_sys::heap_hot_search_buffer(
                &mut at,
                self.heap,
                buffer,
                snapshot,
                &mut tuple,
                &mut all_dead,
                true,
            );
            let holder = alive.then(|| {
                let header = &*tuple.t_data;
                let xmax = header.t_choice.t_heap.t_xmax;
                (xmax, u32::from(header.t_infomask))
            });
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as _);
            let enough = holder.is_some_and(|holder| {
                tuple.t_self = at;
                // A dirty snapshot returns it; of another kind of snapshot it is not used.
                let undecided = [(*snapshot).xmin, (*snapshot).xmax];
                visit(&mut Version {
                    tuple,
                    root,
                    holder,
                    undecided: undecided
                        .into_iter()
                        .find(|xid| *xid != pg_sys::InvalidTransactionId),
                })
            });
            pg_sys::ReleaseBuffer(buffer);
            Seen { enough, all_dead }
        }
    }

    /// The table.
    pub fn heap(&self) -> pg_sys::Relation {
        self.heap
    }

    /// The primary key's index.
    pub fn index(&self) -> pg_sys::Relation {
        self.index
    }

    /// Waits for the end of a transaction that [`Self::versions`] has shown, with no page locked.
    pub fn wait_for(&mut self, transaction: pg_sys::TransactionId) {
        // SAFETY: the scan is live and lets go of its page; no relation or row is named for the error context.
        unsafe {
            pg_sys::index_rescan(self.scan, std::ptr::null_mut(), 0, std::ptr::null_mut(), 0);
            pg_sys::XactLockTableWait(
                transaction,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                pg_sys::XLTW_Oper::XLTW_None,
            );
        }
    }

    pub fn close(self) {
        // SAFETY: opened by `open` and used no more; the lock stays until the end of the transaction.
        unsafe {
            pg_sys::index_endscan(self.scan);
            pg_sys::index_close(self.index, pg_sys::NoLock as _);
        }
    }
}

/// PostgreSQL's own scans remove dead versions from a page whenever its free space is below the fill factor, which is
/// after every single update. Here it happens once per several updates.
///
/// # Safety
/// `buffer` is a pinned page of `heap`.
unsafe fn prune_if_short_of_room(heap: pg_sys::Relation, buffer: pg_sys::Buffer) {
    const ROOM: u16 = pg_sys::BLCKSZ as u16 / 5;
    // SAFETY: a pinned page does not move; as in heap_page_prune_opt, its bounds are read without a lock, and a wrong
    // guess costs no more than the time.
    unsafe {
        let page = pg_sys::BufferGetPage(buffer).cast::<pg_sys::PageHeaderData>();
        if (*page).pd_upper.saturating_sub((*page).pd_lower) < ROOM {
            pg_sys::heap_page_prune_opt(heap, buffer);
        }
    }
}
