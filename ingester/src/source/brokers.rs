//! Brokers that librdkafka has given up, named to it again.
//!
//! It drops a broker that an answer about topics leaves out, and a broker that starts or stops
//! leaves itself out. Where no other broker is left, the client would never ask again
//! (librdkafka's issue 5301, open as of 2.13).

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::client::{Client, ClientContext};
use rdkafka::statistics::Statistics;
use tracing::warn;

use super::native;

/// The brokers of one client.
pub struct Brokers {
    list: CString,
    none_left: AtomicBool,
}

impl Brokers {
    pub fn new(list: &str) -> Result<Self, String> {
        Ok(Self {
            list: CString::new(list).map_err(|error| format!("KAFKA_BROKERS: {error}"))?,
            none_left: AtomicBool::new(false),
        })
    }

    /// What the client's statistics tell of them.
    pub fn seen(&self, statistics: &Statistics) {
        let is_left = |source: &str| matches!(source, "learned" | "configured");
        let mut brokers = statistics.brokers.values();
        let none_left = !brokers.any(|broker| is_left(&broker.source));
        self.none_left.store(none_left, Ordering::Relaxed);
    }

    /// Gives a client that has no broker left its first ones back.
    pub fn name_again(&self, client: &Client<impl ClientContext>) {
        if self.none_left.swap(false, Ordering::Relaxed) {
            warn!("KAFKA_BROKERS: librdkafka has given up every broker; naming them again");
            native::name_brokers(client, &self.list);
        }
    }
}
