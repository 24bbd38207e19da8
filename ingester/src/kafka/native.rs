//! The only place in the ingester that calls librdkafka's own functions, for what rdkafka lacks: the
//! id of a topic, the offset at which a partition ends, header names that are not text, and adding a
//! broker again.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings::*;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::Notify;

use crate::kafka::words::of_code;

/// Adds brokers to a client, besides those that it knows.
pub fn name_brokers(client: &Client<impl ClientContext>, list: &CStr) {
    // SAFETY: the client outlives the call, which copies the list.
    unsafe { rd_kafka_brokers_add(client.native_ptr(), list.as_ptr()) };
}

/// The queue of one partition.
pub struct Queue<C: ConsumerContext + 'static> {
    queue: NonNull<rd_kafka_queue_t>,
    /// Notified when something arrives; librdkafka keeps a pointer to it.
    arrived: Arc<Notify>,
    /// A queue must not outlive its client.
    _consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka guards its queues by its own locks, and the rest may be shared anyhow.
unsafe impl<C: ConsumerContext> Send for Queue<C> {}
// SAFETY: as above; no method needs the queue for itself.
unsafe impl<C: ConsumerContext> Sync for Queue<C> {}

impl<C: ConsumerContext> Queue<C> {
    /// Separates a partition's records from the common queue; called before it is assigned, so that none arrives there.
    pub fn of(consumer: &Arc<BaseConsumer<C>>, topic: &str, partition: i32) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        let arrived = Arc::<Notify>::default();
        // SAFETY: the client is alive and the name is copied; we own the returned queue and destroy it.
        let queue = unsafe {
            rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition)
        };
        let queue = NonNull::new(queue)?;
        // SAFETY: the queue is alive, and so is `arrived` until `drop` removes the callback.
        unsafe {
            rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut());
            rd_kafka_queue_cb_event_enable(
                queue.as_ptr(),
                Some(wake),
                Arc::as_ptr(&arrived).cast_mut().cast(),
            );
        }
        Some(Self {
            queue,
            arrived,
            _consumer: consumer.clone(),
        })
    }

    /// The next message, if one has arrived; never waits.
    pub fn poll(&self) -> Option<Message<'_>> {
        // SAFETY: the queue is alive; we own the returned message and destroy it.
        let message = unsafe { rd_kafka_consume_queue(self.queue.as_ptr(), 0) };
        NonNull::new(message).map(|message| Message {
            message,
            queue: PhantomData,
        })
    }

    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl<C: ConsumerContext> Drop for Queue<C> {
    fn drop(&mut self) {
        // SAFETY: the queue is alive; after the first call, made under the queue's lock, nothing calls `wake` for it.
        unsafe {
            rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

unsafe extern "C" fn wake(_: *mut rd_kafka_t, arrived: *mut c_void) {
    // SAFETY: the pointer from `Queue::of`, which is valid for as long as the callback is set.
    unsafe { &*arrived.cast::<Notify>() }.notify_one();
}

/// A record, or an error in its place.
pub struct Message<'q> {
    message: NonNull<rd_kafka_message_t>,
    queue: PhantomData<&'q ()>,
}

impl Message<'_> {
    fn get(&self) -> &rd_kafka_message_t {
        // SAFETY: alive until dropped, and never changed.
        unsafe { self.message.as_ref() }
    }

    pub fn error(&self) -> Option<(Code, String)> {
        let code = self.get().err;
        (code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| {
            // SAFETY: a text of the message, which is alive, or of librdkafka itself.
            let text = unsafe { text(rd_kafka_message_errstr(self.message.as_ptr())) };
            (code.into(), text)
        })
    }

    /// The offset of the record; at the end of a partition, the offset that the reader has reached.
    pub fn offset(&self) -> i64 {
        self.get().offset
    }

    /// -1 if it has none.
    pub fn timestamp_ms(&self) -> i64 {
        // SAFETY: the message is alive, and null means that the type of the timestamp is not wanted.
        unsafe { rd_kafka_message_timestamp(self.message.as_ptr(), ptr::null_mut()) }
    }

    pub fn key(&self) -> Option<&[u8]> {
        let message = self.get();
        // SAFETY: librdkafka's own length of the bytes, which live as long as the message.
        unsafe { bytes(message.key, message.key_len) }
    }

    pub fn payload(&self) -> Option<&[u8]> {
        let message = self.get();
        // SAFETY: as above.
        unsafe { bytes(message.payload, message.len) }
    }

    /// Names and values, in order.
    pub fn headers(&self) -> Vec<(&[u8], Option<&[u8]>)> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive; the headers stay its own.
        let found = unsafe { rd_kafka_message_headers(self.message.as_ptr(), &raw mut headers) };
        if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || headers.is_null() {
            return Vec::new();
        }
        // SAFETY: the headers live as long as the message.
        let count = unsafe { rd_kafka_header_cnt(headers) };
        let header = |index| {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the headers live as long as the message, and the index is below their number.
            unsafe {
                rd_kafka_header_get_all(
                    headers,
                    index,
                    &raw mut name,
                    &raw mut value,
                    &raw mut size,
                );
                (CStr::from_ptr(name).to_bytes(), bytes(value, size))
            }
        };
        (0..count).map(header).collect()
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        // SAFETY: we own it, and nothing borrows from it any more.
        unsafe { rd_kafka_message_destroy(self.message.as_ptr()) };
    }
}

