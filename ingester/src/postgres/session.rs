//! A session that work of more than one statement is done on.

use crate::postgres::pool::{AskError, Connection, Object, Pool};

/// A connection that is closed unless it was kept: after a failure or a cancelled wait
/// nobody knows what is still under way on it.
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
