//! Decodes the bytes of a record into an envelope and, for a balance event, its changes; or into the reason why not.

use std::borrow::Cow;
use std::ops::Range;

use crate::account::{AccountKey, Currency};
use crate::amount::Amount;
use crate::contract::MAX_CHANGES;
use crate::event::{BALANCE_CHANGED, Change, Defect, EventHead, defect};
use crate::fields::{
    Flaw, MISSING, NO_ACCOUNT, NO_AMOUNT, NO_CURRENCY, NO_DELTA, NO_ID, NO_SHARD, Seen, TWICE,
    Unfit, account_id, is_id, optional, shard_id, string,
};
use crate::json::{Malformed, Reader, Token, told};
use crate::storable::{self, Fault};
use crate::timestamp;
use crate::verdict::DeadReason;

/// Decodes the payload of a record on a balance topic.
///
/// `payload` is `None` for a tombstone. `changes` is cleared and then filled in the order of
/// the list, with 1 to 64 changes; it stays empty on a defect. Nothing is allocated unless there
/// is a defect, an escape in a text that is kept, or too little room in `changes`.
///
/// # Errors
/// With several defects the reason is the first of these: not JSON, a defect of the envelope,
/// another event type, a delta that is not an amount, any other defect of `data`.
pub fn decode_balance_event<'a>(
    payload: Option<&'a [u8]>,
    changes: &mut Vec<Change>,
) -> Result<EventHead<'a>, Defect> {
    changes.clear();
    let head = decode(payload, BALANCE_CHANGED, Some(changes));
    if head.is_err() {
        changes.clear();
    }
    head
}

/// Decodes the payload of a record on a topic of domain events of type `event_type`.
///
/// The handler decides what `data` means; here it must be an object that gives no field twice
/// and that PostgreSQL's jsonb can store.
///
/// # Errors
/// As [`decode_balance_event`], without amounts.
pub fn decode_domain_event<'a>(
    payload: Option<&'a [u8]>,
    event_type: &str,
) -> Result<EventHead<'a>, Defect> {
    decode(payload, event_type, None)
}

/// `changes` is given for a balance event.
fn decode<'a>(
    payload: Option<&'a [u8]>,
    event_type: &str,
    changes: Option<&mut Vec<Change>>,
) -> Result<EventHead<'a>, Defect> {
    let payload = payload.unwrap_or_default();
    if payload.is_empty() {
        return Err(defect(
            DeadReason::EmptyPayload,
            "The record has no payload.".into(),
        ));
    }
    let is_balance = changes.is_some();
    let mut unused = Vec::new();
    let mut decoder = Decoder::new(event_type, is_balance, changes.unwrap_or(&mut unused));
    let read = Reader::new(payload).and_then(|reader| decoder.read(reader));
    match read {
        Ok(()) => decoder.finish(),
        Err(malformed) => Err(defect(
            DeadReason::MalformedJson,
            format!("The payload is not acceptable JSON: {malformed}."),
        )),
    }
}

/// Everything that one pass over the text finds.
struct Decoder<'a, 'c> {
    wanted_type: &'c str,
    is_balance: bool,
    changes: &'c mut Vec<Change>,
    event_id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    timestamp_us: Option<i64>,
    event_type: EventType,
    account_id: Option<i64>,
    shard_id: Option<i32>,
    /// Bit n: change n has no account of its own, and gets the one of `data`, which may come
    /// later in the text.
    needs_account: u64,
    needs_shard: u64,
    data: Option<Range<usize>>,
    has_changes: bool,
    envelope_flaw: Option<Flaw>,
    amount_flaw: Option<Flaw>,
    data_flaw: Option<Flaw>,
    /// The first unknown field of a change: the index of the change, and the field's name.
    unknown_field: Option<(usize, String)>,
    /// Only of a domain event.
    data_fault: Option<Fault>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EventType {
    Missing,
    Wanted,
    Other,
}

impl<'a, 'c> Decoder<'a, 'c> {
    fn new(wanted_type: &'c str, is_balance: bool, changes: &'c mut Vec<Change>) -> Self {
        Self {
            wanted_type,
            is_balance,
            changes,
            event_id: None,
            source: None,
            timestamp_us: None,
            event_type: EventType::Missing,
            account_id: None,
            shard_id: None,
            needs_account: 0,
            needs_shard: 0,
            data: None,
            has_changes: false,
            envelope_flaw: None,
            amount_flaw: None,
            data_flaw: None,
            unknown_field: None,
            data_fault: None,
        }
    }

