"""Publishes a credit for each account that is named, then prints the verdicts of these events.

    pip install -r requirements.txt
    KAFKA_BROKERS=localhost:9092 RESULTS_TOPIC=results python3 publish.py 42 7
"""

import json
import os
import sys
import time
import uuid
from datetime import datetime, timezone

from confluent_kafka import Consumer, KafkaException, Producer

BROKERS = os.environ["KAFKA_BROKERS"]
TOPIC = os.environ.get("BALANCE_TOPIC", "balance.changed")
RESULTS_TOPIC = os.environ.get("RESULTS_TOPIC")
SOURCE = "sample-python"


def credit(account_id, amount):
    """The id and the bytes of an event. Store both with what the event is about, before sending: a retry sends the same
    bytes again, and Sluice applies them once."""
    event_id = str(uuid.uuid4())
    event = {
        "eventId": event_id,
        "eventType": "balance.changed",
        "timestamp": datetime.now(timezone.utc).isoformat(),
        "source": SOURCE,
        "data": {
            "accountId": account_id,
            # A string: a float would not hold every amount.
            "changes": [{"currencyCode": "USD", "availableDelta": amount}],
        },
    }
    return event_id, json.dumps(event).encode()


def send(producer, key, payload):
    """Sends until Kafka has the event on all its in-sync replicas."""
    while True:
        reports = []
        producer.produce(TOPIC, key=key, value=payload, on_delivery=lambda *report: reports.append(report))
        producer.flush()
        error, message = reports[0]
        if error is None:
            return message
        if not error.retriable() and error.code() != error._MSG_TIMED_OUT:
            raise KafkaException(error)
        # Not known whether Kafka has it: the same bytes again.
        time.sleep(1)


def print_verdicts(sent):
    """Reads results from the beginning until each event sent has its verdict. A service that runs for long has one
    group.id for good, and commits what it has dealt with."""
    consumer = Consumer(
        {
            "bootstrap.servers": BROKERS,
            "group.id": f"{SOURCE}-{uuid.uuid4()}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([RESULTS_TOPIC])
    deadline = time.monotonic() + 60
    while sent and time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        result = json.loads(message.value())
        # A result may come twice, and other services have theirs here, too.
        if result["source"] == SOURCE and result["eventId"] in sent:
            sent.remove(result["eventId"])
            print("verdict", result["eventId"], result["verdict"], result["reason"] or "")
    consumer.close()
    if sent:
        sys.exit(f"no verdict within a minute: {', '.join(sent)}")


def main():
    producer = Producer(
        {
            "bootstrap.servers": BROKERS,
            # No record is lost or written twice by this producer, and none overtakes another.
            "enable.idempotence": True,
            "acks": "all",
            # The partition that Java's clients choose for a key; librdkafka's default is another one.
            "partitioner": "murmur2_random",
        }
    )
    sent = set()
    for argument in sys.argv[1:]:
        account_id = int(argument)
        event_id, payload = credit(account_id, "1.00")
        message = send(producer, str(account_id), payload)
        print("sent", event_id, "account", account_id, "partition", message.partition())
        sent.add(event_id)
    if RESULTS_TOPIC:
        print_verdicts(sent)


main()
