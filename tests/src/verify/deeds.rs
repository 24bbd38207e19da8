//! What operators did to a database while records were applied: replays with and without a correction,
//! discards, manual corrections. The comparison with the reference ledger takes them into account.
//!
//! Whoever is killed between asking and the answer does not know what became of the deed, so each one
//! says what may be there afterwards, and what must be.

use std::collections::HashMap;

use crate::event::Account;
use crate::reference::{Balance, Book};

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// Refused with an error: nothing of it may be there.
    Refused,
    /// The connection ended first.
    Unknown,
}

/// What was tried with one dead letter.
#[derive(Debug, Clone, Default)]
pub struct Letter {
    /// The one payload that ever corrected it.
    pub payload: Option<Vec<u8>>,
    pub may_be_discarded: bool,
    /// The status that it has for good, once an answer said so.
    pub settled: Option<&'static str>,
}

/// A credit to an account that nothing else touches.
#[derive(Debug, Clone)]
pub struct Correction {
    pub account: Account,
    pub available: i128,
    pub answer: Answer,
}

#[derive(Debug, Clone, Default)]
pub struct Deeds {
    /// By topic, partition and offset.
    pub letters: HashMap<(String, i32, i64), Letter>,
    pub corrections: Vec<Correction>,
    /// By topic and partition, of a database that was upgraded: the offset from which all records have their event's time.
    /// Version 0.6.0 stored none.
    pub timed_from: HashMap<(String, i32), i64>,
}

impl Letter {
    /// Whether it may have this status now.
    pub(crate) fn fits(&self, status: &str) -> bool {
        match self.settled {
            Some(settled) => status == settled,
            None => match status {
                "PARKED" => true,
                "REPLAYED" => self.payload.is_some(),
                "DISCARDED" => self.may_be_discarded,
                _ => false,
            },
        }
    }
}

impl Deeds {
    pub fn letter(&self, topic: &str, partition: i32, offset: i64) -> Option<&Letter> {
        self.letters.get(&(topic.to_owned(), partition, offset))
    }

    pub(crate) fn timed_from(&self, topic: &str, partition: i32) -> i64 {
        let place = (topic.to_owned(), partition);
        self.timed_from.get(&place).copied().unwrap_or(0)
    }

    /// Adds what must be there to `book`; answers what may be there besides.
    pub(crate) fn corrected(&self, book: &mut Book) -> Book {
        let mut possible = Book::new();
        for correction in &self.corrections {
            let balance = Balance {
                available: correction.available,
                frozen: 0,
            };
            match correction.answer {
                Answer::Done => book.insert(correction.account, balance),
                Answer::Unknown => possible.insert(correction.account, balance),
                Answer::Refused => None,
            };
        }
        possible
    }
}
