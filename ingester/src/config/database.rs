//! Where PostgreSQL is.

use std::time::Duration;

use clap::Args as ClapArgs;

use crate::config::setting::{BadSetting, bad};
use crate::postgres::database::{Database, Tls};

/// Where PostgreSQL is. Shared by all commands.
#[derive(ClapArgs, Clone)]
#[command(next_help_heading = "PostgreSQL")]
pub struct DatabaseArgs {
    /// Address of PostgreSQL, postgres://user:password@host:port/database?sslmode=…
    #[arg(long, env = "DATABASE_URL")]
    database_url: Option<String>,
    /// Host, instead of DATABASE_URL
    #[arg(long, env = "DB_HOST")]
    db_host: Option<String>,
    /// Port, with DB_HOST
    #[arg(long, env = "DB_PORT", default_value_t = 5432)]
    db_port: u16,
    /// Login, with DB_HOST
    #[arg(long, env = "DB_USERNAME")]
    db_username: Option<String>,
    /// Password, with DB_HOST
    #[arg(long, env = "DB_PASSWORD")]
    db_password: Option<String>,
    /// Database, with DB_HOST
    #[arg(long, env = "DB_DATABASE")]
    db_database: Option<String>,
    /// disable, prefer, require, verify-ca or verify-full, where no address says; without any: prefer
    #[arg(long, env = "DB_SSLMODE")]
    db_sslmode: Option<String>,
    /// File of the CA that must have signed PostgreSQL's certificate; without: whom the machine trusts
    #[arg(long, env = "DB_SSLROOTCERT")]
    db_sslrootcert: Option<String>,
    /// File of our certificate, where PostgreSQL asks for one
    #[arg(long, env = "DB_SSLCERT")]
    db_sslcert: Option<String>,
    /// File of its key
    #[arg(long, env = "DB_SSLKEY")]
    db_sslkey: Option<String>,
    /// Superuser's address, for migrations
    #[arg(long, env = "ADMIN_DATABASE_URL")]
    admin_database_url: Option<String>,
    /// Milliseconds that connecting may take
    #[arg(long, env = "DB_CONNECTION_TIMEOUT", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    db_connection_timeout: u64,
}

impl DatabaseArgs {
    /// The ingester's own login.
    pub fn database(
        &self,
        application: &str,
        idle_limit: Duration,
    ) -> Result<Database, BadSetting> {
        let (wait, tls) = (self.connection_timeout(), self.tls()?);
        if let Some(url) = self.database_url.as_deref().filter(|url| !url.is_empty()) {
            return Database::parse(url, &tls, wait, application, idle_limit)
                .map_err(|error| bad("DATABASE_URL", error));
        }
        let host = self.db_host.as_deref().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| {
            bad(
                "DATABASE_URL",
                "missing; set it, or DB_HOST with DB_USERNAME, DB_PASSWORD, DB_DATABASE",
            )
        })?;
        let mut config = tokio_postgres::Config::new();
        config.host(host).port(self.db_port);
        if let Some(user) = &self.db_username {
            config.user(user);
        }
        if let Some(password) = &self.db_password {
            config.password(password);
        }
        if let Some(name) = &self.db_database {
            config.dbname(name);
        }
        Database::from_config(config, &tls, wait, application, idle_limit)
            .map_err(|error| bad("DB_HOST", error))
    }

    /// What holds where an address says nothing of TLS.
    pub(super) fn tls(&self) -> Result<Tls, BadSetting> {
        let mut tls = Tls::default();
        for (setting, parameter, value) in [
            ("DB_SSLMODE", "sslmode", &self.db_sslmode),
            ("DB_SSLROOTCERT", "sslrootcert", &self.db_sslrootcert),
            ("DB_SSLCERT", "sslcert", &self.db_sslcert),
            ("DB_SSLKEY", "sslkey", &self.db_sslkey),
        ] {
            if let Some(value) = value {
                tls.set(parameter, value)
                    .map_err(|error| bad(setting, error))?;
            }
        }
        Ok(tls)
    }

    /// For migrations: a superuser, or else the ingester's own login.
    pub fn admin(&self, application: &str) -> Result<Database, BadSetting> {
        let (idle_limit, wait) = (Duration::ZERO, self.connection_timeout());
        match self
            .admin_database_url
            .as_deref()
            .filter(|url| !url.is_empty())
        {
            Some(url) => Database::parse(url, &self.tls()?, wait, application, idle_limit)
                .map_err(|error| bad("ADMIN_DATABASE_URL", error)),
            None => self.database(application, idle_limit),
        }
    }

    /// Which setting names the server that [`Self::admin`] takes.
    pub fn admin_setting(&self) -> &'static str {
        let is_given = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.is_empty());
        if is_given(&self.admin_database_url) {
            "ADMIN_DATABASE_URL"
        } else if is_given(&self.database_url) {
            "DATABASE_URL"
        } else {
            "DB_HOST"
        }
    }

    pub fn connection_timeout(&self) -> Duration {
        Duration::from_millis(self.db_connection_timeout)
    }
}
