//! Rows of `ledger.dead_letters` that are tried again: locked, read under their lock, and settled.

use std::rc::Rc;

use ledger::verdict::Verdict;
use pgrx::spi::SpiClient;

use crate::error::assert_count;
use crate::memory;
use crate::partition::PartitionName;
use crate::partition::fence::{self, Fenced};
use crate::spi::{internal, query, run};

// The lengths are known without reading the values.
const SIZE: &str = "
    SELECT sum(pg_catalog.octet_length(coalesce(d.retry_payload, d.payload, '')) + pg_catalog.octet_length(coalesce(d.key, '')))::bigint
    FROM ledger.dead_letters d WHERE d.id = ANY ($1)";

// A session that waited for a row sees its current state: letters that are no longer parked are left out. Letters are
// locked before progress rows, so that no batch waits while a replay waits for a locked letter.
const LOCK_LETTERS: &str = r#"
    SELECT d.id, d.topic, d.partition, d.kafka_offset, d.is_domain, d.owns_identity, d.record_time_ms, d.key,
        coalesce(d.retry_payload, d.payload)
    FROM ledger.dead_letters d
    WHERE d.id = ANY ($1) AND d.status = 'PARKED'
    ORDER BY d.topic COLLATE "C", d.partition, d.kafka_offset
    FOR UPDATE"#;

// A record that is parked behind another one was not tried. A failed correction is kept as well: with the identity that
// the letter owns now, it is what will be tried next.
const SETTLE: &str = "
    UPDATE ledger.dead_letters d
    SET status = CASE WHEN u.code IS NULL THEN 'REPLAYED' ELSE 'PARKED' END,
        error_code = coalesce(u.code, d.error_code), error_message = coalesce(u.message, d.error_message),
        attempts = d.attempts + CASE WHEN u.code = 'PARKED_BEHIND' THEN 0 ELSE 1 END,
        owns_identity = u.owns_identity, retry_payload = coalesce($5, d.retry_payload),
        updated_at = pg_catalog.clock_timestamp()
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::boolean[]) AS u (id, code, message, owns_identity)
    WHERE d.id = u.id AND d.status = 'PARKED'";

/// A parked letter under its lock.
pub struct Letter {
    pub id: i64,
    pub offset: i64,
    /// Whether it owns the identity of `payload`.
    pub owns_identity: bool,
    pub time_ms: i64,
    pub key: Option<Vec<u8>>,
    /// The payload to try next.
    pub payload: Option<Vec<u8>>,
}

/// Letters of one partition and of one kind, in offset order.
pub struct Part {
    pub topic: String,
    pub partition: i32,
    pub is_domain: bool,
    pub fenced: Rc<Fenced>,
    pub letters: Vec<Letter>,
}

impl Part {
    pub fn name(&self) -> PartitionName<'_> {
        PartitionName {
            topic: &self.topic,
            partition: self.partition,
        }
    }

    pub fn offsets(&self) -> Vec<i64> {
        self.letters.iter().map(|letter| letter.offset).collect()
    }
}

/// The outcome of a try.
pub struct Settled {
    pub id: i64,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub verdict: Verdict,
    pub reason: Option<&'static str>,
    /// Why it stays a dead letter.
    pub message: Option<String>,
    pub owns_identity: bool,
}

/// Locks those of `ids` that are parked, then the progress rows of their partitions.
pub fn lock(client: &mut SpiClient<'_>, ids: &[i64]) -> Vec<Part> {
    let args = [ids.to_vec().into()];
    let size = client
        .select(SIZE, None, &args)
        .unwrap_or_else(internal)
        .first()
        .get_one::<i64>()
        .unwrap_or_else(internal)
        .unwrap_or_default() as usize;
    memory::ensure(ids.len() * memory::BYTES_PER_ROW + size * memory::COPIES);
    let rows = query(client, LOCK_LETTERS, &args);
    let fenced = fence::lock_of_letters(client, ids);
    let mut parts: Vec<Part> = Vec::new();
    for row in rows {
        let topic: String = row.get(2).unwrap_or_else(internal).unwrap_or_default();
        let partition: i32 = row.get(3).unwrap_or_else(internal).unwrap_or_default();
        let is_domain = row.get(5).unwrap_or_else(internal) == Some(true);
        let letter = Letter {
            id: row.get(1).unwrap_or_else(internal).unwrap_or_default(),
            offset: row.get(4).unwrap_or_else(internal).unwrap_or_default(),
            owns_identity: row.get(6).unwrap_or_else(internal) == Some(true),
            time_ms: row.get(7).unwrap_or_else(internal).unwrap_or_default(),
            key: row.get(8).unwrap_or_else(internal),
            payload: row.get(9).unwrap_or_else(internal),
        };
        let is_its = |part: &&mut Part| {
            part.topic == topic && part.partition == partition && part.is_domain == is_domain
        };
        match parts.iter_mut().rev().take(2).find(is_its) {
            Some(part) => part.letters.push(letter),
            None => parts.push(Part {
                fenced: fenced[&(topic.clone(), partition)].clone(),
                topic,
                partition,
                is_domain,
                letters: vec![letter],
            }),
        }
    }
    parts
}

/// Writes the outcomes of the letters; a correction belongs to the only letter.
pub fn settle(client: &mut SpiClient<'_>, settled: &[Settled], correction: Option<&[u8]>) {
    let ids: Vec<i64> = settled.iter().map(|letter| letter.id).collect();
    let own: Vec<bool> = settled.iter().map(|letter| letter.owns_identity).collect();
    let codes = settled
        .iter()
        .map(|letter| letter.reason.filter(|_| letter.verdict == Verdict::Dead));
    let codes: Vec<Option<&str>> = codes.collect();
    let messages = settled.iter().map(|letter| letter.message.as_deref());
    let messages: Vec<Option<&str>> = messages.collect();
    let args = [
        ids.into(),
        codes.into(),
        messages.into(),
        own.into(),
        correction.into(),
    ];
    let written = run(client, SETTLE, &args);
    assert_count("dead letters settled", written as i64, settled.len() as i64);
}
