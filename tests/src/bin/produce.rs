//! `produce TOPIC`: makes the topic, of one partition, and sends each line of stdin as a record.

use proofs::stack::Stack;
use proofs::workload::Message;

#[tokio::main]
async fn main() {
    let topic = std::env::args().nth(1).expect("usage: produce TOPIC");
    let kafka = Stack::get().kafka;
    kafka.create_topic(&topic, 1, &[]).await;
    let lines = std::io::stdin().lines();
    let records = lines.map(|line| Message::of(line.expect("text")));
    kafka.produce(&topic, 0, records);
}
