//! `user.updated` through Sluice against what others would use: Debezium's JDBC sink, which
//! upserts the same users, checks nothing and keeps no verdict.

mod connect;
mod update;

use comfy_table::Table;
use serde_json::Value;

use crate::Measured;
use crate::domain::event::sample;
use crate::ingester::Ingester;
use crate::kafka::{Kafka, Record};
use crate::measure::report::{grouped, ratio, right_aligned, table};
use crate::measure::sample::{Sample, Spread};
use crate::stack::{Result, Stack};

use self::connect::{Connect, Setup};
use self::update::{PARTITIONS, USERS_EACH, Update, Updates};

pub const DEFAULT_ROUNDS: usize = 3;
/// Before the first that counts: Java takes long to reach its speed.
const WARM_UP_ROUNDS: usize = 3;
/// Updates of one partition that wait for each side.
const UPDATES_EACH: u64 = 37_500;
const TOPIC: &str = "user.updated";

/// Measures all, and answers with the table.
pub async fn run(stack: &Stack, rounds: usize) -> Result<Measured> {
    let machine = stack.machine().await?;
    create_users(stack).await?;
    let mut bench = Bench::new(stack).await?;
    let (mut sluice, mut debezium) = (Vec::new(), [Vec::new(), Vec::new()]);
    for round in 0..WARM_UP_ROUNDS + rounds {
        let (ours, theirs) = bench.round(round).await?;
        eprintln!(
            "round {round}: Sluice {:.0}/s, Debezium plain {:.0}/s, tuned {:.0}/s",
            ours.rate(),
            theirs[0].rate(),
            theirs[1].rate()
        );
        if round >= WARM_UP_ROUNDS {
            sluice.push(ours);
            for (samples, sample) in debezium.iter_mut().zip(theirs) {
                samples.push(sample);
            }
        }
    }
    let ratios = debezium
        .each_ref()
        .map(|theirs| Spread::of_ratios(&sluice, theirs));
    let text = format!(
        "Measured on {}; minimum / median / maximum of {rounds} rounds after {WARM_UP_ROUNDS} to warm up.\n\n{}\n\n{}",
        machine.date,
        machine.list(),
        show(&sluice, &debezium, ratios)
    );
    let [plain, _] = ratios;
    let figures = vec![("debezium", plain)];
    Ok(Measured::of(text, figures))
}

fn show(sluice: &[Sample], debezium: &[Vec<Sample>; 2], ratios: [Spread; 2]) -> Table {
    let mut table = table(&["`user.updated`", "updates/s", "Sluice ÷ it"]);
    let rate = |samples: &[Sample]| Spread::of_rates(samples).show(grouped);
    table.add_row(["Sluice", &rate(sluice), ""]);
    for ((setup, samples), to_it) in Setup::ALL.into_iter().zip(debezium).zip(ratios) {
        let name = format!("Debezium, {}", setup.name());
        table.add_row([name, rate(samples), to_it.show(ratio)]);
    }
    right_aligned(table)
}

struct Bench<'a> {
    stack: &'a Stack,
    sample: Value,
    updates: Updates,
    /// Updates that all have done.
    done: i64,
    kafka: Kafka,
    /// They run all the time, or Java would begin anew.
    connects: [Connect; 2],
    /// So that they see their records all at once.
    connect_kafka: Kafka,
}

impl<'a> Bench<'a> {
    async fn new(stack: &'a Stack) -> Result<Self> {
        let kafka = Kafka::connect(stack)?;
        let [plain, tuned] = Setup::ALL;
        kafka
            .create_topics([TOPIC, &plain.target(), &tuned.target()], PARTITIONS as i32)
            .await?;
        Ok(Self {
            stack,
            sample: sample(stack, TOPIC)?,
            updates: Updates::new(),
            done: 0,
            kafka,
            connects: [Connect::start(stack, plain)?, Connect::start(stack, tuned)?],
            connect_kafka: Kafka::transactional(stack, "bench-peers")?,
        })
    }

