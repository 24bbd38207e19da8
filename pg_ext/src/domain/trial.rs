//! A handler tried on events that nobody has sent. It runs as it does for a batch; whoever calls this undoes what it wrote.
//!
//! Identities are looked at among these events alone, so that an event can be tried as often as is wanted.

use std::time::{SystemTime, UNIX_EPOCH};

use ledger::fold::{Claim, claims, first_carriers};
use ledger::verdict::{DeadReason, RejectReason, Verdict};
use pgrx::Spi;

use crate::domain::events::{decode, name_of};
use crate::domain::handlers::{Handler, Outcome, Task};
use crate::domain::records::Records;
use crate::partition::PartitionName;

/// What one event would come to.
pub struct Tried {
    pub event_id: Option<String>,
    pub verdict: Verdict,
    pub reason: Option<&'static str>,
    pub message: Option<String>,
}

/// Tries the payloads as records of one batch, which arrive now and have no key.
pub fn try_events(event_type: &str, payloads: Vec<Option<&[u8]>>) -> Vec<Tried> {
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64);
    let count = payloads.len();
    let records = Records {
        offsets: (0..count as i64).collect(),
        times_ms: vec![now_ms; count],
        keys: vec![None; count],
        payloads,
        headers: vec![None; count],
    };
    let decoded: Vec<_> = records
        .payloads
        .iter()
        .map(|payload| decode(*payload, now_ms, event_type))
        .collect();
    let carried: Vec<_> = decoded
        .iter()
        .map(|decoded| {
            let event = decoded.as_ref().ok()?;
            Some((event.identity, event.payload_hash))
        })
        .collect();
    let claims = claims(&carried, &first_carriers(&carried), |_| None);
    let news: Vec<usize> = (0..count)
        .filter(|record| claims[*record] == Some(Claim::New))
        .collect();
    let name = PartitionName {
        topic: event_type,
        partition: 0,
    };
    let mut handled = Spi::connect_mut(|client| {
        let handler = Handler::of(client, event_type);
        let task = Task::Replay { ids: &[] };
        handler.run(client, name, &task, &records, &decoded, &news)
    });
    let tried = decoded.iter().enumerate().map(|(record, decoded)| {
        let (verdict, reason, message) = match (decoded, claims[record], handled.remove(&record)) {
            (Err(defect), ..) => (
                Verdict::Dead,
                Some(defect.reason.as_str()),
                Some(defect.detail.clone()),
            ),
            (_, Some(Claim::Duplicate), _) => (Verdict::Duplicate, None, None),
            (_, Some(Claim::Conflict), _) => (
                Verdict::Rejected,
                Some(RejectReason::EventIdConflict.as_str()),
                None,
            ),
            (_, _, Some(Outcome::Failed(message))) => (
                Verdict::Dead,
                Some(DeadReason::HandlerFailed.as_str()),
                Some(message),
            ),
            (_, _, Some(Outcome::ParkedBehind) | None) => (Verdict::Applied, None, None),
        };
        Tried {
            event_id: name_of(decoded).event_id,
            verdict,
            reason,
            message,
        }
    });
    tried.collect()
}
