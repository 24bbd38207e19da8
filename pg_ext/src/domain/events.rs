//! One batch of domain events: fence, identities and verdicts are the same as for balance events; the topic's handler
//! replaces the fold.
//!
//! The records are raw parameters. Nothing is staged, and the bytes for a dead letter are at hand.

use ledger::decode::decode_domain_event;
use ledger::event::{Defect, check_size};
use ledger::fold::Claim;
use ledger::identity::PayloadHash;
use ledger::verdict::{DeadReason, RejectReason, Verdict};
use pgrx::Spi;
use pgrx::spi::SpiClient;

use crate::answer::{Answer, Counts};
use crate::dead_letters::DeadLetters;
use crate::dead_letters::burials::Burials;
use crate::domain::handlers::{Handler, Outcome, Task};
use crate::domain::records::{DomainEvent, Records};
use crate::error::assert_count;
use crate::holes;
use crate::identities::Ownership;
use crate::partition::fence::{self, BatchHead, Fence, Fenced};
use crate::pg::identities::RecordPlace;
use crate::settings;
use crate::verdicts::{EventName, Verdicts};

/// The message of a record that is parked behind another one.
pub const WAITS: &str = "An earlier record with this key is parked; this one waits behind it.";

/// 4714 BC, where PostgreSQL's time begins, in microseconds since 1970.
const FIRST_TIME_US: i64 = -210_866_803_200_000_000;

/// The time of a record in microseconds, if PostgreSQL has such a time.
fn record_time_us(time_ms: i64) -> Option<i64> {
    let time_us = time_ms.checked_mul(1_000)?;
    (time_us >= FIRST_TIME_US).then_some(time_us)
}

/// Reads the envelope; an event without its own time gets that of its record.
pub fn decode(
    payload: Option<&[u8]>,
    time_ms: i64,
    event_type: &str,
) -> Result<DomainEvent, Defect> {
    let head = decode_domain_event(payload, event_type)?;
    let time_us = head.timestamp_us.or_else(|| record_time_us(time_ms));
    let Some(time_us) = time_us else {
        let rule = "is missing, and the record's own time is out of range";
        return Err(Defect {
            reason: DeadReason::InvalidEvent,
            detail: format!("timestamp {rule}: {time_ms} ms since 1970."),
            event_id: Some(head.event_id.into_owned()),
            source: head.source.map(std::borrow::Cow::into_owned),
            timestamp_us: None,
        });
    };
    Ok(DomainEvent {
        identity: head.identity(),
        payload_hash: PayloadHash::of(payload.unwrap_or_default()),
        time_us,
        own_time_us: head.timestamp_us,
        data: head.data,
        event_id: head.event_id.into_owned(),
        source: head.source.map(std::borrow::Cow::into_owned),
    })
}

/// The name that a record gives its event, dead or not.
pub fn name_of(decoded: &Result<DomainEvent, Defect>) -> EventName {
    let (event_id, source, time_us) = match decoded {
        Ok(event) => (Some(&event.event_id), &event.source, event.own_time_us),
        Err(defect) => (
            defect.event_id.as_ref(),
            &defect.source,
            defect.timestamp_us,
        ),
    };
    EventName {
        event_id: event_id.cloned(),
        source: source.clone(),
        time_us,
    }
}

/// A record that an operator has ordered to bury: it is not tried, whatever it contains.
fn buried(name: EventName, words: String) -> Defect {
    Defect {
        reason: DeadReason::Buried,
        detail: words,
        event_id: name.event_id,
        source: name.source,
        timestamp_us: name.time_us,
    }
}

/// Applies a batch of the topic `head.name`.
pub fn event_batch(head: &BatchHead<'_>, records: &Records<'_>) -> Answer {
    records.check(head.span);
    Spi::connect_mut(|client| match fence::advance(client, head) {
        Fence::AlreadyCommitted { partition_id } => {
            Answer::already_committed(client, partition_id, head.span)
        }
        Fence::Advanced(fenced, has_burials) => {
            let burials = Burials::within(client, &fenced, head.span, has_burials);
            let counts = apply_behind_fence(client, head, &fenced, &burials, records);
            let offsets = records.offsets.iter().copied();
            burials.settle(client, &fenced, head, offsets);
            Answer::applied(counts)
        }
    })
}

