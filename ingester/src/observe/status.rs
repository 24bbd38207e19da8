//! What this instance knows of itself now: kept in memory, so that it can always be told at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use crate::observe::snapshot::{Ends, LastBatch, Led, Processed, Queue, Snapshot, State};
use crate::partition::Partition;

/// PostgreSQL answers every look for partitions, twice a second.
const DATABASE_ANSWERS: Duration = Duration::from_secs(4);

#[derive(Default)]
struct Inner {
    led: BTreeMap<Partition, Led>,
    counts: BTreeMap<String, i32>,
    moved: HashMap<Partition, i64>,
    records: u64,
    database_answered_at: Option<Instant>,
    /// Unknown until librdkafka first tells: until then an answer says enough.
    brokers_are_up: Option<bool>,
    kafka_answers: bool,
    redis_is_connected: Option<bool>,
    missing_topics: BTreeSet<String>,
    blocked: BTreeMap<Partition, String>,
    cannot_lead: Option<String>,
    last_processed: Option<Processed>,
    queue: Queue,
    leases_renewed_at: Option<Instant>,
    /// How long records wait for company, as they are told to.
    batching_delay: Duration,
}

/// How much of a partition's state is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// No partition led here was in this state for this reason.
    New,
    /// Another partition led here is in this state for the same reason.
    KnownElsewhere,
    /// This partition was in it already.
    Known,
}

#[derive(Default)]
pub struct Status {
    inner: Mutex<Inner>,
    moved: Notify,
}

