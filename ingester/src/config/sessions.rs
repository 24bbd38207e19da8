//! How many sessions an instance opens, and as whom the page works. Shared by `run` and `check`.

use std::time::Duration;

use clap::Args as ClapArgs;

use crate::config::database::DatabaseArgs;
use crate::config::setting::{BadSetting, bad};
use crate::postgres::database::Database;
use crate::postgres::precedence::CONTROL_CONNECTIONS;

/// How long the page's sessions may leave a transaction open.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

#[derive(ClapArgs, Clone)]
#[command(next_help_heading = "Sessions of PostgreSQL")]
pub struct SessionArgs {
    /// Connections to PostgreSQL at most
    #[arg(long, env = "DB_POOL_SIZE", default_value_t = 20, value_parser = clap::value_parser!(u16).range(4..=1000))]
    db_pool_size: u16,
    /// Address for the page, with the login of a member of sluice_admin; default: DATABASE_URL
    #[arg(long, env = "OPERATOR_DATABASE_URL", hide_env_values = true)]
    operator_database_url: Option<String>,
}

impl SessionArgs {
    pub fn pool_size(&self) -> u16 {
        self.db_pool_size
    }

    /// Those that are left for the pool.
    pub fn shared_connections(&self) -> usize {
        usize::from(self.db_pool_size) - CONTROL_CONNECTIONS
    }

    /// A login of its own where one is given, so that the ingester's may do no more than before.
    pub fn operator_of_its_own(
        &self,
        own: &DatabaseArgs,
        application: &str,
    ) -> Result<Option<Database>, BadSetting> {
        let url = self.operator_database_url.as_deref();
        let Some(url) = url.filter(|url| !url.is_empty()) else {
            return Ok(None);
        };
        let (tls, wait) = (own.tls()?, own.connection_timeout());
        Database::parse(url, &tls, wait, application, IDLE_LIMIT)
            .map(Some)
            .map_err(|error| bad("OPERATOR_DATABASE_URL", error))
    }

    /// As whom the page works.
    pub fn operator(&self, own: &DatabaseArgs, application: &str) -> Result<Database, BadSetting> {
        match self.operator_of_its_own(own, application)? {
            Some(operator) => Ok(operator),
            None => own.database(application, IDLE_LIMIT),
        }
    }
}