fn apply_behind_fence(
    client: &mut SpiClient<'_>,
    head: &BatchHead<'_>,
    fenced: &Fenced,
    burials: &Burials,
    records: &Records<'_>,
) -> Counts {
    holes::record(client, fenced, head.span, records.offsets.iter().copied());
    if records.offsets.is_empty() {
        return Counts::default();
    }
    let handler = Handler::of(client, head.name.topic);
    let decoded = decode_all(head, burials, records);
    let carried: Vec<_> = decoded
        .iter()
        .map(|decoded| {
            let event = decoded.as_ref().ok()?;
            Some((event.identity, event.payload_hash))
        })
        .collect();
    let ownership = Ownership::claim(client, &carried, |record| RecordPlace {
        partition_id: fenced.partition_id(),
        kafka_offset: records.offsets[record],
    });
    let news: Vec<usize> = (0..decoded.len())
        .filter(|record| carried[*record].is_some() && ownership.of(*record) == Claim::New)
        .collect();
    let task = Task::Batch {
        from_offset: head.span.from(),
    };
    fault_point!("events.identities");
    let mut handled = handler.run(client, head.name, &task, records, &decoded, &news);
    fault_point!("events.handled");

    let mut writer = Writer {
        records,
        counts: Counts::default(),
        verdicts: Verdicts::default(),
        letters: DeadLetters::default(),
    };
    for (record, decoded) in decoded.iter().enumerate() {
        match decoded {
            Err(defect) => writer.bury(record, name_of(decoded), defect.reason, &defect.detail),
            Ok(_) => match (ownership.of(record), handled.remove(&record)) {
                (Claim::Duplicate, _) => {
                    writer.verdict(record, name_of(decoded), Verdict::Duplicate, None)
                }
                (Claim::Conflict, _) => {
                    let reason = RejectReason::EventIdConflict;
                    writer.counts.rejections[reason as usize] += 1;
                    let (name, reason) = (name_of(decoded), reason.as_str());
                    writer.verdict(record, name, Verdict::Rejected, Some(reason));
                }
                (Claim::New, None) => {
                    writer.verdict(record, name_of(decoded), Verdict::Applied, None)
                }
                (Claim::New, Some(Outcome::Failed(message))) => {
                    let name = name_of(decoded);
                    writer.bury(record, name, DeadReason::HandlerFailed, &message);
                }
                (Claim::New, Some(Outcome::ParkedBehind)) => {
                    writer.bury(record, name_of(decoded), DeadReason::ParkedBehind, WAITS);
                }
            },
        }
    }
    let counts = writer.write(client, head, fenced);
    fault_point!("events.verdicts");
    counts
}

/// Decodes each record, or returns why it is dead. A record that an operator has ordered to bury is dead in any case.
fn decode_all(
    head: &BatchHead<'_>,
    burials: &Burials,
    records: &Records<'_>,
) -> Vec<Result<DomainEvent, Defect>> {
    let max_bytes = settings::max_event_bytes();
    let raw = records.payloads.iter().zip(&records.times_ms);
    raw.zip(&records.offsets)
        .map(|((payload, time_ms), offset)| {
            let decoded = check_size(*payload, max_bytes)
                .and_then(|()| decode(*payload, *time_ms, head.name.topic));
            match burials.words(*offset) {
                Some(words) => Err(buried(name_of(&decoded), words)),
                None => decoded,
            }
        })
        .collect()
}

struct Writer<'r> {
    records: &'r Records<'r>,
    counts: Counts,
    verdicts: Verdicts,
    letters: DeadLetters,
}

impl Writer<'_> {
    fn verdict(
        &mut self,
        record: usize,
        event: EventName,
        verdict: Verdict,
        reason: Option<&'static str>,
    ) {
        match verdict {
            Verdict::Applied => self.counts.applied += 1,
            Verdict::Rejected => self.counts.rejected += 1,
            Verdict::Duplicate => self.counts.duplicates += 1,
            Verdict::Dead => self.counts.dead += 1,
        }
        self.verdicts.push(
            self.records.offsets[record],
            event,
            verdict,
            reason.map(str::to_owned),
        );
    }

    fn bury(&mut self, record: usize, event: EventName, reason: DeadReason, message: &str) {
        let code = reason.as_str().to_owned();
        self.counts.dead += 1;
        self.verdicts.push(
            self.records.offsets[record],
            event.clone(),
            Verdict::Dead,
            Some(code.clone()),
        );
        let letters = &mut self.letters;
        letters.offsets.push(self.records.offsets[record]);
        letters.event_ids.push(event.event_id);
        letters.codes.push(code);
        letters.messages.push(message.to_owned());
        letters.attempts.push(1);
        letters
            .keys
            .push(self.records.keys[record].map(<[u8]>::to_vec));
        let payload = self.records.payloads[record];
        letters.payloads.push(payload.map(<[u8]>::to_vec));
        let headers = self.records.headers[record];
        letters.headers.push(headers.map(str::to_owned));
        letters
            .record_times_ms
            .push(Some(self.records.times_ms[record]));
        // It was decoded, and claimed its identity, before its handler or its key was considered.
        letters.own_identity.push(matches!(
            reason,
            DeadReason::HandlerFailed | DeadReason::ParkedBehind
        ));
    }

    fn write(self, client: &mut SpiClient<'_>, head: &BatchHead<'_>, fenced: &Fenced) -> Counts {
        let counts = self.counts;
        let records = self.records.offsets.len() as i64;
        assert_count("events", counts.events(), records);
        assert_count("verdicts", self.verdicts.write(fenced) as i64, records);
        assert_count(
            "dead letters",
            self.letters.write(client, head.name, head.is_domain) as i64,
            counts.dead,
        );
        counts
    }
}
