//! Leadership of partitions: what a leader holds, and the two long-lived sessions through
//! which leases are taken, renewed and given back, apart from all writes.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use ledger::contract::RELEASED_CHANNEL;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use crate::db::Database;
use crate::partition::Partition;

/// Proof of having acquired a partition. Only [`Session::acquire`] makes one.
#[derive(Debug)]
pub struct Leadership {
    pub fencing_token: i64,
    pub lease_id: Uuid,
    pub commit_offset: i64,
    /// Nothing may be sent after this, by our own monotonic clock.
    deadline: Mutex<Instant>,
    lost: CancellationToken,
}

impl Leadership {
    /// Completes once the lease has run out or is known to be lost.
    pub async fn ended(&self) {
        loop {
            let deadline = *self.deadline.lock().expect("no panic while held");
            if Instant::now() >= deadline {
                return;
            }
            tokio::select! {
                () = self.lost.cancelled() => return,
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
        }
    }

    pub fn lose(&self) {
        self.lost.cancel();
    }

    fn extend(&self, deadline: Instant) {
        *self.deadline.lock().expect("no panic while held") = deadline;
    }
}

/// A partition as the database shows it.
#[derive(Debug, Clone)]
pub struct Surveyed {
    pub partition: Partition,
    pub leader: Option<String>,
}

/// Who leads what, and who lives, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    pub leases: Vec<Surveyed>,
    /// Live instances that read the same topics.
    pub instances: Vec<String>,
    /// Whether our own name is used by nobody else.
    pub name_is_ours: bool,
}

const RENEW: &str = "
    SELECT u.ordinality, sluice.renew_partition_lock(u.topic, u.partition, u.token, u.lease, $5::bigint * interval '1 ms') IS NOT NULL
    FROM unnest($1::text[], $2::int[], $3::bigint[], $4::uuid[]) WITH ORDINALITY AS u (topic, partition, token, lease, ordinality)";

// One statement for all that a round needs to know. The heartbeat is taken first, so that we count ourselves.
const SURVEY: &str = "
    WITH beat AS MATERIALIZED (SELECT sluice.heartbeat($1, $2, $3::bigint * interval '1 ms') AS mine)
    SELECT l.topic, l.partition, l.leader_svc_id, beat.mine
    FROM beat LEFT JOIN ledger.partition_leader_locks l ON l.topic = ANY ($2)
    UNION ALL
    SELECT NULL, NULL, i.service_id, NULL FROM ledger.live_instances i WHERE i.topics = $2";

const ACQUIRE: &str = "
    SELECT acquired, fencing_token, lease_id, commit_offset, leader_svc_id
    FROM sluice.acquire_partition_lock($1, $2, $3, $4::bigint * interval '1 ms')";

const RELEASE: &str = "SELECT sluice.release_partition_lock($1, $2, $3, $4)";

const POSITION: &str = "
    SELECT p.started_at IS NOT NULL, p.last_record
    FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
    WHERE l.topic = $1 AND l.partition = $2";

/// What is known of a partition's past.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    pub started: bool,
    pub last_record: Option<[u8; 16]>,
}

/// One of the two control connections.
pub struct Session {
    client: Client,
    lease: Duration,
}

