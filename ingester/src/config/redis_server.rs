//! Where Redis is.

use std::time::Duration;

use clap::{ArgAction, Args as ClapArgs};

use crate::config::setting::{BadSetting, bad};
use crate::redis_marks::Redis;
use crate::tls::Files;

/// Where processed events are marked.
#[derive(ClapArgs, Clone)]
#[command(next_help_heading = "Redis")]
pub struct RedisArgs {
    /// Address of Redis, redis://user:password@host:port/database; rediss:// by TLS
    #[arg(long, env = "REDIS_URL")]
    redis_url: Option<String>,
    /// Host, instead of REDIS_URL
    #[arg(long, env = "REDIS_HOST")]
    redis_host: Option<String>,
    /// Port, with REDIS_HOST
    #[arg(long, env = "REDIS_PORT", default_value_t = 6379)]
    redis_port: u16,
    /// Whether by TLS, with REDIS_HOST
    #[arg(long, env = "REDIS_TLS", default_value_t = false, action = ArgAction::Set)]
    redis_tls: bool,
    /// Login, where the address names none
    #[arg(long, env = "REDIS_USERNAME")]
    redis_username: Option<String>,
    /// Password, where the address has none
    #[arg(long, env = "REDIS_PASSWORD")]
    redis_password: Option<String>,
    /// File of the CA that must have signed Redis's certificate; without: whom the machine trusts
    #[arg(long, env = "REDIS_CA")]
    redis_ca: Option<String>,
    /// File of our certificate, where Redis asks for one
    #[arg(long, env = "REDIS_CERT")]
    redis_cert: Option<String>,
    /// File of its key
    #[arg(long, env = "REDIS_KEY")]
    redis_key: Option<String>,
    /// Seconds that an event stays marked
    #[arg(long, env = "IDEMPOTENCY_TTL", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    idempotency_ttl: u64,
}

impl RedisArgs {
    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.idempotency_ttl)
    }

    /// Where Redis is, if it is to be told anything.
    pub fn redis(&self) -> Result<Option<Redis>, BadSetting> {
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let scheme = if self.redis_tls { "rediss" } else { "redis" };
        let by_host =
            given(&self.redis_host).map(|host| format!("{scheme}://{host}:{}", self.redis_port));
        let (setting, url) = match (given(&self.redis_url), by_host) {
            (Some(url), _) => ("REDIS_URL", url),
            (None, Some(url)) => ("REDIS_HOST", url),
            (None, None) => return Ok(None),
        };
        let path = |value: &Option<String>| given(value).map(Into::into);
        let files = Files {
            ca: path(&self.redis_ca),
            certificate: path(&self.redis_cert),
            key: path(&self.redis_key),
        };
        let (username, password) = (given(&self.redis_username), given(&self.redis_password));
        Redis::parse(&url, username.as_deref(), password.as_deref(), &files)
            .map(Some)
            .map_err(|error| bad(setting, error))
    }
}
