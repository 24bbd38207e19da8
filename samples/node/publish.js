// Publishes a credit for each account that is named, then prints the verdicts of these events.
//
//   npm install
//   KAFKA_BROKERS=localhost:9092 RESULTS_TOPIC=results node publish.js 42 7
'use strict';

const { randomUUID } = require('node:crypto');
const { setTimeout: sleep } = require('node:timers/promises');
const { Kafka } = require('@confluentinc/kafka-javascript').KafkaJS;

const BROKERS = process.env.KAFKA_BROKERS;
const TOPIC = process.env.BALANCE_TOPIC ?? 'balance.changed';
const RESULTS_TOPIC = process.env.RESULTS_TOPIC;
const SOURCE = 'sample-node';

const kafka = new Kafka({ 'bootstrap.servers': BROKERS });

// The id and the bytes of an event. Store both with what the event is about, before sending: a retry sends the same
// bytes again, and Sluice applies them once.
function credit(accountId, amount) {
  const eventId = randomUUID();
  const event = {
    eventId,
    eventType: 'balance.changed',
    timestamp: new Date().toISOString(),
    source: SOURCE,
    data: {
      // Strings: a number of JavaScript holds neither every id nor every amount.
      accountId: String(accountId),
      changes: [{ currencyCode: 'USD', availableDelta: amount }],
    },
  };
  return { eventId, payload: Buffer.from(JSON.stringify(event)) };
}

// Sends until Kafka has the event on all its in-sync replicas.
async function send(producer, key, payload) {
  for (;;) {
    try {
      const [place] = await producer.send({ topic: TOPIC, messages: [{ key, value: payload }] });
      return place;
    } catch (error) {
      if (!error.retriable && error.type !== 'ERR__MSG_TIMED_OUT') throw error;
      // Not known whether Kafka has it: the same bytes again.
      await sleep(1000);
    }
  }
}

// Reads results from the beginning until each event sent has its verdict. A service that runs for long has one group.id
// for good, and commits what it has dealt with.
async function printVerdicts(sent) {
  const consumer = kafka.consumer({
    'group.id': `${SOURCE}-${randomUUID()}`,
    'auto.offset.reset': 'earliest',
    'enable.auto.commit': false,
  });
  await consumer.connect();
  await consumer.subscribe({ topic: RESULTS_TOPIC });
  const allTold = new Promise((resolve) => {
    consumer.run({
      eachMessage: async ({ message }) => {
        const result = JSON.parse(message.value.toString());
        // A result may come twice, and other services have theirs here, too.
        if (result.source === SOURCE && sent.delete(result.eventId)) {
          console.log('verdict', result.eventId, result.verdict, result.reason ?? '');
        }
        if (sent.size === 0) resolve();
      },
    });
  });
  await Promise.race([allTold, sleep(60_000, undefined, { ref: false })]);
  await consumer.disconnect();
  if (sent.size > 0) throw new Error(`no verdict within a minute: ${[...sent].join(', ')}`);
}

async function main() {
  const producer = kafka.producer({
    // No record is lost or written twice by this producer, and none overtakes another.
    'enable.idempotence': true,
    acks: -1,
    // The partition that Java's clients choose for a key; librdkafka's default is another one.
    partitioner: 'murmur2_random',
  });
  await producer.connect();
  const sent = new Set();
  for (const account of process.argv.slice(2)) {
    const { eventId, payload } = credit(account, '1.00');
    const place = await send(producer, account, payload);
    console.log('sent', eventId, 'account', account, 'partition', place.partition);
    sent.add(eventId);
  }
  await producer.disconnect();
  if (RESULTS_TOPIC) await printVerdicts(sent);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
