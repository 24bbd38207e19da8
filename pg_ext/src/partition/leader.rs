//! Leadership of a partition: a lease that ends by the database's clock, and a fencing
//! token that grows with every acquisition.
//!
//! A leader whose database session has ended loses its lease at once, because PostgreSQL notices a killed process sooner
//! than any time-out. Acquiring waits a moment for a predecessor's transaction in flight and then terminates it, so that a
//! frozen process cannot delay its successor. Only then is `commit_offset` read.

use pgrx::PgSqlErrorCode as Code;
use pgrx::Spi;
use pgrx::datum::{Interval, TimestampWithTimeZone, Uuid};
use pgrx::spi::SpiClient;

use crate::arguments::{check_text, lease_us};
use crate::error::raise;
use crate::partition::{Leadership, PartitionName};
use crate::pg::{holders, session};
use crate::spi::{internal, query, run};

/// How long another transaction may lock a row before its session may be ended.
const GRACE_MS: u32 = 100;
/// How long acquiring waits for a row altogether.
const PATIENCE_MS: u32 = 1_000;
const POLL_MS: u32 = 5;

/// The answer to an attempt to acquire.
#[derive(Default)]
pub struct Lock {
    pub acquired: bool,
    pub fencing_token: Option<i64>,
    pub lease_id: Option<Uuid>,
    pub commit_offset: Option<i64>,
    pub leader_svc_id: Option<String>,
    pub lease_expires_at: Option<TimestampWithTimeZone>,
}

// The same service id takes over only a lease of the same login: a name alone proves nothing.
const FIND: &str = "
    SELECT l.partition_id,
        l.leader_svc_id IS NULL
        OR (l.leader_svc_id OPERATOR(pg_catalog.=) $3 AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_stat_get_activity(l.session_pid) a
            WHERE pg_catalog.pg_get_userbyid(a.usesysid) OPERATOR(pg_catalog.<>) SESSION_USER))
        OR l.lease_expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()
        OR NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(l.session_pid)) AS free,
        l.leader_svc_id, l.lease_expires_at
    FROM ledger.partition_leases l
    WHERE l.topic OPERATOR(pg_catalog.=) $1 AND l.partition OPERATOR(pg_catalog.=) $2";

const CREATE: &str = "
    WITH lease AS (
        INSERT INTO ledger.partition_leases (topic, partition) VALUES ($1, $2)
        ON CONFLICT (topic, partition) DO NOTHING
        RETURNING partition_id
    )
    INSERT INTO ledger.partition_progress (partition_id, fencing_token, commit_offset, is_domain, paused_at, paused_reason)
    SELECT lease.partition_id, 0, 0, (
        -- All partitions of a topic are of one kind.
        SELECT bool_or(p.is_domain) FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
        WHERE l.topic = $1), breaker.paused_at, breaker.paused_reason
    FROM lease LEFT JOIN (
        -- Where the circuit breaker has paused its topic, a partition that appears now begins paused.
        SELECT p.paused_at, p.paused_reason
        FROM ledger.partition_progress p JOIN ledger.partition_leases l USING (partition_id)
        WHERE l.topic = $1 AND p.paused_reason LIKE 'circuit breaker: %'
        ORDER BY p.paused_at LIMIT 1
    ) breaker ON true";

const LOCK_LEASE: &str =
    "SELECT 1 FROM ledger.partition_leases WHERE partition_id = $1 FOR UPDATE SKIP LOCKED";
const LOCK_PROGRESS: &str =
    "SELECT 1 FROM ledger.partition_progress WHERE partition_id = $1 FOR UPDATE SKIP LOCKED";

// A lease row is locked for milliseconds, or for PATIENCE_MS by another instance that acquires. A session that idles in
// that transaction, or has held the lock for longer, is taken for frozen.
const LEASE_HOLDERS: &str = "
    SELECT h.pid FROM pg_catalog.pg_locks h
    JOIN pg_catalog.pg_stat_get_activity(NULL) a ON a.pid = h.pid
    WHERE h.locktype = 'transactionid' AND h.transactionid::text = ANY ($1) AND h.granted AND h.pid <> pg_catalog.pg_backend_pid()
        AND (a.state LIKE 'idle in transaction%'
            OR a.xact_start < pg_catalog.clock_timestamp() - 3 * interval '1 second')";
