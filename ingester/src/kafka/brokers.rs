//! Adds brokers again that librdkafka has dropped.
//!
//! It drops a broker that a metadata answer leaves out, and a broker that starts or stops leaves
//! itself out. If no other broker is left, the client never asks again (librdkafka's issue 5301, open
//! as of 2.13). It still lists a dropped broker as learned for as long as something in the client
//! refers to it, but never connects to it again: so a broker counts only while it is connected.
//! Adding a known broker changes nothing.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::client::{Client, ClientContext};
use rdkafka::statistics::Statistics;
use tracing::{debug, warn};

use crate::kafka::native;

/// The brokers of one client.
pub struct Brokers {
    list: CString,
    none_connected: AtomicBool,
    none_left: AtomicBool,
}

impl Brokers {
    pub fn new(list: &str) -> Result<Self, String> {
        Ok(Self {
            list: CString::new(list)
                .map_err(|_| "KAFKA_BROKERS: must not hold a zero byte".to_owned())?,
            none_connected: AtomicBool::new(false),
            none_left: AtomicBool::new(false),
        })
    }

    /// Their state according to the client's statistics.
    pub fn seen(&self, statistics: &Statistics) {
        let is_left = |source: &str| matches!(source, "learned" | "configured");
        let brokers = statistics.brokers.values();
        let left: Vec<_> = brokers.filter(|broker| is_left(&broker.source)).collect();
        let none_connected = !left.iter().any(|broker| broker.state == "UP");
        self.none_left.store(left.is_empty(), Ordering::Relaxed);
        self.none_connected.store(none_connected, Ordering::Relaxed);
    }

    /// Adds the bootstrap brokers again to a client that is connected to none.
    pub fn name_again(&self, client: &Client<impl ClientContext>) {
        if self.none_connected.swap(false, Ordering::Relaxed) {
            if self.none_left.swap(false, Ordering::Relaxed) {
                warn!("KAFKA_BROKERS: no broker is connected; connecting to all of them again");
            } else {
                debug!("KAFKA_BROKERS: connected to none of them; naming them again");
            }
            native::name_brokers(client, &self.list);
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    fn is_to_be_named_again(listed: &[(&str, &str)]) -> bool {
        let broker = |(number, (source, state)): (usize, &(&str, &str))| {
            let broker = Broker {
                source: (*source).to_owned(),
                state: (*state).to_owned(),
                ..Broker::default()
            };
            (number.to_string(), broker)
        };
        let statistics = Statistics {
            brokers: listed.iter().enumerate().map(broker).collect(),
            ..Statistics::default()
        };
        let brokers = Brokers::new("127.0.0.1:9092").expect("an address");
        brokers.seen(&statistics);
        brokers.none_connected.load(Ordering::Relaxed)
    }

    #[test]
    fn a_broker_that_was_dropped_and_lingers_in_the_list_is_named_again() {
        assert!(is_to_be_named_again(&[
            ("learned", "INIT"),
            ("logical", "UP")
        ]));
        assert!(is_to_be_named_again(&[("internal", "UP")]));
        assert!(is_to_be_named_again(&[
            ("learned", "INIT"),
            ("configured", "DOWN")
        ]));
        assert!(!is_to_be_named_again(&[
            ("learned", "INIT"),
            ("configured", "UP")
        ]));
        assert!(!is_to_be_named_again(&[
            ("learned", "UP"),
            ("logical", "DOWN")
        ]));
    }
}