    /// Reads the whole text; fails only if it is not JSON.
    fn read(&mut self, mut reader: Reader<'a>) -> Result<(), Malformed> {
        match reader.value()? {
            Token::Object => self.envelope(&mut reader)?,
            token => {
                self.bad_envelope("The payload", "is not a JSON object");
                reader.skip(token)?;
            }
        }
        reader.finish()
    }

    fn envelope(&mut self, reader: &mut Reader<'a>) -> Result<(), Malformed> {
        let mut seen = Seen::default();
        while let Some(key) = reader.next_key()? {
            let token = reader.value()?;
            let (field, name) = match &*key.value() {
                "eventId" => (1, "eventId"),
                "eventType" => (2, "eventType"),
                "timestamp" => (4, "timestamp"),
                "source" => (8, "source"),
                "data" => (16, "data"),
                _ => {
                    reader.skip(token)?;
                    continue;
                }
            };
            if !seen.first(field) {
                self.bad_envelope(name, TWICE);
                if field == 1 {
                    // Nobody can tell which of the two is meant.
                    self.event_id = None;
                }
                reader.skip(token)?;
                continue;
            }
            match (name, token) {
                ("data", Token::Object) => {
                    let start = reader.position() - 1;
                    if self.is_balance {
                        self.data(reader)?;
                    } else {
                        self.data_fault = storable::read_data(reader)?;
                    }
                    self.data = Some(start..reader.position());
                    continue;
                }
                ("data", _) => self.bad_data("data", "is not an object"),
                ("eventId", _) => self.event_id(token),
                ("eventType", _) => self.event_type(token),
                ("timestamp", _) => self.timestamp(token),
                _ => self.source(token),
            }
            reader.skip(token)?;
        }
        Ok(())
    }

    fn event_id(&mut self, token: Token<'a>) {
        self.event_id = string(token).filter(|id| !id.is_empty() && is_id(id));
        if self.event_id.is_none() {
            self.bad_envelope("eventId", NO_ID);
        }
    }

    fn event_type(&mut self, token: Token<'a>) {
        match token {
            Token::String(text) if text.value() == self.wanted_type => {
                self.event_type = EventType::Wanted
            }
            Token::String(_) => self.event_type = EventType::Other,
            _ => self.bad_envelope("eventType", "is not a string"),
        }
    }

    fn timestamp(&mut self, token: Token<'a>) {
        self.timestamp_us = match token {
            Token::Null => return,
            _ => string(token).and_then(|text| timestamp::parse_us(&text)),
        };
        if self.timestamp_us.is_none() {
            self.bad_envelope("timestamp", "is not an RFC 3339 timestamp");
        }
    }

    fn source(&mut self, token: Token<'a>) {
        match (token, string(token)) {
            (Token::Null, _) => {}
            (_, Some(source)) if is_id(&source) => {
                self.source = Some(source).filter(|source| !source.is_empty())
            }
            _ => self.bad_envelope(
                "source",
                "is not a string of at most 255 bytes without U+0000",
            ),
        }
    }

