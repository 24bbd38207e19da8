//! Which instances are alive: each ingester registers itself, and all compute the same even share from the list.

use pgrx::Spi;
use pgrx::datum::Interval;

use crate::arguments::{check_text, lease_us};
use crate::spi::run;

// A service id is taken over only from a session that has ended, or from one that is silent and of the same login.
const HEARTBEAT: &str = "
    INSERT INTO ledger.ingester_instances AS i (service_id, session_pid, topics, expires_at)
    VALUES ($1, pg_catalog.pg_backend_pid(), $2, pg_catalog.clock_timestamp() + $3 * interval '1 microsecond')
    ON CONFLICT (service_id) DO UPDATE
    SET session_pid = excluded.session_pid, topics = excluded.topics, expires_at = excluded.expires_at
    WHERE i.session_pid = pg_catalog.pg_backend_pid()
        OR (i.expires_at <= pg_catalog.clock_timestamp() AND EXISTS (
            SELECT FROM pg_catalog.pg_stat_get_activity(i.session_pid) a
            WHERE pg_catalog.pg_get_userbyid(a.usesysid) = SESSION_USER))
        OR NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(i.session_pid))";

// A session counts once, so that one login cannot register many instances and shrink the share of all others.
const FORGET_OTHERS: &str = "
    DELETE FROM ledger.ingester_instances
    WHERE session_pid = pg_catalog.pg_backend_pid() AND service_id <> $1";

// Service ids are often generated at start, so those of ended instances would accumulate.
const FORGET_OLD: &str = "
    DELETE FROM ledger.ingester_instances
    WHERE expires_at < pg_catalog.clock_timestamp() - interval '1 hour'";

const LEAVE: &str = "
    DELETE FROM ledger.ingester_instances
    WHERE service_id = $1 AND session_pid = pg_catalog.pg_backend_pid()";

pub fn heartbeat(service_id: &str, topics: Vec<String>, lease: &Interval) -> bool {
    check_text("service_id", service_id, 255);
    let lease_us = lease_us(lease);
    Spi::connect_mut(|client| {
        let mine = run(
            client,
            HEARTBEAT,
            &[service_id.into(), topics.into(), lease_us.into()],
        ) > 0;
        run(client, FORGET_OTHERS, &[service_id.into()]);
        run(client, FORGET_OLD, &[]);
        mine
    })
}

pub fn leave(service_id: &str) {
    Spi::connect_mut(|client| run(client, LEAVE, &[service_id.into()]));
}
