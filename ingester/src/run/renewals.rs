//! The leases of this instance, and the separate session through which they are renewed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use crate::back_off::back_off_up_to;
use crate::leases::lease::{Held, Leadership, Session};
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::partition::Partition;
use crate::postgres::database::Database;
use crate::postgres::error::describe;
use crate::postgres::precedence::ControlSession;
use crate::postgres::watcher::Watcher;
use crate::throttle::Throttle;

const SAY_AGAIN: Duration = Duration::from_secs(10);
/// At most this long between tries to renew.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How many given-up sessions are kept, at most.
const FORMER: usize = 3;

/// The partitions that are led, and a way to have all their leases renewed at once.
#[derive(Default)]
pub struct Leases {
    held: Mutex<BTreeMap<Partition, Arc<Leadership>>>,
    pub renew_now: Notify,
}

impl Leases {
    pub fn insert(&self, (partition, leadership): Held) {
        self.lock().insert(partition, leadership);
    }

    pub fn remove(&self, partition: &Partition) {
        self.lock().remove(partition);
    }

    pub fn all(&self) -> Vec<Held> {
        let held = self.lock();
        held.iter().map(|(p, l)| (p.clone(), l.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Partition, Arc<Leadership>>> {
        self.held.lock().expect("no panic while held")
    }
}

/// What a renewal needs.
pub struct Renewals {
    pub database: Database,
    pub lease: Duration,
    pub interval: Duration,
    pub leases: Arc<Leases>,
    pub watcher: Arc<Watcher>,
    pub status: Arc<Status>,
    pub metrics: Arc<Metrics>,
}

/// Renews all leases for as long as the process lives. Its session is open before anything is led.
pub async fn keep_renewing(renewals: Renewals) {
    let mut session: Option<Session> = None;
    // Given up, and kept until another session has renewed: a partition is free as soon as its session ends.
    let mut former = VecDeque::new();
    let mut ticks = tokio::time::interval(renewals.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let longest = LONGEST_WAIT.min(renewals.lease / 3);
    let mut waits = back_off_up_to(longest);
    let mut said = Throttle::every(SAY_AGAIN);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = renewals.leases.renew_now.notified() => {}
        }
        let sent = Instant::now();
        // Early enough for another connection to renew before the lease expires.
        let done = tokio::time::timeout(renewals.lease / 3, renewals.renew(&mut session)).await;
        let trouble = match done {
            Ok(Ok(())) => {
                former.clear();
                waits = back_off_up_to(longest);
                said.over();
                renewals.status.leases_renewed(sent);
                continue;
            }
            Ok(Err(error)) => describe(&error),
            Err(_) => "no answer in time".to_owned(),
        };
        renewals
            .watcher
            .precedence
            .set_open(ControlSession::Renewals, false);
        renewals.metrics.renewal_failed();
        former.extend(session.take());
        if former.len() > FORMER {
            former.pop_front();
        }
        if said.is_due() {
            warn!("leases are not renewed, trying again on another connection: {trouble}");
        }
        ticks.reset_after(waits.next().unwrap_or(longest));
    }
}

impl Renewals {
    async fn renew(&self, session: &mut Option<Session>) -> Result<(), tokio_postgres::Error> {
        if session.as_ref().is_none_or(Session::is_closed) {
            self.watcher
                .precedence
                .set_open(ControlSession::Renewals, false);
            *session = None;
            *session = Some(Session::open(&self.database, self.lease, None).await?);
            self.watcher
                .precedence
                .set_open(ControlSession::Renewals, true);
        }
        match (session, self.leases.all()) {
            (Some(session), held) if !held.is_empty() => session.renew(&held).await,
            _ => Ok(()),
        }
    }
}
