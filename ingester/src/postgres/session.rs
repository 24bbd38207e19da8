//! A session for work of several statements.

use crate::postgres::pool::{AskError, Connection, Object, Pool};

/// A connection that is closed unless it is kept explicitly: after a failure or a cancelled wait
/// it is unknown what is still running on it.
pub struct Disposable(Option<Object>);

impl Disposable {
    pub async fn of(pool: &Pool) -> Result<Self, AskError> {
        let object = pool.get().await.map_err(AskError::of_pool)?;
        Ok(Self(Some(object)))
    }

    pub fn client(&self) -> &Connection {
        self.0.as_ref().expect("held until dropped")
    }

    pub fn keep(&mut self) {
        drop(self.0.take());
    }
}

impl Drop for Disposable {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}