/// # Safety
/// `start` is null, or that many bytes are valid for as long as the result is used.
unsafe fn bytes<'m>(start: *const c_void, length: usize) -> Option<&'m [u8]> {
    // SAFETY: promised by the caller.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), length) })
}

/// # Safety
/// `start` is null or a text that ends with a zero.
unsafe fn text(start: *const c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: promised by the caller.
    let text = unsafe { CStr::from_ptr(start) };
    text.to_string_lossy().into_owned()
}

/// An object of librdkafka that we own and destroy.
struct Owned<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    fn new(made: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, String> {
        let made = NonNull::new(made).ok_or("librdkafka has no memory left")?;
        Ok(Self(made, destroy))
    }

    fn get(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: created by librdkafka for us, and destroyed once.
        unsafe { self.1(self.get()) };
    }
}

/// A broker's answer about a topic: its id, if the broker gives one; `None` if there is no such topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic {
    pub id: Option<[u8; 16]>,
}

/// Asks a broker, and waits for the answer.
pub fn describe_topic(
    client: &Client<impl ClientContext>,
    topic: &str,
    limit: Duration,
) -> Result<Option<Topic>, String> {
    let name = CString::new(topic).map_err(|_| "a topic's name holds a zero byte".to_owned())?;
    let limit_ms = limit.as_millis() as i32;
    let rk = client.native_ptr();
    // SAFETY: the client outlives this call and every object created for it here; names are copied; each object is
    // destroyed by its guard, the queue after the events taken from it.
    unsafe {
        let queue = Owned::new(rd_kafka_queue_new(rk), rd_kafka_queue_destroy)?;
        let operation = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = Owned::new(
            rd_kafka_AdminOptions_new(rk, operation),
            rd_kafka_AdminOptions_destroy,
        )?;
        rd_kafka_AdminOptions_set_request_timeout(options.get(), limit_ms, ptr::null_mut(), 0);
        let topics = Owned::new(
            rd_kafka_TopicCollection_of_topic_names([name.as_ptr()].as_mut_ptr(), 1),
            rd_kafka_TopicCollection_destroy,
        )?;
        rd_kafka_DescribeTopics(rk, topics.get(), options.get(), queue.get());
        let event = rd_kafka_queue_poll(queue.get(), limit_ms + 500);
        let event = NonNull::new(event).ok_or("no answer about topics in time")?;
        let event = Owned(event, rd_kafka_event_destroy);
        described(event.get())
    }
}

/// # Safety
/// `event` is alive.
unsafe fn described(event: *mut rd_kafka_event_t) -> Result<Option<Topic>, String> {
    // SAFETY: the event is alive, and everything that is read from it lives as long.
    unsafe {
        let failed = rd_kafka_event_error(event);
        if failed != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(of_code(Code::from(failed)));
        }
        let result = rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err("an answer about something else than topics".to_owned());
        }
        let mut count = 0;
        let topics = rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count == 0 {
            return Ok(None);
        }
        let error = rd_kafka_TopicDescription_error(*topics);
        match Code::from(rd_kafka_error_code(error)) {
            Code::NoError => {}
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId => {
                return Ok(None);
            }
            code => return Err(of_code(code)),
        }
        let id = rd_kafka_TopicDescription_topic_id(*topics);
        let halves = [
            rd_kafka_Uuid_most_significant_bits(id),
            rd_kafka_Uuid_least_significant_bits(id),
        ];
        let id = (u128::from(halves[0] as u64) << 64) | u128::from(halves[1] as u64);
        Ok(Some(Topic {
            // Zero means none: the broker, or the format of its metadata, is older than topic ids.
            id: (id != 0).then(|| id.to_be_bytes()),
        }))
    }
}
