//! Where rows were found last, kept in backend memory from batch to batch, so that the index is
//! not asked again: that is faster, and with an old snapshot it leads to every version that somebody
//! may still see.
//!
//! A hint proves nothing. Whoever follows it looks whether the row that stands there now is alive
//! and has the key, and asks the index otherwise, so nothing has to tell this memory of what others
//! do to the table.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};

use pgrx::itemptr::{item_pointer_get_both, item_pointer_set_all};
use pgrx::pg_sys;

/// Hints of a backend: 8 MiB once all are used.
const HINTS: usize = 1 << 20;
/// Places that a hint may have, the width of a line of the processor's cache.
const WAYS: usize = 8;

thread_local! {
    /// Each a block (32 bits), an offset (16) and a part of the key's hash (16); 0 where there is none.
    static KNOWN: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Memory that the kernel fills once it is used; none where there is no room for it, and then there are no hints.
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

/// Under what a hint is kept.
#[derive(Clone, Copy)]
pub struct Name {
    bucket: usize,
    part: u16,
    /// The place to give up where all are taken.
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

    /// Where the row was found last.
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
