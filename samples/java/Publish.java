// Publishes a credit for each account that is named, then prints the verdicts of these events.
//
//   KAFKA_BROKERS=localhost:9092 RESULTS_TOPIC=results mvn -q compile exec:java -Dexec.args="42 7"

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.math.BigDecimal;
import java.time.Duration;
import java.time.Instant;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class Publish {
    static final String BROKERS = System.getenv("KAFKA_BROKERS");
    static final String TOPIC = System.getenv().getOrDefault("BALANCE_TOPIC", "balance.changed");
    static final String RESULTS_TOPIC = System.getenv("RESULTS_TOPIC");
    static final String SOURCE = "sample-java";
    static final ObjectMapper JSON = new ObjectMapper();

    /**
     * The id and the bytes of an event. Store both with what the event is about, before sending: a retry sends the same
     * bytes again, and Sluice applies them once.
     */
    record Event(String id, byte[] payload) {
        static Event credit(long accountId, BigDecimal amount) throws Exception {
            String id = UUID.randomUUID().toString();
            // A string: a double would not hold every amount.
            Map<String, Object> change = Map.of("currencyCode", "USD", "availableDelta", amount.toPlainString());
            Map<String, Object> event = Map.of(
                "eventId", id,
                "eventType", "balance.changed",
                "timestamp", Instant.now().toString(),
                "source", SOURCE,
                "data", Map.of("accountId", accountId, "changes", List.of(change)));
            return new Event(id, JSON.writeValueAsBytes(event));
        }
    }

    /** Sends until Kafka has the event on all its in-sync replicas. */
    static RecordMetadata send(KafkaProducer<String, byte[]> producer, String key, byte[] payload) throws Exception {
        while (true) {
            try {
                return producer.send(new ProducerRecord<>(TOPIC, key, payload)).get();
            } catch (ExecutionException failed) {
                if (!(failed.getCause() instanceof RetriableException)) {
                    throw failed;
                }
                // Not known whether Kafka has it: the same bytes again.
                Thread.sleep(1000);
            }
        }
    }

    /**
     * Reads results from the beginning until each event sent has its verdict. A service that runs for long has one
     * group.id for good, and commits what it has dealt with.
     */
    static void printVerdicts(Set<String> sent) throws Exception {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", BROKERS,
            "group.id", SOURCE + "-" + UUID.randomUUID(),
            "auto.offset.reset", "earliest",
            "enable.auto.commit", "false");
        Instant deadline = Instant.now().plusSeconds(60);
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(RESULTS_TOPIC));
            while (!sent.isEmpty() && Instant.now().isBefore(deadline)) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    JsonNode result = JSON.readTree(record.value());
                    // A result may come twice, and other services have theirs here, too.
                    String id = result.get("eventId").asText();
                    if (result.get("source").asText().equals(SOURCE) && sent.remove(id)) {
                        System.out.println("verdict " + id + " " + result.get("verdict").asText()
                            + (result.get("reason").isNull() ? "" : " " + result.get("reason").asText()));
                    }
                }
            }
        }
        if (!sent.isEmpty()) {
            System.err.println("no verdict within a minute: " + String.join(", ", sent));
            System.exit(1);
        }
    }

    public static void main(String[] accounts) throws Exception {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", BROKERS,
            // No record is lost or written twice by this producer, and none overtakes another.
            "enable.idempotence", "true",
            "acks", "all");
        Set<String> sent = new HashSet<>();
        // The partition of a key is chosen by murmur2, as all samples do.
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new ByteArraySerializer())) {
            for (String account : accounts) {
                Event event = Event.credit(Long.parseLong(account), new BigDecimal("1.00"));
                RecordMetadata place = send(producer, account, event.payload());
                System.out.println("sent " + event.id() + " account " + account + " partition " + place.partition());
                sent.add(event.id());
            }
        }
        if (RESULTS_TOPIC != null) {
            printVerdicts(sent);
        }
    }
}
