//! What all parts of a running service share.

use std::sync::Arc;

use crate::config::run::RunSettings;
use crate::kafka::client::Kafka;
use crate::observe::metrics::Metrics;
use crate::observe::status::Status;
use crate::postgres::pool::{Manager, Pool};
use crate::postgres::watcher::Watcher;

#[derive(Clone)]
pub struct Service {
    pub status: Arc<Status>,
    pub metrics: Arc<Metrics>,
    pub kafka: Arc<Kafka>,
    pub watcher: Arc<Watcher>,
    pub pool: Pool,
}

impl Service {
    pub fn new(settings: &RunSettings) -> Result<Self, String> {
        let (status, metrics) = (Arc::<Status>::default(), Arc::<Metrics>::default());
        status.batches_wait(settings.gate.batching_delay);
        let kafka = Arc::new(Kafka::connect(&settings.kafka, status.clone())?);
        kafka.serve();
        let silences = metrics.clone();
        let watcher = Watcher::new(settings.database.clone(), move || silences.fell_silent());
        let watcher = Arc::new(watcher);
        let pool = Manager::of(&settings.database, &watcher)
            .pool(settings.pool_size, settings.connection_timeout)?;
        Ok(Self {
            status,
            metrics,
            kafka,
            watcher,
            pool,
        })
    }
}