    fn data(&mut self, reader: &mut Reader<'a>) -> Result<(), Malformed> {
        let mut seen = Seen::default();
        while let Some(key) = reader.next_key()? {
            let token = reader.value()?;
            let (field, name) = match &*key.value() {
                "accountId" => (1, "data.accountId"),
                "shardId" => (2, "data.shardId"),
                "changes" => (4, "data.changes"),
                _ => {
                    reader.skip(token)?;
                    continue;
                }
            };
            if !seen.first(field) {
                self.bad_data(name, TWICE);
                reader.skip(token)?;
                continue;
            }
            match (field, token) {
                (4, Token::Array) => {
                    self.has_changes = true;
                    self.changes(reader)?;
                    continue;
                }
                (1, _) => match optional(token, account_id) {
                    Ok(account_id) => self.account_id = account_id,
                    Err(Unfit) => self.bad_data(name, NO_ACCOUNT),
                },
                (2, _) => match optional(token, shard_id) {
                    Ok(shard_id) => self.shard_id = shard_id,
                    Err(Unfit) => self.bad_data(name, NO_SHARD),
                },
                _ => self.bad_data(name, "is not an array"),
            }
            reader.skip(token)?;
        }
        Ok(())
    }

    fn changes(&mut self, reader: &mut Reader<'a>) -> Result<(), Malformed> {
        let mut count = 0;
        while reader.next_item()? {
            let token = reader.value()?;
            match token {
                Token::Object if count < MAX_CHANGES => self.change(reader, count)?,
                Token::Object => reader.skip(token)?,
                _ => {
                    self.bad_change(count, "", "is not an object");
                    reader.skip(token)?;
                }
            }
            count += 1;
        }
        if count == 0 || count > MAX_CHANGES {
            self.bad_data("data.changes", "does not have 1 to 64 entries");
        }
        Ok(())
    }

    fn change(&mut self, reader: &mut Reader<'a>, index: usize) -> Result<(), Malformed> {
        let mut seen = Seen::default();
        let (mut account, mut shard, mut currency) = (None, None, None);
        let (mut available_delta, mut frozen_delta) = (None, None);
        while let Some(key) = reader.next_key()? {
            let token = reader.value()?;
            let (field, name) = match &*key.value() {
                "accountId" => (1, "accountId"),
                "shardId" => (2, "shardId"),
                "currencyCode" => (4, "currencyCode"),
                "availableDelta" => (8, "availableDelta"),
                "frozenDelta" => (16, "frozenDelta"),
                // A misspelt delta must never become a change of zero.
                unknown => {
                    self.unknown_field
                        .get_or_insert_with(|| (index, told(unknown)));
                    reader.skip(token)?;
                    continue;
                }
            };
            if !seen.first(field) {
                self.bad_change(index, name, TWICE);
            } else {
                match field {
                    1 => {
                        account =
                            self.unless_bad(optional(token, account_id), index, name, NO_ACCOUNT)
                    }
                    2 => shard = self.unless_bad(optional(token, shard_id), index, name, NO_SHARD),
                    4 => {
                        currency = string(token).and_then(|code| Currency::new(&code));
                        if currency.is_none() {
                            self.bad_change(index, name, NO_CURRENCY);
                        }
                    }
                    8 => available_delta = self.delta(token, index, name),
                    _ => frozen_delta = self.delta(token, index, name),
                }
            }
            reader.skip(token)?;
        }
        let Some(currency) = currency else {
            if seen.first(4) {
                self.bad_change(index, "currencyCode", MISSING);
            }
            return Ok(());
        };
        if available_delta.is_none() && frozen_delta.is_none() {
            self.bad_change(index, "", NO_DELTA);
        }
        // Defects leave holes in `changes`, but then nobody reads it.
        let bit = 1u64.wrapping_shl(self.changes.len() as u32);
        self.needs_account |= if account.is_none() { bit } else { 0 };
        self.needs_shard |= if shard.is_none() { bit } else { 0 };
        let key = AccountKey {
            account_id: account.unwrap_or_default(),
            shard_id: shard.unwrap_or_default(),
            currency,
        };
        self.changes.push(Change {
            key,
            available_delta: available_delta.unwrap_or(Amount::ZERO),
            frozen_delta: frozen_delta.unwrap_or(Amount::ZERO),
        });
        Ok(())
    }

    fn unless_bad<T>(
        &mut self,
        read: Result<Option<T>, Unfit>,
        index: usize,
        name: &'static str,
        what: &'static str,
    ) -> Option<T> {
        read.unwrap_or_else(|Unfit| {
            self.bad_change(index, name, what);
            None
        })
    }

