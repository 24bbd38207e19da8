//! Places for connections. There are so many and no more, and still nobody can fill them: a connection
//! that is asking for nothing gives its place to the next that comes, the oldest first.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub struct Places {
    most: usize,
    taken: Mutex<VecDeque<Arc<Taken>>>,
    /// Told when a place is free, or its connection is at rest.
    changed: Notify,
}

#[derive(Default)]
struct Taken {
    is_asking: AtomicBool,
    gives_way: CancellationToken,
}

impl Places {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// A place, of another connection if need be; waits only while every one of them is being answered.
    pub async fn take(self: &Arc<Self>) -> Place {
        loop {
            let changed = self.changed.notified();
            if let Some(taken) = self.try_take() {
                let all = self.clone();
                return Place { all, taken };
            }
            changed.await;
        }
    }

    fn try_take(&self) -> Option<Arc<Taken>> {
        let mut taken = self.taken.lock().expect("no panic while held");
        if taken.len() >= self.most {
            let at_rest = |taken: &Arc<Taken>| !taken.is_asking.load(Ordering::Acquire);
            let oldest = taken.iter().position(at_rest)?;
            let former = taken.remove(oldest)?;
            former.gives_way.cancel();
        }
        let new = Arc::<Taken>::default();
        taken.push_back(new.clone());
        Some(new)
    }
}

/// The place of one connection, free again once dropped.
pub struct Place {
    all: Arc<Places>,
    taken: Arc<Taken>,
}

impl Place {
    /// Completes when another connection has got this place.
    pub async fn gives_way(&self) {
        self.taken.gives_way.cancelled().await;
    }

    /// Keeps the place for as long as a request is being answered.
    pub fn asking(&self) -> Asking {
        self.taken.is_asking.store(true, Ordering::Release);
        Asking {
            all: self.all.clone(),
            taken: self.taken.clone(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.all.taken.lock().expect("no panic while held");
        taken.retain(|other| !Arc::ptr_eq(other, &self.taken));
        drop(taken);
        self.all.changed.notify_one();
    }
}

/// A request that is being answered.
pub struct Asking {
    all: Arc<Places>,
    taken: Arc<Taken>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.taken.is_asking.store(false, Ordering::Release);
        self.all.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_oldest_at_rest_gives_way_and_those_that_ask_do_not() {
        let places = Places::new(2);
        let first = places.take().await;
        let asking = first.asking();
        let second = places.take().await;
        let third = places.take().await;
        second.gives_way().await;
        let _also_asking = third.asking();
        let full = tokio::time::timeout(Duration::from_millis(50), places.take()).await;
        assert!(full.is_err(), "both are being answered");
        drop(asking);
        let _fourth = places.take().await;
        first.gives_way().await;
        drop(second);
        drop(first);
        assert_eq!(places.taken.lock().expect("whole").len(), 2);
    }

    #[tokio::test]
    async fn a_place_that_is_left_is_free() {
        let places = Places::new(1);
        let first = places.take().await;
        let _asking = first.asking();
        let waits = tokio::spawn({
            let places = places.clone();
            async move { places.take().await }
        });
        drop(first);
        waits.await.expect("no panic");
    }
}
