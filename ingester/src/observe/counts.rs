//! What batches come to, and what lanes hold meanwhile.

use std::ops::AddAssign;

use ledger::verdict::RejectReason;
use prometheus_client::metrics::gauge::Gauge;

/// What a batch did.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchCounts {
    pub applied: i64,
    pub rejected: i64,
    pub duplicates: i64,
    pub dead: i64,
    /// What `rejected` is made of, in the order of [`RejectReason::ALL`].
    pub rejections: [i64; RejectReason::ALL.len()],
}

impl AddAssign for BatchCounts {
    fn add_assign(&mut self, other: Self) {
        self.applied += other.applied;
        self.rejected += other.rejected;
        self.duplicates += other.duplicates;
        self.dead += other.dead;
        for (sum, more) in self.rejections.iter_mut().zip(other.rejections) {
            *sum += more;
        }
    }
}

/// Bytes that a lane holds for the database.
pub struct Staging {
    pub(super) gauge: Gauge,
    pub(super) gathering: i64,
    pub(super) in_flight: i64,
}

impl Staging {
    pub fn gathered(&mut self, bytes: usize) {
        self.are(bytes as i64, self.in_flight);
    }

    /// What was gathered goes to the database.
    pub fn sent(&mut self, bytes: usize) {
        self.are(0, bytes as i64);
    }

    pub fn done(&mut self) {
        self.are(self.gathering, 0);
    }

    fn are(&mut self, gathering: i64, in_flight: i64) {
        let before = self.gathering + self.in_flight;
        self.gauge.inc_by(gathering + in_flight - before);
        (self.gathering, self.in_flight) = (gathering, in_flight);
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.are(0, 0);
    }
}
