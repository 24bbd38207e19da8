//! Load from the workload: all at once, or at a rate until told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::kafka::Kafka;
use crate::workload::{Stream, Workload};

/// Sends `events` records, spread over the partitions, as fast as Kafka takes them.
pub fn fill(kafka: &Kafka, topic: &str, partitions: i32, workload: &Workload, events: u64) {
    fill_counting(
        kafka,
        topic,
        partitions,
        workload,
        events,
        &AtomicU64::new(0),
    );
}

/// The same, and counts in `sent` what has been handed to the producer.
pub fn fill_counting(
    kafka: &Kafka,
    topic: &str,
    partitions: i32,
    workload: &Workload,
    events: u64,
    sent: &AtomicU64,
) {
    const THREADS: i32 = 2;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let producer = kafka.producer();
                // Turn by turn, so that no partition waits for another one's end.
                let mut streams: Vec<_> = (thread..partitions)
                    .step_by(THREADS as usize)
                    .map(|partition| {
                        (
                            partition,
                            workload
                                .stream(partition)
                                .take(share(events, partitions, partition)),
                        )
                    })
                    .collect();
                while !streams.is_empty() {
                    streams.retain_mut(|(partition, stream)| {
                        let mut count = 0;
                        for message in stream.take(500) {
                            producer.send(topic, *partition, &message);
                            count += 1;
                        }
                        sent.fetch_add(count, Ordering::Relaxed);
                        producer.poll();
                        count == 500
                    });
                }
                producer.flush();
            });
        }
    });
}

/// How many of `events` a partition gets.
pub fn share(events: u64, partitions: i32, partition: i32) -> usize {
    let (partitions, partition) = (partitions as u64, partition as u64);
    (events / partitions + u64::from(partition < events % partitions)) as usize
}

/// Continuous load from a thread of its own.
pub struct Feed {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    partitions: Arc<AtomicI32>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// `rate` is in records per second, over all partitions.
    pub fn start(
        kafka: &Kafka,
        topic: &str,
        partitions: i32,
        workload: &Workload,
        rate: u64,
    ) -> Self {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let partitions = Arc::new(AtomicI32::new(partitions));
        let growing = partitions.clone();
        let (kafka, topic, workload) = (kafka.clone(), topic.to_owned(), workload.clone());
        let (stopped, count) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            let producer = kafka.producer_with(&[("linger.ms", "1")]);
            let mut streams: Vec<Stream> = Vec::new();
            let start = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let partitions = growing.load(Ordering::Relaxed);
                let more = streams.len() as i32..partitions;
                streams.extend(more.map(|partition| workload.stream(partition)));
                let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
                for number in count.load(Ordering::Relaxed)..due {
                    let partition = (number % partitions as u64) as usize;
                    let message = streams[partition].next().expect("a workload has no end");
                    producer.send(&topic, partition as i32, &message);
                }
                count.fetch_max(due, Ordering::Relaxed);
                producer.poll();
                std::thread::sleep(Duration::from_millis(1));
            }
            producer.flush();
        });
        Self {
            stop,
            sent,
            partitions,
            thread: Some(thread),
        }
    }

    /// The topic has more partitions now.
    pub fn grow(&self, partitions: i32) {
        self.partitions.store(partitions, Ordering::Relaxed);
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops, and returns when Kafka has everything.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("stopped once");
        tokio::task::spawn_blocking(move || thread.join())
            .await
            .expect("a blocking task")
            .expect("Kafka took everything");
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
