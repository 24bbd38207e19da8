//! Where rows were last found, kept in backend memory from batch to batch, so that the index need not
//! be searched again: that is faster, and while an old snapshot is open the index leads to every
//! version that it may still see.
//!
//! A hint proves nothing. Its user checks that the row at that place is live and has the key, and
//! searches the index otherwise. So this memory need not be informed of changes to the table.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};

use pgrx::itemptr::{item_pointer_get_both, item_pointer_set_all};
use pgrx::pg_sys;

/// Hints of a backend: 8 MiB once all are used.
const HINTS: usize = 1 << 20;
/// Slots that a hint may occupy: one line of the processor's cache.
const WAYS: usize = 8;

thread_local! {
    /// Each a block (32 bits), an offset (16) and a part of the key's hash (16); 0 if empty.
    static KNOWN: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Memory that the kernel provides on first use; without memory there are no hints.
fn without_hints() -> Vec<u64> {
    let Ok(layout) = Layout::array::<u64>(HINTS) else {
        return Vec::new();
    };
    // SAFETY: the layout has a size; it is that of a vector of so many elements, for which zeros are valid.
    unsafe {
        let hints = alloc_zeroed(layout).cast::<u64>();
        if hints.is_null() {
            Vec::new()
        } else {
            Vec::from_raw_parts(hints, HINTS, HINTS)
        }
    }
}

/// The key of a hint.
#[derive(Clone, Copy)]
pub struct Name {
    bucket: usize,
    part: u16,
    /// The slot to replace if all are occupied.
    victim: usize,
}

impl Name {
    pub fn of(key: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let hash = hasher.finish();
        Self {
            bucket: hash as usize % (HINTS / WAYS) * WAYS,
            part: (hash >> 48) as u16,
            victim: (hash >> 40) as usize % WAYS,
        }
    }

    /// Where the row was last found.
    pub fn hint(self) -> Option<pg_sys::ItemPointerData> {
        KNOWN.with_borrow(|known| {
            let places = known.get(self.bucket..)?.get(..WAYS)?;
            let hint = places.iter().copied().find(|hint| self.is_mine(*hint))?;
            let mut at = pg_sys::ItemPointerData::default();
            item_pointer_set_all(&mut at, (hint >> 32) as u32, (hint >> 16) as u16);
            Some(at)
        })
    }

    pub fn remember(self, at: pg_sys::ItemPointerData) {
        let (block, offset) = item_pointer_get_both(at);
        let hint = u64::from(block) << 32 | u64::from(offset) << 16 | u64::from(self.part);
        KNOWN.with_borrow_mut(|known| {
            if known.is_empty() {
                *known = without_hints();
            }
            let Some(places) = known.get_mut(self.bucket..self.bucket + WAYS) else {
                return;
            };
            let place = places.iter().position(|hint| self.is_mine(*hint));
            let place = place.or_else(|| places.iter().position(|hint| *hint == 0));
            places[place.unwrap_or(self.victim)] = hint;
        });
    }

    fn is_mine(self, hint: u64) -> bool {
        hint != 0 && hint as u16 == self.part
    }
}