impl Session {
    /// Connects; `wake` hears of released partitions.
    pub async fn open(
        database: &Database,
        lease: Duration,
        wake: Option<mpsc::Sender<()>>,
    ) -> Result<Self, tokio_postgres::Error> {
        let listen = wake.is_some();
        let on_message = move |message| {
            if let (AsyncMessage::Notification(_), Some(wake)) = (message, &wake) {
                // Full means that a wake-up is waiting already.
                let _ = wake.try_send(());
            }
        };
        let client = database.connect(on_message).await?;
        if listen {
            client
                .batch_execute(&format!("LISTEN {RELEASED_CHANNEL}"))
                .await?;
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

    /// Renews all leases in one statement; those that are lost are told so.
    pub async fn renew(
        &self,
        held: &[(Partition, std::sync::Arc<Leadership>)],
    ) -> Result<(), tokio_postgres::Error> {
        let deadline = Instant::now() + self.lease;
        let topics: Vec<&str> = held
            .iter()
            .map(|(partition, _)| partition.topic.as_str())
            .collect();
        let numbers: Vec<i32> = held.iter().map(|(partition, _)| partition.number).collect();
        let tokens: Vec<i64> = held
            .iter()
            .map(|(_, leadership)| leadership.fencing_token)
            .collect();
        let leases: Vec<Uuid> = held
            .iter()
            .map(|(_, leadership)| leadership.lease_id)
            .collect();
        let rows = self
            .client
            .query(
                RENEW,
                &[&topics, &numbers, &tokens, &leases, &self.lease_ms()],
            )
            .await?;
        for row in rows {
            let (_, leadership) = &held[row.get::<_, i64>(0) as usize - 1];
            if row.get(1) {
                leadership.extend(deadline)
            } else {
                leadership.lose()
            }
        }
        Ok(())
    }

    /// Says that we live, and looks around.
    pub async fn survey(
        &self,
        service_id: &str,
        topics: &[String],
    ) -> Result<Survey, tokio_postgres::Error> {
        let mut survey = Survey::default();
        // Out of the share before its leases end, so that nobody waits for a frozen instance twice.
        let heartbeat_ms = self.lease_ms() * 2 / 3;
        for row in self
            .client
            .query(SURVEY, &[&service_id, &topics, &heartbeat_ms])
            .await?
        {
            let name: Option<String> = row.get(2);
            match row.get::<_, Option<bool>>(3) {
                None => survey.instances.extend(name),
                Some(mine) => {
                    survey.name_is_ours = mine;
                    if let (Some(topic), Some(number)) = (row.get(0), row.get(1)) {
                        survey.leases.push(Surveyed {
                            partition: Partition { topic, number },
                            leader: name,
                        });
                    }
                }
            }
        }
        Ok(survey)
    }

    /// Tries to become leader; `None` when someone else is.
    pub async fn acquire(
        &self,
        partition: &Partition,
        service_id: &str,
    ) -> Result<Option<Leadership>, tokio_postgres::Error> {
        let sent = Instant::now();
        let row = self
            .client
            .query_one(
                ACQUIRE,
                &[
                    &partition.topic,
                    &partition.number,
                    &service_id,
                    &self.lease_ms(),
                ],
            )
            .await?;
        if !row.get::<_, bool>(0) {
            debug!(%partition, leader = row.get::<_, Option<&str>>(4), "not acquired");
            return Ok(None);
        }
        Ok(Some(Leadership {
            fencing_token: row.get(1),
            lease_id: row.get(2),
            commit_offset: row.get(3),
            deadline: Mutex::new(sent + self.lease),
            lost: CancellationToken::new(),
        }))
    }

    pub async fn release(
        &self,
        partition: &Partition,
        leadership: &Leadership,
    ) -> Result<bool, tokio_postgres::Error> {
        let Leadership {
            fencing_token,
            lease_id,
            ..
        } = leadership;
        let row = self
            .client
            .query_one(
                RELEASE,
                &[&partition.topic, &partition.number, fencing_token, lease_id],
            )
            .await?;
        Ok(row.get(0))
    }

    pub async fn position(&self, partition: &Partition) -> Result<Position, tokio_postgres::Error> {
        let row = self
            .client
            .query_one(POSITION, &[&partition.topic, &partition.number])
            .await?;
        Ok(Position {
            started: row.get(0),
            last_record: row.get::<_, Option<Uuid>>(1).map(Uuid::into_bytes),
        })
    }

    pub async fn leave(&self, service_id: &str) -> Result<(), tokio_postgres::Error> {
        self.client
            .execute("SELECT sluice.leave($1)", &[&service_id])
            .await
            .map(drop)
    }
}
