//! A broker that stops answers that its topics have no leader, and lists no broker at all.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sluice::config::kafka::{KafkaSettings, ResultsKey};
use sluice::kafka::client::Kafka;

const TOPIC: &str = "balances";
const METADATA: u16 = 3;
const API_VERSIONS: u16 = 18;
const NO_TAGS: u8 = 0;

/// A broker that can tell of one topic with one partition, and nothing else.
struct Broker {
    port: u16,
    is_stopping: Arc<AtomicBool>,
}

impl Broker {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let is_stopping = Arc::new(AtomicBool::new(false));
        let flag = is_stopping.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, flag) = (connection.expect("a client"), flag.clone());
                std::thread::spawn(move || {
                    // Ends with the client's connection.
                    let _ = serve(connection, port, &flag);
                });
            }
        });
        Self { port, is_stopping }
    }
}

fn serve(mut connection: TcpStream, port: u16, is_stopping: &AtomicBool) -> io::Result<()> {
    loop {
        let mut size = [0; 4];
        connection.read_exact(&mut size)?;
        let mut request = vec![0; u32::from_be_bytes(size) as usize];
        connection.read_exact(&mut request)?;
        let number = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let mut answer = request[4..8].to_vec(); // the correlation id
        answer.extend(match (number(0), number(2)) {
            (API_VERSIONS, 3) => versions(),
            (METADATA, 1) => metadata(port, is_stopping.load(Ordering::SeqCst)),
            other => panic!("API and version that we do not offer: {other:?}"),
        });
        connection.write_all(&(answer.len() as u32).to_be_bytes())?;
        connection.write_all(&answer)?;
    }
}

/// Version 3 of Kafka's answer: no error, two APIs with the least and the highest version of each, throttling.
fn versions() -> Vec<u8> {
    let api = |api: u16, highest: u8| {
        let [high, low] = api.to_be_bytes();
        [high, low, 0, 0, 0, highest, NO_TAGS]
    };
    let apis = [api(API_VERSIONS, 3), api(METADATA, 1)].concat();
    [vec![0, 0, 3], apis, vec![0, 0, 0, 0, NO_TAGS]].concat()
}

/// Version 1 of Kafka's answer: brokers, controller, topics.
fn metadata(port: u16, is_stopping: bool) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
    let int = |number: i32| number.to_be_bytes().to_vec();
    let node = if is_stopping { -1 } else { 1 };
    let null = vec![0xFF, 0xFF];
    let brokers = if is_stopping {
        int(0)
    } else {
        [int(1), int(node), text("127.0.0.1"), int(port.into()), null].concat()
    };
    let partition = [
        vec![0, 0],
        int(0),
        int(node),
        int(1),
        int(1),
        int(1),
        int(1),
    ]
    .concat();
    let topic = [vec![0, 0], text(TOPIC), vec![0], int(1), partition].concat();
    [brokers, int(node), int(1), topic].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_its_only_broker_again_after_it_named_none() {
    let broker = Broker::start();
    let settings = KafkaSettings {
        brokers: format!("127.0.0.1:{}", broker.port),
        client_id: "test".into(),
        group_id: "test".into(),
        balance_topics: vec![],
        awaits_balance_topics: false,
        event_topics: None,
        dlq_topic: None,
        results_topic: None,
        results_key: ResultsKey::Partition,
        properties: BTreeMap::new(),
    };
    let kafka = Arc::new(Kafka::connect(&settings, Arc::default()).expect("settings that fit"));
    kafka.serve();
    assert_eq!(kafka.partition_count(TOPIC).await, Ok(Some(1)));

    broker.is_stopping.store(true, Ordering::SeqCst);
    assert_eq!(kafka.partition_count(TOPIC).await, Ok(Some(1)));
    broker.is_stopping.store(false, Ordering::SeqCst);
    let start = Instant::now();
    while kafka.partition_count(TOPIC).await != Ok(Some(1)) {
        assert!(start.elapsed() < Duration::from_secs(30), "it asks again");
    }
}