// An operator's replay that is at work is not ended but waited for (see sluice.replay_dead_letters), unless its session
// idles in the transaction for long. Its mark is an advisory lock, which counts only for members of sluice_admin.
const PROGRESS_HOLDERS: &str = "
    SELECT h.pid FROM pg_catalog.pg_locks h
    WHERE h.locktype = 'transactionid' AND h.transactionid::text = ANY ($1) AND h.granted AND h.pid <> pg_catalog.pg_backend_pid()
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_locks m JOIN pg_catalog.pg_stat_get_activity(NULL) a ON a.pid = m.pid
            WHERE m.pid = h.pid AND m.locktype = 'advisory' AND m.granted AND m.objsubid = 2
                AND m.classid = 1936487784 AND m.objid = $2::oid
                AND pg_catalog.pg_has_role(a.usesysid, 'sluice_admin', 'MEMBER')
                AND (a.state = 'active' OR a.state_change > pg_catalog.clock_timestamp() - 10 * interval '1 second'))";
const LEASE: Row = Row {
    table: "partition_leases",
    lock: LOCK_LEASE,
    holders: LEASE_HOLDERS,
};
const PROGRESS: Row = Row {
    table: "partition_progress",
    lock: LOCK_PROGRESS,
    holders: PROGRESS_HOLDERS,
};

// What to tell people of the transaction that holds a row. A session can be terminated; a prepared transaction must be
// ended by an operator, so it is reported at once.
const HOLDER: &str = "
    SELECT pg_catalog.format('its %s is held by %s', f.what, h.words), h.gid IS NOT NULL
    FROM sluice.partition_row_holders($1) f, sluice.transaction_holder(f.id::xid) h
    WHERE h.gid IS NOT NULL OR (h.pid <> pg_catalog.pg_backend_pid() AND h.age > interval '2 s')
    ORDER BY h.gid IS NULL, f.what LIMIT 1";

