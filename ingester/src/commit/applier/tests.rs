//! What becomes of a batch, against an edge that plays the database's part.

use std::sync::Mutex;

use ledger::staging;

use super::*;
use crate::batch::Batch;
use crate::batch::record::Record;
use crate::commit::edge::Refusal;

/// What the edge answers where a part of a batch holds the record at this offset.
#[derive(Clone)]
struct Trouble {
    offset: i64,
    consequence: Consequence,
    may_be_one: bool,
    /// So many tries meet it.
    tries: usize,
}

#[derive(Default)]
struct Seen {
    /// The spans that were committed, in order.
    committed: Vec<(i64, i64)>,
    /// Offsets of those that were committed as dead letters, and how often each had been tried.
    dead: Vec<(i64, i32)>,
    paused: Vec<Kind>,
    tries: usize,
}

/// A database that refuses some records.
struct Fake {
    troubles: Mutex<Vec<Trouble>>,
    seen: Mutex<Seen>,
    /// The lease ends with this try.
    ends_after: usize,
}

impl Edge for Fake {
    async fn ended(&self) {
        if self.seen.lock().expect("ours").tries < self.ends_after {
            std::future::pending().await
        }
    }

    async fn attempt(&self, slice: &Slice<'_>) -> Result<BatchCounts, Refusal> {
        let mut seen = self.seen.lock().expect("ours");
        seen.tries += 1;
        let Content::Balance(staged) = &slice.content else {
            panic!("balance events only");
        };
        let rows = staged.promise.rows as usize;
        let records = staging::read(&staged.bytes, rows)
            .expect("as promised")
            .records;
        let mut troubles = self.troubles.lock().expect("ours");
        for record in &records {
            if let staging::Content::Dead(dead) = &record.content {
                seen.dead.push((record.offset, dead.attempts));
                continue;
            }
            let met = |trouble: &&mut Trouble| trouble.offset == record.offset && trouble.tries > 0;
            if let Some(trouble) = troubles.iter_mut().find(met) {
                trouble.tries -= 1;
                return Err(Refusal {
                    consequence: trouble.consequence,
                    text: "no".to_owned(),
                    may_be_one: trouble.may_be_one,
                    ordered: (trouble.consequence == Consequence::Bury).then_some(record.offset),
                });
            }
        }
        seen.committed.push((slice.span.from(), slice.span.next()));
        Ok(BatchCounts {
            applied: records.len() as i64,
            ..BatchCounts::default()
        })
    }

    async fn keep_headers(&self, _: &[i64], _: &[&str]) -> Result<(), String> {
        Ok(())
    }

    async fn pause_topic(&self, kind: Kind, _: &str) -> Result<(), String> {
        self.seen.lock().expect("ours").paused.push(kind);
        Ok(())
    }
}

const FIRST: i64 = 10;
const RECORDS: i64 = 8;
const ATTEMPTS: u32 = 3;

fn trouble(offset: i64, consequence: Consequence, tries: usize) -> Trouble {
    Trouble {
        offset,
        consequence,
        may_be_one: true,
        tries,
    }
}

/// A batch of eight events, with a hole behind each.
fn batch() -> Sealed {
    let mut batch = Batch::new(Kind::Balance, FIRST);
    for offset in (FIRST..).step_by(2).take(RECORDS as usize) {
        let payload = format!(
            r#"{{"eventId":"e{offset}","eventType":"balance.changed","data":{{"accountId":1,"changes":[{{"currencyCode":"USD","availableDelta":"1"}}]}}}}"#
        );
        batch.push(Record {
            offset,
            timestamp_ms: 0,
            key: None,
            payload: Some(payload.as_bytes()),
            headers: None,
        });
    }
    batch.seal()
}

async fn commit(troubles: Vec<Trouble>, ends_after: usize) -> (Result<BatchCounts, Failure>, Seen) {
    let applier = Applier {
        edge: Fake {
            troubles: Mutex::new(troubles),
            seen: Mutex::default(),
            ends_after,
        },
        partition: Partition {
            topic: "t".to_owned(),
            number: 0,
        },
        retry: RetrySettings {
            max_attempts: ATTEMPTS,
            delay: Duration::from_millis(1),
            exponential: false,
        },
        status: Arc::default(),
        metrics: Arc::default(),
        keeps_headers: false,
    };
    let outcome = applier.commit(&batch()).await;
    (outcome, applier.edge.seen.into_inner().expect("ours"))
}

const NEVER: usize = usize::MAX;
const ALWAYS: usize = usize::MAX;
const WHOLE: (i64, i64) = (FIRST, FIRST + 2 * RECORDS - 1);