    /// All the same updates, each side after the other.
    async fn round(&mut self, round: usize) -> Result<(Sample, [Sample; 2])> {
        let updates = self.updates.take(UPDATES_EACH);
        let (sluice, plain, tuned);
        // Whoever comes first meets a quieter disk, so they take turns at that.
        if round.is_multiple_of(2) {
            sluice = self.sluice(&updates).await?;
            plain = self.debezium(0, &updates).await?;
            tuned = self.debezium(1, &updates).await?;
        } else {
            tuned = self.debezium(1, &updates).await?;
            plain = self.debezium(0, &updates).await?;
            sluice = self.sluice(&updates).await?;
        }
        self.done += updates.len() as i64;
        for setup in Setup::ALL {
            compare_users(self.stack, setup).await?;
        }
        Ok((sluice, [plain, tuned]))
    }

    async fn sluice(&self, updates: &[Update]) -> Result<Sample> {
        let (from, to) = (self.done, self.done + updates.len() as i64);
        tokio::task::block_in_place(|| {
            produce(&self.kafka, TOPIC, updates, |update| {
                update.event(&self.sample)
            })
        })?;
        let mut ingester = Ingester::start(self.stack, "", TOPIC, None)?;
        let sample = ingester.drain(self.stack, &[TOPIC], from, to).await?;
        ingester.stop();
        let admin = self.stack.admin().await?;
        let verdicts =
            "SELECT count(*) FROM ledger.event_verdicts WHERE topic = $1 AND verdict = 'APPLIED'";
        let applied: i64 = admin.query_one(verdicts, &[&TOPIC]).await?.get(0);
        if applied != to {
            return Err(format!("Sluice applied {applied} of {to} events").into());
        }
        Ok(sample)
    }

    async fn debezium(&mut self, which: usize, updates: &[Update]) -> Result<Sample> {
        let (from, to) = (self.done, self.done + updates.len() as i64);
        let (kafka, connect) = (&self.connect_kafka, &mut self.connects[which]);
        let setup = connect.setup;
        tokio::task::block_in_place(|| {
            kafka.at_once(|| {
                produce(kafka, &setup.target(), updates, |update| {
                    setup.payload(update)
                })
            })
        })?;
        connect.drain(self.stack, from, to).await
    }
}

fn produce(
    kafka: &Kafka,
    topic: &str,
    updates: &[Update],
    payload: impl Fn(&Update) -> Vec<u8>,
) -> Result<()> {
    // In parts, for the payloads take room.
    for part in updates.chunks(10_000) {
        let sent: Vec<(i32, String, Vec<u8>)> = part
            .iter()
            .map(|update| (update.partition as i32, update.user_id(), payload(update)))
            .collect();
        kafka.produce(sent.iter().map(|(partition, key, payload)| Record {
            topic,
            partition: *partition,
            key: key.as_bytes(),
            payload,
        }))?;
    }
    Ok(())
}

/// The same users for all.
async fn create_users(stack: &Stack) -> Result<()> {
    let admin = stack.admin().await?;
    let users = PARTITIONS * USERS_EACH;
    admin
        .batch_execute(&format!(
            "INSERT INTO domain.users (user_id, username, email, role, display_name, created_at, created_version)
             SELECT 'usr_' || n, 'user' || n, 'user' || n || '@example.com', 'USER', 'Ada Lovelace 0', now(), decode(repeat('00', 24), 'hex')
             FROM generate_series(0, {users} - 1) n;
             CREATE SCHEMA debezium"
        ))
        .await?;
    let [plain, tuned] = Setup::ALL.map(Setup::target);
    for table in [&plain, &tuned] {
        admin
            .batch_execute(&format!(
                "CREATE TABLE {table} (user_id text COLLATE \"C\" PRIMARY KEY, display_name text, bio text) WITH (fillfactor = 85);
                 INSERT INTO {table} SELECT user_id, display_name, bio FROM domain.users"
            ))
            .await?;
    }
    for table in ["domain.users", &plain, &tuned] {
        admin
            .batch_execute(&format!("VACUUM (FREEZE, ANALYZE) {table}"))
            .await?;
    }
    Ok(())
}

/// That Sluice and Debezium left the same.
async fn compare_users(stack: &Stack, setup: Setup) -> Result<()> {
    let admin = stack.admin().await?;
    let query = format!(
        "SELECT count(*) FROM domain.users s FULL JOIN {} d USING (user_id)
         WHERE (s.display_name, s.bio) IS DISTINCT FROM (d.display_name, d.bio)",
        setup.target()
    );
    let differing: i64 = admin.query_one(&query, &[]).await?.get(0);
    if differing == 0 {
        return Ok(());
    }
    Err(format!("{differing} users of {} are not Sluice's", setup.target()).into())
}