    /// `None` if the field is null, which gives no delta.
    fn delta(&mut self, token: Token<'a>, index: usize, field: &'static str) -> Option<Amount> {
        let amount = match token {
            Token::Null => return None,
            Token::Number(text) => Amount::parse(text),
            _ => string(token).and_then(|text| Amount::parse(&text)),
        };
        if amount.is_none() {
            self.amount_flaw.get_or_insert(Flaw {
                field,
                change: Some(index),
                what: NO_AMOUNT,
            });
        }
        amount
    }

    fn bad_envelope(&mut self, field: &'static str, what: &'static str) {
        self.envelope_flaw.get_or_insert(Flaw {
            field,
            change: None,
            what,
        });
    }

    fn bad_data(&mut self, field: &'static str, what: &'static str) {
        self.data_flaw.get_or_insert(Flaw {
            field,
            change: None,
            what,
        });
    }

    fn bad_change(&mut self, index: usize, field: &'static str, what: &'static str) {
        self.data_flaw.get_or_insert(Flaw {
            field,
            change: Some(index),
            what,
        });
    }

    /// Decides, now that the whole text is known to be JSON.
    fn finish(mut self) -> Result<EventHead<'a>, Defect> {
        if self.event_id.is_none() {
            self.bad_envelope("eventId", MISSING);
        }
        if self.event_type == EventType::Missing {
            self.bad_envelope("eventType", MISSING);
        }
        if self.data.is_none() {
            self.bad_data("data", MISSING);
        } else if self.is_balance && !self.has_changes {
            self.bad_data("data.changes", MISSING);
        }
        self.inherit();
        let event_id = self.event_id;
        let (reason, detail) = if let Some(flaw) = self.envelope_flaw {
            (DeadReason::InvalidEvent, flaw.to_string())
        } else if self.event_type == EventType::Other {
            let detail = format!("eventType is not {}.", self.wanted_type);
            (DeadReason::UnknownEventType, detail)
        } else if let Some(flaw) = self.amount_flaw {
            (DeadReason::InvalidAmount, flaw.to_string())
        } else if let Some((change, name)) = self.unknown_field {
            let detail = format!(
                "data.changes[{change}] has the field \"{name}\", but a change has only \
                 accountId, shardId, currencyCode, availableDelta and frozenDelta."
            );
            (DeadReason::InvalidEvent, detail)
        } else if let Some(flaw) = self.data_flaw {
            (DeadReason::InvalidEvent, flaw.to_string())
        } else if let Some(fault) = self.data_fault {
            let event = told(event_id.as_deref().unwrap_or_default());
            let detail = format!("event {event}: field \"{fault}\" {}.", fault.rule());
            (DeadReason::InvalidEvent, detail)
        } else {
            // An event without an id has a defect of the envelope, one without data a defect of `data`.
            return Ok(EventHead {
                event_id: event_id.unwrap_or_default(),
                source: self.source,
                timestamp_us: self.timestamp_us,
                data: self.data.unwrap_or_default(),
            });
        };
        Err(Defect {
            reason,
            detail,
            event_id: event_id.map(Cow::into_owned),
            source: self.source.map(Cow::into_owned),
            timestamp_us: self.timestamp_us,
        })
    }

    /// Gives changes without an account or a shard of their own those of `data`.
    fn inherit(&mut self) {
        if self.needs_account == 0 && self.needs_shard == 0 {
            return;
        }
        for index in 0..self.changes.len() {
            let bit = 1u64.wrapping_shl(index as u32);
            if self.needs_shard & bit != 0 {
                self.changes[index].key.shard_id = self.shard_id.unwrap_or_default();
            }
            if self.needs_account & bit != 0 {
                match self.account_id {
                    Some(account_id) => self.changes[index].key.account_id = account_id,
                    None => {
                        self.bad_change(index, "accountId", "is missing, and data has none either")
                    }
                }
            }
        }
    }
}
