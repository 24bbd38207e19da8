//! Acquiring and releasing partitions: lanes start and end, and the partitions that they led are released.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::batch::record::Kind;
use crate::commit::applier::Applier;
use crate::commit::transaction::Writer;
use crate::config::run::StartOffset;
use crate::lanes::lane::{End, Lane};
use crate::leases::lease::{Acquired, Held, Leadership, Position};
use crate::leases::shares::Barrier;
use crate::partition::Partition;
use crate::postgres::error::describe;
use crate::run::conductor::{Conductor, Ended, Led};

/// How long PostgreSQL may take to release a partition.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

impl Conductor {
    pub(super) fn lead(&mut self, acquired: Acquired) {
        let Acquired {
            partition,
            leadership,
            position,
        } = acquired;
        let leadership = Arc::new(leadership);
        let Some(kind) = self
            .topics
            .borrow()
            .get(&partition.topic)
            .map(|topic| topic.kind)
        else {
            return;
        };
        info!(
            %partition, fencing_token = leadership.fencing_token.shown(), commit_offset = leadership.commit_offset,
            "leading partition"
        );
        self.leases.insert((partition.clone(), leadership.clone()));
        let led = Led {
            barrier: watch::Sender::new(position.halted.clone().map(Barrier::Halt)),
            stop: CancellationToken::new(),
            look_again: Arc::default(),
        };
        let lane = self.lane(&partition, kind, &leadership, position, &led);
        self.lanes.insert(partition.clone(), led);
        self.service.metrics.leads(&partition.topic);
        self.service
            .status
            .leads(&partition, leadership.commit_offset);
        // A former leader may have left work.
        self.wake_dead_letters.notify_one();
        self.running.spawn(async move {
            let end = tokio::spawn(lane.run()).await;
            let end = end.unwrap_or_else(|error| {
                let reason = if error.is_panic() {
                    "its task panicked"
                } else {
                    "its task was cancelled"
                };
                End::Lost(format!("internal error: {reason}"))
            });
            (partition, leadership, end)
        });
    }

    fn lane(
        &self,
        partition: &Partition,
        kind: Kind,
        leadership: &Arc<Leadership>,
        position: Position,
        led: &Led,
    ) -> Lane {
        let at_first = self.at_first.get(&partition.topic);
        let was_there = at_first.is_some_and(|count| partition.number < *count);
        Lane {
            partition: partition.clone(),
            kind,
            leadership: leadership.clone(),
            position,
            kafka: self.service.kafka.clone(),
            applier: Applier {
                edge: Writer {
                    pool: self.service.pool.clone(),
                    partition: partition.clone(),
                    leadership: leadership.clone(),
                    turns: self.turns.clone(),
                    group: self.group.clone(),
                    wake_dead_letters: self.wake_dead_letters.clone(),
                    status: self.service.status.clone(),
                    metrics: self.service.metrics.clone(),
                },
                partition: partition.clone(),
                retry: self.settings.retry.clone(),
                status: self.service.status.clone(),
                metrics: self.service.metrics.clone(),
                keeps_headers: self.settings.kafka.results_topic.is_some(),
            },
            gate: self.settings.gate.clone(),
            // Later partitions and topics are read from their beginning.
            start: match was_there {
                true => self.settings.start,
                false => StartOffset::Earliest,
            },
            status: self.service.status.clone(),
            hint: self.hint.clone(),
            look_again: led.look_again.clone(),
            barrier: led.barrier.subscribe(),
            doubts: 0,
            stop: led.stop.clone(),
            quit: self.quit.clone(),
        }
    }

    /// Lanes that ended, `first` and any others by now: their partitions are released in one statement.
    pub(super) async fn finished(&mut self, first: Ended) {
        let (mut drained, mut lost) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(ended) = next {
            if let Ok((partition, leadership, end)) = ended {
                self.lanes.remove(&partition);
                self.leases.remove(&partition);
                self.service.status.leads_no_more(&partition);
                match end {
                    End::Lost(reason) => lost.push((partition, reason)),
                    End::Drained => drained.push((partition, leadership)),
                }
            }
            next = self.running.try_join_next();
        }
        self.say_lost(lost).await;
        if !drained.is_empty() {
            // In the order in which leases are renewed, so that the two never deadlock.
            drained.sort_by(|one, other| one.0.cmp(&other.0));
            self.release(&drained).await;
            // A lost partition may be lost again at once: the next poll is soon enough for it.
            let _ = self.wake.try_send(());
        }
    }

    /// A lease that an operator ended is not a lost one.
    async fn say_lost(&mut self, lost: Vec<(Partition, String)>) {
        if lost.is_empty() {
            return;
        }
        let names: Vec<&Partition> = lost.iter().map(|(partition, _)| partition).collect();
        let stepped_down = match self.standby.clone() {
            Some(session) => {
                let asked = session.stepped_down(&self.settings.service_id, &names);
                let told = tokio::time::timeout(RELEASE_LIMIT, asked).await;
                told.ok().and_then(Result::ok).unwrap_or_default()
            }
            None => Vec::new(),
        };
        for (partition, reason) in &lost {
            if stepped_down.contains(partition) {
                self.service.metrics.stepped_down();
                info!(%partition, "stepped down: an operator asked for it with `sluice step-down`");
            } else {
                self.service.metrics.lost();
                warn!(%partition, "leadership lost: {reason}");
            }
        }
    }

    async fn release(&mut self, drained: &[Held]) {
        let Some(session) = self.standby.clone() else {
            return;
        };
        match tokio::time::timeout(RELEASE_LIMIT, session.release(drained)).await {
            Ok(Ok(released)) => {
                for ((partition, leadership), released) in drained.iter().zip(released) {
                    let fencing_token = leadership.fencing_token.shown();
                    if released {
                        self.service.metrics.released();
                        info!(%partition, fencing_token, "released partition");
                    } else {
                        debug!(%partition, fencing_token, "another instance leads it by now");
                    }
                }
            }
            Ok(Err(error)) => {
                warn!(
                    "partitions are not released; their leases expire: {}",
                    describe(&error)
                )
            }
            Err(_) => {
                warn!(
                    "partitions are not released, PostgreSQL does not answer; their leases expire"
                );
                self.drop_standby();
            }
        }
    }

    pub(super) async fn stop(&mut self) {
        info!(partitions = self.lanes.len(), "stopping");
        self.lanes.values().for_each(|led| led.stop.cancel());
        // Sent before any release, so that the other instances know that they have to acquire the released partitions.
        if let Some(session) = &self.standby {
            let leaving = session.leave(&self.settings.service_id);
            if !matches!(
                tokio::time::timeout(RELEASE_LIMIT, leaving).await,
                Ok(Ok(()))
            ) {
                debug!("not said that we leave");
            }
        }
        while let Some(ended) = self.running.join_next().await {
            self.finished(ended).await;
        }
        self.service
            .kafka
            .commit_last(self.service.status.take_moved())
            .await;
        info!("stopped");
    }
}