// The token follows the clock, so that it also grows after an older backup was restored. Where the clock is behind the
// token, an original database and its restored copy must not count alike: each adds a random number.
const GRANT: &str = "
    WITH lease AS MATERIALIZED (
        SELECT pg_catalog.gen_random_uuid() AS id, (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint AS now_us
    ), progress AS (
        UPDATE ledger.partition_progress p
        SET fencing_token = CASE
                WHEN lease.now_us > p.fencing_token THEN lease.now_us
                ELSE p.fencing_token + 1 + (pg_catalog.random() * 4294967296)::bigint
            END,
            lease_id = lease.id
        FROM lease
        WHERE p.partition_id = $1
        RETURNING p.fencing_token, p.lease_id, p.commit_offset
    )
    UPDATE ledger.partition_leases l
    SET leader_svc_id = $2, lease_id = progress.lease_id, session_pid = pg_catalog.pg_backend_pid(),
        lease_expires_at = pg_catalog.clock_timestamp() + $3 * interval '1 microsecond'
    FROM progress
    WHERE l.partition_id = $1
    RETURNING progress.fencing_token, progress.lease_id, progress.commit_offset, l.leader_svc_id, l.lease_expires_at";

// An instance renews all its leases in one statement, so none of them may wait for a row that another transaction locks.
const RENEW: &str = "
    UPDATE ledger.partition_leases l
    SET lease_expires_at = pg_catalog.clock_timestamp() + $5 * interval '1 microsecond',
        session_pid = pg_catalog.pg_backend_pid()
    WHERE l.partition_id = (
        SELECT m.partition_id FROM ledger.partition_leases m
        WHERE m.topic = $1 AND m.partition = $2 AND m.lease_id = $4
            AND EXISTS (
                SELECT FROM ledger.partition_progress p
                WHERE p.partition_id = m.partition_id AND p.fencing_token = $3 AND p.lease_id = $4)
        FOR UPDATE SKIP LOCKED)
    RETURNING l.lease_expires_at";
const STANDS: &str = "
    SELECT l.lease_expires_at FROM ledger.partition_leases l
    WHERE l.topic = $1 AND l.partition = $2 AND l.lease_id = $4
        AND l.lease_expires_at > pg_catalog.clock_timestamp()
        AND EXISTS (
            SELECT FROM ledger.partition_progress p
            WHERE p.partition_id = l.partition_id AND p.fencing_token = $3 AND p.lease_id = $4)";

const RELEASE: &str = "
    WITH lease AS (
        UPDATE ledger.partition_leases l
        SET leader_svc_id = NULL, lease_id = NULL, lease_expires_at = NULL, session_pid = NULL
        WHERE l.topic = $1 AND l.partition = $2 AND l.lease_id = $4
            AND EXISTS (
                SELECT FROM ledger.partition_progress p
                WHERE p.partition_id = l.partition_id AND p.fencing_token = $3)
        RETURNING l.partition_id
    ), progress AS (
        UPDATE ledger.partition_progress p SET lease_id = NULL
        FROM lease WHERE p.partition_id = lease.partition_id
    )
    SELECT pg_catalog.pg_notify('sluice_partition_released', $1 || '/' || $2) FROM lease";

/// Tries to become leader. Not acquired is an answer, not an error.
pub fn acquire(name: PartitionName<'_>, service_id: &str, lease: &Interval) -> Lock {
    check_text("service_id", service_id, 255);
    let lease_us = lease_us(lease);
    Spi::connect_mut(|client| {
        let seen = match find(client, name, service_id) {
            Some(seen) => seen,
            None => {
                run(client, CREATE, &[name.topic.into(), name.partition.into()]);
                find(client, name, service_id)
                    .unwrap_or_else(|| raise(Code::ERRCODE_INTERNAL_ERROR, "no lease row"))
            }
        };
        if !seen.free {
            return seen.refused();
        }
        if !lock_row(client, &LEASE, seen.partition_id) {
            // Another instance that acquires at the same time is no error.
            if let Some(holder) = holder(client, seen.partition_id) {
                held(name, &holder.words);
            }
            return seen.refused();
        }
        fault_point!("acquire.lease_locked");
        let Some(seen) = find(client, name, service_id).filter(|seen| seen.free) else {
            return find(client, name, service_id)
                .map(Seen::refused)
                .unwrap_or_default();
        };
        if !lock_row(client, &PROGRESS, seen.partition_id) {
            let holder = holder(client, seen.partition_id);
            let words = holder.map(|holder| holder.words);
            held(
                name,
                &words.unwrap_or_else(|| "its progress is held by another transaction".to_owned()),
            );
        }
        fault_point!("acquire.progress_locked");
        let lock = grant(client, seen.partition_id, service_id, lease_us);
        fault_point!("acquire.granted");
        lock
    })
}

/// Extends the lease, or returns its expiry if another transaction has locked it; `None` when leadership
/// is lost.
pub fn renew(
    name: PartitionName<'_>,
    mine: Leadership,
    lease: &Interval,
) -> Option<TimestampWithTimeZone> {
    let lease_us = lease_us(lease);
    Spi::connect_mut(|client| {
        let args = [
            name.topic.into(),
            name.partition.into(),
            mine.fencing_token.into(),
            mine.lease_id.into(),
            lease_us.into(),
        ];
        for (statement, args) in [(RENEW, &args[..]), (STANDS, &args[..4])] {
            let rows = query(client, statement, args);
            if !rows.is_empty() {
                fault_point!("renew.done");
                return rows.first().get_one().unwrap_or_else(internal);
            }
        }
        None
    })
}

/// Releases the partition, and wakes standbys when the transaction commits.
pub fn release(name: PartitionName<'_>, mine: Leadership) -> bool {
    Spi::connect_mut(|client| {
        let args = [
            name.topic.into(),
            name.partition.into(),
            mine.fencing_token.into(),
            mine.lease_id.into(),
        ];
        fault_point!("release.before");
        let released = run(client, RELEASE, &args) > 0;
        fault_point!("release.done");
        released
    })
}

/// The current lease row.
struct Seen {
    partition_id: i32,
    free: bool,
    leader_svc_id: Option<String>,
    lease_expires_at: Option<TimestampWithTimeZone>,
}

impl Seen {
    fn refused(self) -> Lock {
        Lock {
            leader_svc_id: self.leader_svc_id,
            lease_expires_at: self.lease_expires_at,
            ..Lock::default()
        }
    }
}

fn find(client: &mut SpiClient<'_>, name: PartitionName<'_>, service_id: &str) -> Option<Seen> {
    let args = [name.topic.into(), name.partition.into(), service_id.into()];
    let rows = query(client, FIND, &args);
    if rows.is_empty() {
        return None;
    }
    let row = rows.first();
    Some(Seen {
        partition_id: row.get(1).unwrap_or_else(internal).unwrap_or_default(),
        free: row.get(2).unwrap_or_else(internal).unwrap_or_default(),
        leader_svc_id: row.get(3).unwrap_or_else(internal),
        lease_expires_at: row.get(4).unwrap_or_else(internal),
    })
}

/// A row of a partition, how it is locked, and which sessions that have locked it are to be ended.
struct Row {
    table: &'static str,
    lock: &'static str,
    holders: &'static str,
}

/// Locks one row. A session that has locked it for longer than GRACE_MS and is named by `holders` is terminated.
fn lock_row(client: &mut SpiClient<'_>, row: &Row, partition_id: i32) -> bool {
    let args = [partition_id.into()];
    let mut ended = false;
    for waited_ms in (0..=PATIENCE_MS).step_by(POLL_MS as usize) {
        if run(client, row.lock, &args) > 0 {
            return true;
        }
        if waited_ms >= GRACE_MS && !ended {
            let holders = [
                holders::of_row(row.table, partition_id).into(),
                partition_id.into(),
            ];
            let pids = query(client, row.holders, &holders);
            for row in pids {
                session::terminate(
                    row.get::<i32>(1)
                        .unwrap_or_else(internal)
                        .unwrap_or_default(),
                );
            }
            if holder(client, partition_id).is_some_and(|holder| holder.is_prepared) {
                return false;
            }
            ended = true;
        }
        run(
            client,
            "SELECT pg_catalog.pg_sleep($1)",
            &[(f64::from(POLL_MS) / 1000.0).into()],
        );
    }
    false
}

/// The transaction that keeps a partition from being acquired.
struct Holder {
    words: String,
    is_prepared: bool,
}

/// Names it once it has lasted longer than a leader or an acquiring instance ever locks these rows.
fn holder(client: &mut SpiClient<'_>, partition_id: i32) -> Option<Holder> {
    let rows = query(client, HOLDER, &[partition_id.into()]);
    if rows.is_empty() {
        return None;
    }
    let row = rows.first();
    Some(Holder {
        words: row.get::<String>(1).unwrap_or_else(internal)?,
        is_prepared: row.get::<bool>(2).unwrap_or_else(internal)?,
    })
}

fn held(name: PartitionName<'_>, words: &str) -> ! {
    raise(
        Code::ERRCODE_LOCK_NOT_AVAILABLE,
        format!(
            "{}/{} cannot be acquired: {words}",
            name.topic, name.partition
        ),
    )
}

fn grant(client: &mut SpiClient<'_>, partition_id: i32, service_id: &str, lease_us: i64) -> Lock {
    let args = [partition_id.into(), service_id.into(), lease_us.into()];
    let row = query(client, GRANT, &args).first();
    if row.is_empty() {
        raise(
            Code::ERRCODE_INTERNAL_ERROR,
            "a partition has a lease row but no progress row",
        );
    }
    Lock {
        acquired: true,
        fencing_token: row.get(1).unwrap_or_else(internal),
        lease_id: row.get(2).unwrap_or_else(internal),
        commit_offset: row.get(3).unwrap_or_else(internal),
        leader_svc_id: row.get(4).unwrap_or_else(internal),
        lease_expires_at: row.get(5).unwrap_or_else(internal),
    }
}
