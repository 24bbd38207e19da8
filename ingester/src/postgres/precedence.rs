//! Sessions that are opened before those of the pool.

use tokio::sync::watch;

/// Sessions that are opened before those of the pool: without them no lease is renewed, and no answer
/// is watched for.
#[derive(Clone, Copy, Debug)]
pub enum ControlSession {
    Renewals,
    Standby,
    Watcher,
}

/// Their number: connections that DB_POOL_SIZE counts and the pool does not get.
pub const CONTROL_CONNECTIONS: usize = 3;

/// Which of them are open.
pub struct Precedence(watch::Sender<[bool; CONTROL_CONNECTIONS]>);

impl Default for Precedence {
    fn default() -> Self {
        Self(watch::Sender::new([false; CONTROL_CONNECTIONS]))
    }
}

impl Precedence {
    pub fn set_open(&self, session: ControlSession, open: bool) {
        self.0.send_if_modified(|all| {
            let before = std::mem::replace(&mut all[session as usize], open);
            before != open
        });
    }

    pub fn all_are_open(&self) -> bool {
        *self.0.borrow() == [true; CONTROL_CONNECTIONS]
    }

    pub(super) async fn wait(&self) {
        let _ = self
            .0
            .subscribe()
            .wait_for(|all| *all == [true; CONTROL_CONNECTIONS])
            .await;
    }
}