impl Status {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while held")
    }

    pub fn leads(&self, partition: &Partition, commit_offset: i64) {
        let led = Led {
            state: State::Running,
            reason: None,
            commit_offset,
            lag: None,
            last_batch: None,
            behind_transaction: None,
            behind: None,
            oldest_ms: None,
            progressed_at: Instant::now(),
        };
        let mut inner = self.inner();
        if inner.led.is_empty() {
            inner.leases_renewed_at = Some(Instant::now());
        }
        inner.blocked.remove(partition);
        inner.led.insert(partition.clone(), led);
    }

    pub fn leads_no_more(&self, partition: &Partition) {
        self.inner().led.remove(partition);
    }

    /// Answers how much of it is new, for the log: a fault is told once, however many partitions it stops.
    pub fn set_state(&self, partition: &Partition, state: State, reason: Option<&str>) -> News {
        let mut inner = self.inner();
        let is = |led: &Led| led.state == state && led.reason.as_deref() == reason;
        let others = inner.led.iter();
        let is_elsewhere = others
            .filter(|(other, _)| *other != partition)
            .any(|(_, led)| is(led));
        let Some(led) = inner.led.get_mut(partition) else {
            return News::Known;
        };
        if is(led) {
            return News::Known;
        }
        (led.state, led.reason) = (state, reason.map(str::to_owned));
        match is_elsewhere {
            true => News::KnownElsewhere,
            false => News::New,
        }
    }

    /// How long a batch may wait for more records.
    pub fn batches_wait(&self, batching_delay: Duration) {
        self.inner().batching_delay = batching_delay;
    }

    /// All leases are as old as `at`.
    pub fn leases_renewed(&self, at: Instant) {
        let mut inner = self.inner();
        inner.leases_renewed_at = inner.leases_renewed_at.max(Some(at));
    }

    /// A batch goes to the database, whose first record was made at `oldest_ms`.
    pub fn waits(&self, partition: &Partition, oldest_ms: i64) {
        if let Some(led) = self.inner().led.get_mut(partition) {
            led.oldest_ms = Some(oldest_ms);
        }
    }

    pub fn committed(&self, partition: &Partition, next_offset: i64, records: usize) {
        let mut inner = self.inner();
        inner.records += records as u64;
        inner.moved.insert(partition.clone(), next_offset);
        inner.last_processed = Some(Processed {
            partition: partition.clone(),
            offset: next_offset - 1,
            committed_at: SystemTime::now(),
        });
        if let Some(led) = inner.led.get_mut(partition) {
            led.lag = led
                .lag
                .map(|lag| (lag - (next_offset - led.commit_offset)).max(0));
            led.commit_offset = next_offset;
            led.oldest_ms = None;
            (led.state, led.reason) = (State::Running, None);
            led.progressed_at = Instant::now();
            led.behind = None;
        }
        drop(inner);
        self.moved.notify_one();
    }

    /// A batch is in the database for long, and waits for a lock of `holder`.
    pub fn waits_behind(&self, partition: &Partition, holder: Option<String>) {
        if let Some(led) = self.inner().led.get_mut(partition) {
            led.behind = holder;
        }
    }

    /// A partition has no leader, and cannot be acquired.
    pub fn is_blocked(&self, partition: &Partition, why: String) {
        self.inner().blocked.insert(partition.clone(), why);
    }

    /// Partitions that have a leader now.
    pub fn have_leaders<'p>(&self, led: impl Iterator<Item = &'p Partition>) {
        let mut inner = self.inner();
        led.for_each(|partition| drop(inner.blocked.remove(partition)));
    }

    /// Why this instance may lead nothing, as long as it may not.
    pub fn cannot_lead(&self, why: Option<String>) {
        self.inner().cannot_lead = why;
    }

    pub fn batch_took(&self, partition: &Partition, batch: LastBatch) {
        if let Some(led) = self.inner().led.get_mut(partition) {
            led.last_batch = Some(batch);
        }
    }

    /// Waits for something to be committed since the last call.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Offsets that moved since the last call.
    pub fn take_moved(&self) -> HashMap<Partition, i64> {
        std::mem::take(&mut self.inner().moved)
    }

    /// Records committed since the start.
    pub fn records(&self) -> u64 {
        self.inner().records
    }

    /// How many partitions each topic has.
    pub fn topics_have(&self, counts: &BTreeMap<String, i32>) {
        let mut inner = self.inner();
        inner.counts.clone_from(counts);
        inner
            .blocked
            .retain(|partition, _| counts.contains_key(&partition.topic));
    }

    /// Whether Kafka lacks a topic that a setting names.
    pub fn topic_is_missing(&self, topic: &str, is_missing: bool) {
        let mut inner = self.inner();
        if is_missing {
            inner.missing_topics.insert(topic.to_owned());
        } else {
            inner.missing_topics.remove(topic);
        }
    }

    pub fn database_answered(&self) {
        self.inner().database_answered_at = Some(Instant::now());
    }

    pub fn kafka_answers(&self, answers: bool) {
        self.inner().kafka_answers = answers;
    }

    /// Whether a broker is connected, what is fetched already, and where the partitions that are read end.
    pub fn kafka_tells(
        &self,
        brokers_are_up: bool,
        queue: Queue,
        ends: impl Iterator<Item = (Partition, Ends)>,
    ) {
        let mut inner = self.inner();
        inner.brokers_are_up = Some(brokers_are_up);
        inner.queue = queue;
        for (partition, ends) in ends {
            if let Some(led) = inner.led.get_mut(&partition) {
                let lag = (ends.high - led.commit_offset).max(0);
                let behind = ends.high - ends.stable;
                led.behind_transaction = (behind > 0).then_some((behind, ends.stable));
                if lag == 0 || led.lag == Some(0) {
                    led.progressed_at = Instant::now();
                }
                led.lag = Some(lag);
            }
        }
    }

    pub fn redis_is_connected(&self, connected: bool) {
        self.inner().redis_is_connected = Some(connected);
    }

    pub fn snapshot(&self) -> Snapshot {
        let inner = self.inner();
        let numbers = |(topic, count): (&String, &i32)| {
            let topic = topic.clone();
            (0..*count).map(move |number| Partition {
                topic: topic.clone(),
                number,
            })
        };
        let mut partitions: BTreeMap<Partition, Option<Led>> = inner
            .counts
            .iter()
            .flat_map(numbers)
            .map(|partition| (partition, None))
            .collect();
        for (partition, led) in &inner.led {
            let mut led = led.clone();
            led.look_at_waits(inner.batching_delay);
            partitions.insert(partition.clone(), Some(led));
        }
        Snapshot {
            partitions,
            database_is_connected: inner
                .database_answered_at
                .is_some_and(|at| at.elapsed() < DATABASE_ANSWERS),
            kafka_is_connected: inner.kafka_answers && inner.brokers_are_up != Some(false),
            redis_is_connected: inner.redis_is_connected,
            missing_topics: inner.missing_topics.clone(),
            blocked: inner.blocked.clone(),
            cannot_lead: inner.cannot_lead.clone(),
            last_processed: inner.last_processed.clone(),
            queue: inner.queue,
            lease_age: inner
                .leases_renewed_at
                .filter(|_| !inner.led.is_empty())
                .map(|at| at.elapsed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    use crate::observe::snapshot::{Health, STANDS_STILL, now_ms};

    fn partition(number: i32) -> Partition {
        Partition {
            topic: "t".into(),
            number,
        }
    }

    fn ends(offset: i64) -> Ends {
        Ends {
            high: offset,
            stable: offset,
        }
    }

    fn up() -> Status {
        let status = Status::default();
        status.database_answered();
        status.kafka_answers(true);
        status.kafka_tells(true, Queue::default(), std::iter::empty());
        status
    }

    #[test]
    fn a_fault_is_new_once_however_many_partitions_it_stops() {
        let status = up();
        for number in 0..3 {
            status.leads(&partition(number), 5);
        }
        let stops =
            |number, reason| status.set_state(&partition(number), State::Halted, Some(reason));
        assert_eq!(stops(0, "no handler"), News::New);
        assert_eq!(stops(0, "no handler"), News::Known);
        assert_eq!(stops(1, "no handler"), News::KnownElsewhere);
        assert_eq!(stops(2, "retention"), News::New);
        status.set_state(&partition(0), State::Running, None);
        status.set_state(&partition(1), State::Running, None);
        assert_eq!(stops(0, "no handler"), News::New, "it had ended");
    }

    #[test]
    fn health_is_the_worst_that_is_known() {
        let status = Status::default();
        assert_eq!(status.snapshot().health(), Health::Down, "nothing is known");
        let status = up();
        assert_eq!(
            status.snapshot().health(),
            Health::Healthy,
            "a standby is well"
        );
        status.leads(&partition(0), 5);
        status.set_state(&partition(0), State::Halted, Some("why"));
        assert_eq!(status.snapshot().health(), Health::Degraded);
        status.leads_no_more(&partition(0));
        status.redis_is_connected(false);
        assert_eq!(status.snapshot().health(), Health::Degraded);
        status.redis_is_connected(true);
        assert_eq!(status.snapshot().health(), Health::Healthy);
        status.topic_is_missing("t", true);
        assert_eq!(status.snapshot().health(), Health::Degraded);
        status.topic_is_missing("t", false);
        assert_eq!(status.snapshot().health(), Health::Healthy);
        status.kafka_answers(false);
        assert_eq!(status.snapshot().health(), Health::Down);
    }

    #[test]
    fn the_last_event_is_told_as_iso_8601_writes_it() {
        let at = |ms| {
            let committed_at = UNIX_EPOCH + Duration::from_millis(ms);
            let (partition, offset) = (partition(0), 0);
            Processed {
                partition,
                offset,
                committed_at,
            }
            .at()
        };
        assert_eq!(at(1_704_067_200_000), "2024-01-01T00:00:00.000Z");
        assert_eq!(at(1_709_210_096_007), "2024-02-29T12:34:56.007Z");
    }

    #[test]
    fn an_answer_of_kafka_is_enough_until_librdkafka_tells_of_its_brokers() {
        let status = Status::default();
        status.kafka_answers(true);
        assert!(status.snapshot().kafka_is_connected);
        status.kafka_tells(false, Queue::default(), std::iter::empty());
        assert!(!status.snapshot().kafka_is_connected);
    }

    #[test]
    fn lag_is_what_kafka_has_and_we_have_not() {
        let status = up();
        status.topics_have(&BTreeMap::from([("t".to_owned(), 2)]));
        status.leads(&partition(0), 5);
        assert_eq!(status.snapshot().lag(), 0);
        let ends = [(partition(0), ends(9)), (partition(1), ends(99))];
        status.kafka_tells(true, Queue::default(), ends.into_iter());
        assert_eq!(status.snapshot().lag(), 4);
        status.committed(&partition(0), 8, 3);
        let snapshot = status.snapshot();
        assert_eq!(snapshot.lag(), 1);
        assert!(snapshot.partitions[&partition(1)].is_none(), "not led here");
        assert_eq!(snapshot.last_processed.map(|last| last.offset), Some(7));
        assert_eq!(status.take_moved(), HashMap::from([(partition(0), 8)]));
        assert!(status.take_moved().is_empty());
    }

    #[test]
    fn a_batch_that_waits_as_long_as_it_is_told_to_does_not_stand_still() {
        let status = up();
        status.leads(&partition(0), 5);
        let waiting = [(partition(0), ends(9))];
        status.kafka_tells(true, Queue::default(), waiting.into_iter());
        let mut led = status.snapshot().partitions[&partition(0)].clone();
        let led = led.as_mut().expect("led");
        led.progressed_at = Instant::now() - STANDS_STILL - Duration::from_secs(5);
        led.look_at_waits(Duration::from_secs(60));
        assert_eq!(led.state, State::Running);
        led.look_at_waits(Duration::from_secs(4));
        assert_eq!(led.state, State::Stalled);
    }

    #[test]
    fn an_open_transaction_is_lag_with_a_reason() {
        let status = up();
        status.leads(&partition(0), 5);
        let ends = Ends { high: 9, stable: 5 };
        status.kafka_tells(true, Queue::default(), [(partition(0), ends)].into_iter());
        let led = status.snapshot().partitions[&partition(0)].clone();
        let led = led.expect("led");
        assert_eq!((led.lag, led.state), (Some(4), State::Running));
        let reason = led.reason.expect("a reason");
        assert!(reason.starts_with("waits behind an open transaction: 4 offsets from 5 on"));
    }

    #[test]
    fn lag_in_seconds_is_the_age_of_the_oldest_record_known() {
        let status = up();
        let lag_seconds = || {
            let led = status.snapshot().partitions[&partition(0)].clone();
            led.expect("led").lag_seconds()
        };
        status.leads(&partition(0), 5);
        assert_eq!(lag_seconds(), None, "Kafka has not told");
        status.kafka_tells(
            true,
            Queue::default(),
            [(partition(0), ends(9))].into_iter(),
        );
        assert!(lag_seconds() < Some(5.0), "read nothing yet");
        status.waits(&partition(0), now_ms() - 60_000);
        assert!(lag_seconds() >= Some(60.0));
        status.committed(&partition(0), 9, 4);
        assert_eq!(lag_seconds(), Some(0.0));
    }

    #[test]
    fn leases_have_an_age_while_something_is_led() {
        let status = up();
        assert_eq!(status.snapshot().lease_age, None);
        status.leads(&partition(0), 5);
        assert!(status.snapshot().lease_age < Some(Duration::from_secs(5)));
        status.leases_renewed(Instant::now());
        status.leads_no_more(&partition(0));
        assert_eq!(status.snapshot().lease_age, None);
    }
}
