//! How far each partition is, for what is only told: the group offsets and a line of log.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::partition::Partition;

#[derive(Default)]
pub struct Progress {
    moved: Mutex<HashMap<Partition, i64>>,
    records: AtomicU64,
    wake: Notify,
}

impl Progress {
    pub fn committed(&self, partition: &Partition, next_offset: i64, records: usize) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.moved
            .lock()
            .expect("no panic while held")
            .insert(partition.clone(), next_offset);
        self.wake.notify_one();
    }

    /// Waits for something to be committed since the last call.
    pub async fn moved(&self) {
        self.wake.notified().await;
    }

    /// Offsets that moved since the last call.
    pub fn take_moved(&self) -> HashMap<Partition, i64> {
        std::mem::take(&mut *self.moved.lock().expect("no panic while held"))
    }

    /// Records committed since the start.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }
}
