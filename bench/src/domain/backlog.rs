//! Records that wait in Kafka, and what the database must say of them afterwards.

use crate::kafka::{Kafka, Record};
use crate::stack::{Result, Stack};

use super::event::{Event, POISON_EVERY, Poison, Stream};

/// A part of one topic.
pub struct Span {
    pub topic: &'static str,
    pub from_offset: i64,
    pub to_offset: i64,
}

pub struct Backlog {
    pub spans: Vec<Span>,
    poison: Option<Poison>,
}

impl Backlog {
    /// Appends as many events of each stream to its topic, a poison one among each ten where there is poison.
    pub fn fill(
        kafka: &Kafka,
        streams: &mut [Stream],
        events_each: usize,
        poison: Option<Poison>,
    ) -> Result<Self> {
        assert!((events_each as u64).is_multiple_of(POISON_EVERY));
        let spans = streams.iter_mut().map(|stream| {
            let topic = stream.event_type.name;
            let events: Vec<Event> = stream.take(events_each, poison);
            let from_offset = kafka.end(topic)?;
            kafka.produce(events.iter().map(|event| Record {
                topic,
                partition: 0,
                key: event.key.as_bytes(),
                payload: &event.payload,
            }))?;
            let to_offset = kafka.end(topic)?;
            if to_offset - from_offset != events_each as i64 {
                let found = to_offset - from_offset;
                return Err(format!("{topic} has {found} new records, not {events_each}").into());
            }
            Ok(Span {
                topic,
                from_offset,
                to_offset,
            })
        });
        Ok(Self {
            spans: spans.collect::<Result<_>>()?,
            poison,
        })
    }

    pub fn topics(&self) -> Vec<&'static str> {
        self.spans.iter().map(|span| span.topic).collect()
    }

    pub fn first_offset(&self) -> i64 {
        self.spans.iter().map(|span| span.from_offset).sum()
    }

    pub fn next_offset(&self) -> i64 {
        self.spans.iter().map(|span| span.to_offset).sum()
    }

    pub fn events(&self) -> i64 {
        self.next_offset() - self.first_offset()
    }

    /// That every event was applied, and every poison one is dead.
    pub async fn check(&self, stack: &Stack) -> Result<()> {
        let dead = match self.poison {
            None => 0,
            Some(_) => self.events() / POISON_EVERY as i64,
        };
        let mut expected = vec![("APPLIED".to_owned(), None, self.events() - dead)];
        if let Some(poison) = self.poison {
            let reason = match poison {
                Poison::BreaksHandler => "HANDLER_FAILED",
                Poison::Malformed => "MALFORMED_JSON",
            };
            expected.push(("DEAD".to_owned(), Some(reason.to_owned()), dead));
        }
        let mut found: Vec<(String, Option<String>, i64)> = Vec::new();
        let rows = self
            .of_spans(
                stack,
                "SELECT v.verdict, v.reason, count(*)
                 FROM spans s JOIN ledger.event_verdicts v
                     ON v.topic = s.topic AND v.kafka_offset >= s.from_offset AND v.kafka_offset < s.to_offset
                 GROUP BY 1, 2 ORDER BY 1, 2",
            )
            .await?;
        for row in rows {
            found.push((row.get(0), row.get(1), row.get(2)));
        }
        if found == expected {
            return Ok(());
        }
        Err(format!(
            "verdicts of {:?}: {found:?}, expected {expected:?}",
            self.topics()
        )
        .into())
    }

    /// Dead letters that are yet to be tried again or to be produced to their topic.
    pub async fn unsettled(&self, stack: &Stack) -> Result<i64> {
        let rows = self
            .of_spans(
                stack,
                "SELECT count(*)
                 FROM spans s JOIN ledger.dead_letters d
                     ON d.topic = s.topic AND d.kafka_offset >= s.from_offset AND d.kafka_offset < s.to_offset
                 WHERE d.published_at IS NULL",
            )
            .await?;
        Ok(rows[0].get(0))
    }

    async fn of_spans(&self, stack: &Stack, query: &str) -> Result<Vec<tokio_postgres::Row>> {
        let spans = "WITH spans AS (SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS s (topic, from_offset, to_offset))";
        let from: Vec<i64> = self.spans.iter().map(|span| span.from_offset).collect();
        let to: Vec<i64> = self.spans.iter().map(|span| span.to_offset).collect();
        let admin = stack.admin().await?;
        let query = format!("{spans} {query}");
        Ok(admin.query(&query, &[&self.topics(), &from, &to]).await?)
    }
}
