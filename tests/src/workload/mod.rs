//! Mixed balance events from a seed: credits, debits, freezes, settlements, several legs,
//! shortages, overflows, duplicates near and far, id conflicts and garbage, on skewed accounts.
//!
//! Each partition has its own stream, its own event ids and, unless `shared`, its own accounts:
//! then every verdict is determined by the order of its records alone.

pub mod garbage;
pub mod load;
pub mod rng;

use std::fmt::Write;

use crate::rng::{Rng, Zipf};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Message {
    pub fn of(payload: impl Into<Vec<u8>>) -> Self {
        Self {
            payload: Some(payload.into()),
            ..Self::default()
        }
    }
}

/// A good event with one change of `available`, for tests that need to know exactly what they sent.
pub fn credit(event_id: &str, account_id: i64, amount: &str) -> Message {
    Message::of(format!(
        r#"{{"eventId":"{event_id}","eventType":"balance.changed","data":{{"accountId":{account_id},"changes":[{{"currencyCode":"USD","availableDelta":"{amount}"}}]}}}}"#
    ))
}

#[derive(Debug, Clone)]
pub struct Workload {
    pub seed: u64,
    /// Accounts per partition; in all, when they are shared.
    pub accounts: usize,
    /// Whether all partitions move the same accounts.
    pub shared: bool,
    /// Whether no id comes again after 64 others.
    pub forgets: bool,
    /// Keeps ids and accounts of several topics in one database apart.
    pub lane: i32,
    /// Whether version 0.6.0 reads all of it, too, as the contract says now.
    pub fits_0_6_0: bool,
}

impl Workload {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            accounts: 2_000,
            shared: false,
            forgets: false,
            lane: 0,
            fits_0_6_0: false,
        }
    }

    /// The same with other ids and accounts than any other lane has; one in 16 numbers of partitions.
    pub fn on_lane(self, lane: i32) -> Self {
        Self {
            lane: 16 * lane,
            ..self
        }
    }

    /// Without what version 0.6.0 applied and later ones refuse.
    pub fn fitting_0_6_0(seed: u64) -> Self {
        Self {
            fits_0_6_0: true,
            ..Self::new(seed)
        }
    }

    /// No id comes again long after it came first.
    pub fn forgetting(seed: u64) -> Self {
        Self {
            forgets: true,
            ..Self::new(seed)
        }
    }

    pub fn shared_by_partitions(seed: u64, accounts: usize) -> Self {
        Self {
            seed,
            accounts,
            shared: true,
            forgets: false,
            lane: 0,
            fits_0_6_0: false,
        }
    }

    /// The endless stream of one partition; always the same for the same seed.
    pub fn stream(&self, partition: i32) -> Stream {
        Stream {
            rng: Rng::stream(self.seed, partition as u64 + 1),
            zipf: Zipf::new(self.accounts, 1.1),
            partition: partition + self.lane,
            lane: self.lane,
            shared: self.shared,
            forgets: self.forgets,
            fits_0_6_0: self.fits_0_6_0,
            serial: 0,
            recent: Vec::new(),
            early: Vec::new(),
            text: String::new(),
        }
    }
}

/// How many payloads are kept to be sent again soon, and how many to be sent again much later.
const RECENT: usize = 64;
const EARLY: usize = 512;
const CURRENCIES: [&str; 4] = ["USD", "EUR", "BTC", "USDT2026"];

pub struct Stream {
    rng: Rng,
    zipf: Zipf,
    partition: i32,
    lane: i32,
    shared: bool,
    forgets: bool,
    fits_0_6_0: bool,
    serial: u64,
    /// Good events, each with its id and source as they stand in the text.
    recent: Vec<Sent>,
    early: Vec<Sent>,
    text: String,
}

#[derive(Clone)]
struct Sent {
    /// `"eventId":"…"` and, where it has one, `,"source":"…"`.
    identity: String,
    message: Message,
}

impl Iterator for Stream {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.serial += 1;
        let dice = self.rng.below(1000);
        Some(match dice {
            0..20 => self.garbage(),
            20..45 => self.again(false),
            45..60 => self.again(true),
            60..70 => self.conflict(),
            _ => self.event(None),
        })
    }
}

