// Publishes a credit for each account that is named, then prints the verdicts of these events.
//
//	KAFKA_BROKERS=localhost:9092 RESULTS_TOPIC=results go run . 42 7
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const source = "sample-go"

type event struct {
	EventID   string    `json:"eventId"`
	EventType string    `json:"eventType"`
	Timestamp time.Time `json:"timestamp"`
	Source    string    `json:"source"`
	Data      data      `json:"data"`
}

type data struct {
	AccountID int64    `json:"accountId"`
	Changes   []change `json:"changes"`
}

type change struct {
	CurrencyCode string `json:"currencyCode"`
	// A string: a float would not hold every amount.
	AvailableDelta string `json:"availableDelta"`
}

type result struct {
	EventID *string `json:"eventId"`
	Source  *string `json:"source"`
	Verdict string  `json:"verdict"`
	Reason  *string `json:"reason"`
}

func environment(name, otherwise string) string {
	if value, isSet := os.LookupEnv(name); isSet {
		return value
	}
	return otherwise
}

// The id and the bytes of an event. Store both with what the event is about, before sending: a retry sends the same bytes
// again, and Sluice applies them once.
func credit(accountID int64, amount string) (string, []byte) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		log.Fatal(err)
	}
	id := hex.EncodeToString(random[:])
	changes := []change{{CurrencyCode: "USD", AvailableDelta: amount}}
	payload, err := json.Marshal(event{
		EventID: id, EventType: "balance.changed", Timestamp: time.Now().UTC(), Source: source,
		Data: data{AccountID: accountID, Changes: changes},
	})
	if err != nil {
		log.Fatal(err)
	}
	return id, payload
}

// Sends until Kafka has the event on all its in-sync replicas.
func send(client *kgo.Client, record *kgo.Record) (*kgo.Record, error) {
	for {
		sent, err := client.ProduceSync(context.Background(), record).First()
		if err == nil {
			return sent, nil
		}
		if !kerr.IsRetriable(err) && !errors.Is(err, kgo.ErrRecordTimeout) {
			return nil, err
		}
		// Not known whether Kafka has it: the same bytes again.
		time.Sleep(time.Second)
	}
}

// Reads results from the beginning until each event sent has its verdict. A service that runs for long reads them as a
// consumer group (kgo.ConsumerGroup), and commits what it has dealt with.
func printVerdicts(brokers, topic string, sent map[string]bool) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for len(sent) > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("no verdict within a minute of %d events", len(sent))
		}
		var failed error
		fetches.EachError(func(_ string, _ int32, err error) { failed = err })
		fetches.EachRecord(func(record *kgo.Record) {
			var told result
			if err := json.Unmarshal(record.Value, &told); err != nil {
				failed = err
				return
			}
			// A result may come twice, and other services have theirs here, too.
			if told.Source == nil || *told.Source != source || told.EventID == nil || !sent[*told.EventID] {
				return
			}
			delete(sent, *told.EventID)
			reason := ""
			if told.Reason != nil {
				reason = *told.Reason
			}
			fmt.Println("verdict", *told.EventID, told.Verdict, reason)
		})
		if failed != nil {
			return failed
		}
	}
	return nil
}

func main() {
	brokers := os.Getenv("KAFKA_BROKERS")
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(brokers, ",")...),
		kgo.DefaultProduceTopic(environment("BALANCE_TOPIC", "balance.changed")),
		// No record is lost or written twice by this producer, and none overtakes another. It is idempotent by default.
		kgo.RequiredAcks(kgo.AllISRAcks()),
		// The partition that Java's clients choose for a key: murmur2, which is the default.
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	sent := make(map[string]bool)
	for _, account := range os.Args[1:] {
		accountID, err := strconv.ParseInt(account, 10, 64)
		if err != nil {
			log.Fatal(err)
		}
		id, payload := credit(accountID, "1.00")
		record, err := send(client, &kgo.Record{Key: []byte(account), Value: payload})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("sent", id, "account", account, "partition", record.Partition)
		sent[id] = true
	}
	if topic := os.Getenv("RESULTS_TOPIC"); topic != "" {
		if err := printVerdicts(brokers, topic, sent); err != nil {
			log.Fatal(err)
		}
	}
}