/// Every offset is committed once, in order.
fn assert_whole(seen: &Seen) {
    let (first, last) = (seen.committed.first(), seen.committed.last());
    assert_eq!(first.map(|part| part.0), Some(WHOLE.0));
    assert_eq!(last.map(|part| part.1), Some(WHOLE.1));
    assert!(seen.committed.windows(2).all(|two| two[0].1 == two[1].0));
}

#[tokio::test]
async fn a_record_that_the_database_refuses_is_found_by_halving_and_buried_alone() {
    let (outcome, seen) = commit(vec![trouble(16, Consequence::Reject, ALWAYS)], NEVER).await;
    assert_eq!(outcome.expect("committed").applied, RECORDS);
    assert_whole(&seen);
    assert_eq!(seen.dead, [(16, ATTEMPTS as i32)]);
    assert!(seen.committed.contains(&(16, 18)), "by itself");
    // Six until it was tried alone, then the further tries of it, its letter, and the rest.
    assert_eq!(seen.tries, 6 + (ATTEMPTS as usize - 1) + 1 + 1);
}

#[tokio::test]
async fn a_record_that_is_taken_at_last_is_no_dead_letter() {
    let refused = 4 + ATTEMPTS as usize - 2;
    let (outcome, seen) = commit(vec![trouble(16, Consequence::Reject, refused)], NEVER).await;
    assert!(outcome.is_ok() && seen.dead.is_empty());
    assert_whole(&seen);
}

#[tokio::test]
async fn a_record_that_an_operator_gives_up_is_buried_untried_and_its_neighbours_stay_together() {
    let (outcome, seen) = commit(vec![trouble(16, Consequence::Bury, ALWAYS)], NEVER).await;
    assert!(outcome.is_ok());
    assert_eq!(seen.dead, [(16, 1)]);
    assert_eq!(seen.committed, [(10, 16), (16, 18), (18, WHOLE.1)]);
}

#[tokio::test]
async fn what_passes_is_tried_again_whole() {
    for consequence in [Consequence::Retry, Consequence::RetryAtOnce] {
        let (outcome, seen) = commit(vec![trouble(16, consequence, 2)], NEVER).await;
        assert!(outcome.is_ok() && seen.dead.is_empty(), "{consequence:?}");
        assert_eq!((seen.committed, seen.tries), (vec![WHOLE], 3));
    }
}

#[tokio::test]
async fn an_error_that_nobody_has_classified_is_narrowed_down_to_its_record_and_never_buries_it() {
    let (outcome, seen) = commit(vec![trouble(16, Consequence::Unclassified, 9)], NEVER).await;
    assert!(outcome.is_ok() && seen.dead.is_empty());
    assert_whole(&seen);
    assert!(seen.committed.len() > 1, "in parts");
}

#[tokio::test]
async fn each_consequence_ends_the_batch_in_its_own_way() {
    let of = async |consequence, may_be_one| {
        let one = Trouble {
            may_be_one,
            ..trouble(16, consequence, ALWAYS)
        };
        let (outcome, seen) = commit(vec![one], NEVER).await;
        (outcome.expect_err("not committed"), seen)
    };
    let (failure, seen) = of(Consequence::Reacquire, true).await;
    assert!(matches!(failure, Failure::Lost(_)) && seen.tries == 1);
    let (failure, seen) = of(Consequence::Wait, true).await;
    assert!(matches!(failure, Failure::Paused(_)) && seen.paused.is_empty());
    let (failure, seen) = of(Consequence::Pause, true).await;
    assert!(matches!(failure, Failure::Paused(_)));
    assert_eq!(seen.paused, [Kind::Balance]);
    let (failure, seen) = of(Consequence::Halt, false).await;
    assert!(matches!(failure, Failure::Halt(_)) && seen.committed.is_empty());
    // Where one record may be what the database stumbles over, those before it are committed and it is named.
    let (failure, seen) = of(Consequence::Halt, true).await;
    let Failure::Halt(text) = failure else {
        panic!("{failure:?}");
    };
    assert!(text.contains("offset 16"), "{text}");
    assert_eq!(seen.committed.last().map(|part| part.1), Some(16));
}

#[tokio::test]
async fn nothing_is_tried_once_the_lease_has_ended() {
    let (outcome, seen) = commit(vec![trouble(16, Consequence::Retry, ALWAYS)], 2).await;
    assert!(matches!(outcome, Err(Failure::Lost(_))));
    assert_eq!(seen.tries, 2);
}