impl Stream {
    fn garbage(&mut self) -> Message {
        let good = self.event(None).payload.unwrap_or_default();
        let payload = garbage::payload(&mut self.rng, &good);
        let is_sent = |payload: &Vec<u8>| !self.fits_0_6_0 || !garbage::has_unknown_field(payload);
        let payload = payload.filter(is_sent);
        let headers = self.headers();
        Message {
            key: self.key(0),
            payload,
            headers,
        }
    }

    /// The same bytes once more.
    fn again(&mut self, early: bool) -> Message {
        let early = early && !self.forgets;
        let from = if early { &self.early } else { &self.recent };
        if from.is_empty() {
            return self.event(None);
        }
        self.rng.pick(from).message.clone()
    }

    /// A known identity with another payload.
    fn conflict(&mut self) -> Message {
        let known = if self.forgets {
            &self.recent
        } else {
            &self.early
        };
        if known.is_empty() {
            return self.event(None);
        }
        let identity = self.rng.pick(known).identity.clone();
        self.event(Some(identity))
    }

    fn event(&mut self, identity: Option<String>) -> Message {
        let fresh = identity.is_none();
        let identity = identity.unwrap_or_else(|| self.identity());
        let account = self.account();
        self.text.clear();
        let _ = write!(self.text, "{{{identity},\"eventType\":\"balance.changed\"");
        if self.rng.chance(700) {
            let (serial, milli) = (self.serial, self.rng.below(1000));
            let _ = write!(
                self.text,
                ",\"timestamp\":\"2026-11-21T{:02}:{:02}:{:02}.{milli:03}Z\"",
                serial / 3600 % 24,
                serial / 60 % 60,
                serial % 60
            );
        }
        if self.rng.chance(20) {
            self.text
                .push_str(r#","trace":{"hops":[1,2,{"x":null}],"hops":1e999}"#);
        }
        self.text.push_str(",\"data\":{");
        self.place(account);
        self.text.push_str(",\"changes\":[");
        self.changes(account);
        self.text.push_str("]}}");
        let message = Message {
            key: self.key(account),
            payload: Some(self.text.clone().into_bytes()),
            headers: self.headers(),
        };
        if fresh {
            self.remember(Sent {
                identity,
                message: message.clone(),
            });
        }
        message
    }

    fn remember(&mut self, sent: Sent) {
        if self.early.len() < EARLY {
            self.early.push(sent.clone());
        } else if self.rng.chance(5) {
            let place = self.rng.below(EARLY as u64) as usize;
            self.early[place] = sent.clone();
        }
        if self.recent.len() < RECENT {
            self.recent.push(sent);
        } else {
            let place = self.serial as usize % RECENT;
            self.recent[place] = sent;
        }
    }

    fn identity(&mut self) -> String {
        // Now and then an old id comes from another source, which makes it another event.
        let serial = if self.serial > 100 && self.rng.chance(5) {
            self.serial - 50
        } else {
            self.serial
        };
        let source = match self.rng.below(1000) {
            0..600 => ",\"source\":\"matching-engine\"".to_owned(),
            600..900 => String::new(),
            900..950 => ",\"source\":null".to_owned(),
            _ => format!(",\"source\":\"gateway-{}-é\"", self.serial),
        };
        format!(
            "\"eventId\":\"{:04x}-{serial:012x}\"{source}",
            self.partition
        )
    }

    fn account(&mut self) -> i64 {
        let rank = self.zipf.sample(&mut self.rng) as i64;
        if self.shared {
            rank + i64::from(self.lane) * 1_000_000
        } else {
            rank * 256 + i64::from(self.partition)
        }
    }

    fn place(&mut self, account: i64) {
        let _ = match self.rng.below(10) {
            0 => write!(self.text, "\"accountId\":\"{account}\""),
            _ => write!(self.text, "\"accountId\":{account}"),
        };
        if account % 3 != 0 {
            let _ = write!(self.text, ",\"shardId\":{}", account % 3);
        }
    }

    fn changes(&mut self, account: i64) {
        match self.rng.below(1000) {
            0..330 => self.change("availableDelta", 1, 500, false),
            330..640 => self.change("availableDelta", 1, 400, true),
            640..760 => self.freeze(),
            760..850 => self.change("frozenDelta", 1, 60, true),
            850..995 => {
                let legs = self.rng.between(1, 4);
                self.transfer(account, legs);
            }
            995..998 => self.transfer(account, 63),
            // Twice on one account and the balance no longer fits.
            _ => self.text.push_str(r#"{"currencyCode":"WHALE","availableDelta":"999999999999999999.999999999999999999"}"#),
        }
    }

    fn change(&mut self, field: &str, low: u64, high: u64, negative: bool) {
        let currency = *self.rng.pick(&CURRENCIES);
        let _ = write!(self.text, "{{\"currencyCode\":\"{currency}\",\"{field}\":");
        let amount = self.amount(low, high);
        let sign = if negative { "-" } else { "" };
        let _ = if self.rng.chance(150) {
            write!(self.text, "{sign}{amount}}}")
        } else {
            write!(self.text, "\"{sign}{amount}\"}}")
        };
    }

    fn freeze(&mut self) {
        let currency = *self.rng.pick(&CURRENCIES);
        let amount = self.amount(1, 200);
        let _ = write!(
            self.text,
            r#"{{"currencyCode":"{currency}","availableDelta":"-{amount}","frozenDelta":"{amount}"}}"#
        );
    }

    /// A debit of this account, then credits of others: all or none.
    fn transfer(&mut self, account: i64, others: u64) {
        self.change("availableDelta", 1, 300, true);
        for _ in 0..others {
            let other = self.account();
            let currency = *self.rng.pick(&CURRENCIES);
            let amount = self.amount(1, 100);
            self.text.push_str(",{");
            if other != account || self.rng.chance(500) {
                let _ = write!(
                    self.text,
                    "\"accountId\":{other},\"shardId\":{},",
                    other % 3
                );
            }
            let _ = write!(
                self.text,
                "\"currencyCode\":\"{currency}\",\"availableDelta\":\"{amount}\"}}"
            );
        }
    }

    fn amount(&mut self, low: u64, high: u64) -> String {
        let whole = self.rng.between(low, high);
        match self.rng.below(10) {
            0..3 => format!("{whole}"),
            3..9 => format!("{whole}.{:02}", self.rng.below(100)),
            _ => format!("{whole}.{:018}", self.rng.below(1_000_000_000_000_000_000)),
        }
    }

    fn key(&mut self, account: i64) -> Option<Vec<u8>> {
        match self.rng.below(100) {
            0 => None,
            1 => Some(vec![0xff, 0x00, 0x80]),
            _ => Some(account.to_string().into_bytes()),
        }
    }

    fn headers(&mut self) -> Vec<(String, Option<Vec<u8>>)> {
        if !self.rng.chance(50) {
            return Vec::new();
        }
        let mut headers = vec![(
            "trace".to_owned(),
            Some(format!("{:x}", self.rng.next()).into_bytes()),
        )];
        if self.rng.chance(500) {
            headers.push(("binary".to_owned(), Some(vec![0xfe, 0x00, 0x22, 0x5c])));
            headers.push((
                "trace".to_owned(),
                Some(b"again \"quoted\" \\ \xc3\xa9".to_vec()),
            ));
        }
        if self.rng.chance(200) {
            headers.push((String::new(), Some(Vec::new())));
            headers.push(("nothing".to_owned(), None));
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event;

    #[test]
    fn the_same_seed_gives_the_same_stream() {
        let messages = |seed| {
            Workload::new(seed)
                .stream(3)
                .take(5_000)
                .collect::<Vec<_>>()
        };
        assert_eq!(messages(7), messages(7));
        assert_ne!(messages(7), messages(8));
    }

    #[test]
    fn only_garbage_is_dead() {
        let dead = Workload::new(1)
            .stream(0)
            .take(20_000)
            .filter(|message| event::decode(message.payload.as_deref()).is_err())
            .count();
        assert!((300..=500).contains(&dead), "{dead} of 20000");
    }
}
