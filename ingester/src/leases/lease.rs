//! Leadership of partitions: a leader's lease, and the two long-lived sessions through which
//! leases are acquired, renewed and released, separate from all writes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ledger::contract::RELEASED_CHANNEL;
use tokio::sync::mpsc;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Row};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use crate::batch::record::Known;
use crate::leases::shares::{Barrier, Survey};
use crate::leases::token::{FencingToken, LeaseId};
use crate::partition::Partition;
use crate::postgres::database::Database;
use crate::postgres::pool::{AskError, Pool};

/// Proof of having acquired a partition. Only [`Session::acquire`] makes one.
#[derive(Debug)]
pub struct Leadership {
    pub fencing_token: FencingToken,
    pub lease_id: LeaseId,
    pub commit_offset: i64,
    /// Nothing may be sent after this moment of our own monotonic clock.
    deadline: Mutex<Instant>,
    lost: CancellationToken,
}

impl Leadership {
    /// Completes once the lease has expired or is known to be lost.
    pub async fn ended(&self) {
        loop {
            let deadline = self.deadline();
            if Instant::now() >= deadline {
                return;
            }
            tokio::select! {
                () = self.lost.cancelled() => return,
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
        }
    }

    /// Whether it has expired or is known to be lost.
    pub fn is_over(&self) -> bool {
        self.lost.is_cancelled() || Instant::now() >= self.deadline()
    }

    pub fn lose(&self) {
        self.lost.cancel();
    }

    fn deadline(&self) -> Instant {
        *self.deadline.lock().expect("no panic while held")
    }

    fn extend(&self, deadline: Instant) {
        *self.deadline.lock().expect("no panic while held") = deadline;
    }
}

/// A partition that is led.
pub type Held = (Partition, Arc<Leadership>);

/// Those of `led` that are among the partitions which `statement` returns.
pub async fn led_among(pool: &Pool, led: &[Held], statement: &str) -> Result<Vec<Held>, String> {
    if led.is_empty() {
        return Ok(Vec::new());
    }
    let asked = async {
        let client = pool.get().await.map_err(AskError::of_pool)?;
        client.answer(client.query(statement, &[])).await
    };
    let rows = asked.await.map_err(|failed| failed.describe())?;
    let held = rows.iter().filter_map(|row| {
        let (topic, number) = (row.get(0), row.get(1));
        let partition = Partition { topic, number };
        led.iter().find(|held| held.0 == partition).cloned()
    });
    Ok(held.collect())
}

/// The leadership that was acquired.
pub struct Acquired {
    pub partition: Partition,
    pub leadership: Leadership,
    pub position: Position,
}

// Rows come in the order of the arguments. A lease that another transaction has locked keeps its expiry.
const RENEW: &str = "
    SELECT until IS NOT NULL, until >= now() + $5 * interval '1 ms'
    FROM (
        SELECT n, sluice.renew_partition_lock(u.topic, u.partition, u.token, u.lease, $5 * interval '1 ms') AS until
        FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS u (topic, partition, token, lease, n) OFFSET 0
    ) renewed ORDER BY n";

const RELEASE: &str = "
    SELECT sluice.release_partition_lock(u.topic, u.partition, u.token, u.lease)
    FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS u (topic, partition, token, lease, n) ORDER BY n";

// One statement for everything that a round needs. The heartbeat comes first, so that this instance counts itself.
const SURVEY: &str = "
    WITH beat AS MATERIALIZED (SELECT sluice.heartbeat($1, $2, $3 * interval '1 ms') AS mine)
    SELECT l.topic, l.partition, l.leader_svc_id, NULL::text[], beat.mine, l.paused_reason, l.stepped_down_svc_id, h.reason
    FROM beat LEFT JOIN ledger.partition_leader_locks l ON l.topic = ANY ($2)
    LEFT JOIN ledger.partition_halts h USING (topic, partition)
    UNION ALL
    SELECT NULL, NULL, i.service_id, i.topics, NULL, NULL, NULL, NULL FROM ledger.live_instances i WHERE i.topics && $2";

const ACQUIRE: &str = "
    SELECT acquired, fencing_token, lease_id, commit_offset, leader_svc_id
    FROM sluice.acquire_partition_lock($1, $2, $3, $4 * interval '1 ms')";

const START_TOPICS: &str = "SELECT topic, partitions_at_first FROM sluice.start_topics($1, $2)";

const POSITION: &str = "
    SELECT is_started, last_record, last_offset, topic_id, is_accepted, halt_reason
    FROM sluice.partition_position($1, $2)";

const STEPPED_DOWN: &str = "
    SELECT l.topic, l.partition FROM ledger.partition_leader_locks l
    WHERE l.topic = ANY ($1) AND l.stepped_down_svc_id = $2";

/// What the database knows of a partition's past.
#[derive(Debug, Clone)]
pub struct Position {
    pub started: bool,
    pub last_record: Option<Known>,
    /// The id of the topic that was read, where the broker gives one.
    pub topic_id: Option<Uuid>,
    /// An operator has accepted the topic, and no record was committed since.
    pub is_accepted: bool,
    /// The reason of its halt, which only an operator ends.
    pub halted: Option<String>,
}

impl Position {
    fn of(row: &Row) -> Self {
        let last: (Option<Uuid>, Option<i64>) = (row.get(1), row.get(2));
        let last_record = match last {
            (Some(fingerprint), Some(offset)) => Some(Known {
                offset,
                fingerprint: fingerprint.into_bytes(),
            }),
            _ => None,
        };
        Self {
            started: row.get(0),
            last_record,
            topic_id: row.get(3),
            is_accepted: row.get(4),
            halted: row.get(5),
        }
    }
}

/// One of the two control connections.
pub struct Session {
    client: Client,
    lease: Duration,
}

impl Session {
    /// Connects; `wake` is notified of released partitions.
    pub async fn open(
        database: &Database,
        lease: Duration,
        wake: Option<mpsc::Sender<()>>,
    ) -> Result<Self, tokio_postgres::Error> {
        let listen = wake.is_some();
        let on_message = move |message| {
            if let (AsyncMessage::Notification(_), Some(wake)) = (message, &wake) {
                // Full means that a wake-up is pending already.
                let _ = wake.try_send(());
            }
        };
        let client = database.connect(on_message).await?;
        if listen {
            // The session that sends the heartbeats says its version, for those who look at all instances.
            let version = env!("CARGO_PKG_VERSION");
            let introduction = format!(
                "LISTEN {RELEASED_CHANNEL};
                 SELECT set_config('application_name',
                    regexp_replace(current_setting('application_name'), '^sluice/', 'sluice/{version} '), false)"
            );
            client.batch_execute(&introduction).await?;
        }
        Ok(Self { client, lease })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    fn lease_ms(&self) -> i64 {
        self.lease.as_millis() as i64
    }

    /// Renews all leases in one statement; lost ones are marked as such.
    pub async fn renew(&self, held: &[Held]) -> Result<(), tokio_postgres::Error> {
        let deadline = Instant::now() + self.lease;
        let columns = Columns::of(held);
        let lease_ms = self.lease_ms();
        let mut parameters = columns.parameters().to_vec();
        parameters.push((&lease_ms, Type::INT8));
        let rows = self.client.query_typed(RENEW, &parameters).await?;
        fault_point!("lease.renewed");
        for (row, (partition, leadership)) in rows.iter().zip(held) {
            match (row.get(0), row.get(1)) {
                (true, Some(true)) => leadership.extend(deadline),
                (true, _) => debug!(%partition, "not renewed: another transaction holds its lease"),
                (false, _) => leadership.lose(),
            }
        }
        Ok(())
    }

    /// Sends the heartbeat, and reads the survey.
    pub async fn survey(
        &self,
        service_id: &str,
        topics: &[String],
    ) -> Result<Survey, tokio_postgres::Error> {
        let mut survey = Survey::default();
        // It loses its share before its leases expire, so that nobody waits for a frozen instance twice.
        let heartbeat_ms = self.lease_ms() * 2 / 3;
        for row in self
            .client
            .query_typed(
                SURVEY,
                &[
                    (&service_id, Type::TEXT),
                    (&topics, Type::TEXT_ARRAY),
                    (&heartbeat_ms, Type::INT8),
                ],
            )
            .await?
        {
            let name: Option<String> = row.get(2);
            match (row.get::<_, Option<bool>>(4), name) {
                (None, Some(name)) => {
                    let topics: Vec<String> = row.get(3);
                    survey.instances.insert(name, topics.into_iter().collect());
                }
                (mine, leader) => {
                    survey.name_is_ours = mine == Some(true);
                    if let (Some(topic), Some(number)) = (row.get(0), row.get(1)) {
                        let partition = Partition { topic, number };
                        let halt: Option<String> = row.get(7);
                        let pause: Option<String> = row.get(5);
                        if let Some(barrier) = halt.map(Barrier::Halt).or(pause.map(Barrier::Pause))
                        {
                            survey.barriers.insert(partition.clone(), barrier);
                        }
                        if let Some(former) = row.get(6) {
                            survey.stepped_down.insert(partition.clone(), former);
                        }
                        if let Some(leader) = leader {
                            survey.leaders.insert(partition, leader);
                        }
                    }
                }
            }
        }
        Ok(survey)
    }

    /// How many partitions each topic had when Sluice first started on it, unless that is now.
    pub async fn start_topics(
        &self,
        counts: &BTreeMap<String, i32>,
    ) -> Result<Vec<(String, i32)>, tokio_postgres::Error> {
        let topics: Vec<&str> = counts.keys().map(String::as_str).collect();
        let partitions: Vec<i32> = counts.values().copied().collect();
        let arguments: [(&(dyn ToSql + Sync), Type); 2] =
            [(&topics, Type::TEXT_ARRAY), (&partitions, Type::INT4_ARRAY)];
        let rows = self.client.query_typed(START_TOPICS, &arguments).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Tries to become leader; `None` when another instance is.
    pub async fn acquire(
        &self,
        partition: Partition,
        service_id: &str,
    ) -> (Partition, Result<Option<Acquired>, tokio_postgres::Error>) {
        let acquired = self.try_acquire(partition.clone(), service_id).await;
        (partition, acquired)
    }

    async fn try_acquire(
        &self,
        partition: Partition,
        service_id: &str,
    ) -> Result<Option<Acquired>, tokio_postgres::Error> {
        let sent = Instant::now();
        let lease_ms = self.lease_ms();
        let (topic, number) = (
            (&partition.topic as _, Type::TEXT),
            (&partition.number as _, Type::INT4),
        );
        // Sent together; the second statement sees what the first has committed.
        let acquire = [
            topic.clone(),
            number.clone(),
            (&service_id as _, Type::TEXT),
            (&lease_ms as _, Type::INT8),
        ];
        let at = [topic, number];
        let (acquired, position) = tokio::try_join!(
            self.client.query_typed(ACQUIRE, &acquire),
            self.client.query_typed(POSITION, &at)
        )?;
        fault_point!("lease.acquired");
        let (Some(row), Some(position)) = (acquired.first(), position.first()) else {
            return Ok(None);
        };
        if !row.get::<_, bool>(0) {
            debug!(%partition, leader = row.get::<_, Option<&str>>(4), "not acquired");
            return Ok(None);
        }
        let position = Position::of(position);
        let leadership = Leadership {
            fencing_token: row.get(1),
            lease_id: row.get(2),
            commit_offset: row.get(3),
            deadline: Mutex::new(sent + self.lease),
            lost: CancellationToken::new(),
        };
        Ok(Some(Acquired {
            partition,
            leadership,
            position,
        }))
    }

    /// Releases leaderships; returns for each whether it was still ours.
    pub async fn release(&self, held: &[Held]) -> Result<Vec<bool>, tokio_postgres::Error> {
        let columns = Columns::of(held);
        fault_point!("lease.release");
        let rows = self
            .client
            .query_typed(RELEASE, &columns.parameters())
            .await?;
        fault_point!("lease.released");
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Those of `partitions` that an operator has taken from `service_id`.
    pub async fn stepped_down(
        &self,
        service_id: &str,
        partitions: &[&Partition],
    ) -> Result<Vec<Partition>, tokio_postgres::Error> {
        let topics: Vec<&str> = partitions.iter().map(|one| one.topic.as_str()).collect();
        let rows = self
            .client
            .query_typed(
                STEPPED_DOWN,
                &[(&topics, Type::TEXT_ARRAY), (&service_id, Type::TEXT)],
            )
            .await?;
        let named = |row: &Row| Partition {
            topic: row.get(0),
            number: row.get(1),
        };
        Ok(rows.iter().map(named).collect())
    }

    pub async fn leave(&self, service_id: &str) -> Result<(), tokio_postgres::Error> {
        self.client
            .query_typed("SELECT sluice.leave($1)", &[(&service_id, Type::TEXT)])
            .await
            .map(drop)
    }
}

/// Leaderships as the columns of `unnest`.
struct Columns<'a> {
    topics: Vec<&'a str>,
    numbers: Vec<i32>,
    tokens: Vec<FencingToken>,
    leases: Vec<LeaseId>,
}

impl<'a> Columns<'a> {
    fn of(held: &'a [Held]) -> Self {
        Self {
            topics: held
                .iter()
                .map(|(partition, _)| partition.topic.as_str())
                .collect(),
            numbers: held.iter().map(|(partition, _)| partition.number).collect(),
            tokens: held
                .iter()
                .map(|(_, leadership)| leadership.fencing_token)
                .collect(),
            leases: held
                .iter()
                .map(|(_, leadership)| leadership.lease_id)
                .collect(),
        }
    }

    fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 4] {
        [
            (&self.topics, Type::TEXT_ARRAY),
            (&self.numbers, Type::INT4_ARRAY),
            (&self.tokens, Type::INT8_ARRAY),
            (&self.leases, Type::UUID_ARRAY),
        ]
    }
}
