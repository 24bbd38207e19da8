//! `sluice check`: connects to everything and says what fits and what does not.

mod findings;
mod server;
mod surroundings;
mod topics;

use std::time::Duration;

use tokio_postgres::{Client, Error};

use self::findings::{Findings, LIMIT};
use crate::cli::output::Format;
use crate::config::database::DatabaseArgs;
use crate::config::kafka::KafkaArgs;
use crate::config::names::NearMiss;
use crate::config::redis_server::RedisArgs;
use crate::config::sessions::SessionArgs;
use crate::config::setting::{BadSetting, environment};
use crate::postgres::database::Database;
use crate::postgres::error::{describe, describe_at};
use crate::postgres::pooler;
use crate::redis_marks::Redis;

const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// All that is looked at.
pub struct Checked<'a> {
    pub database: &'a DatabaseArgs,
    pub kafka: &'a KafkaArgs,
    pub redis: &'a RedisArgs,
    pub sessions: &'a SessionArgs,
    /// Variables that look like a setting and are none.
    pub misses: &'a [NearMiss],
}

/// Whether everything that is needed fits.
pub async fn check(checked: &Checked<'_>, format: &Format) -> Result<bool, BadSetting> {
    let settings = checked.kafka.settings(environment())?;
    let target = checked.database.database("sluice check", IDLE_LIMIT)?;
    let operator = checked
        .sessions
        .operator_of_its_own(checked.database, "sluice check")?;
    let redis = checked.redis.redis()?;
    let mut findings = Findings::default();
    for miss in checked.misses {
        findings.warns(
            format!("variable {}", miss.name),
            "not a setting",
            &miss.told(),
        );
    }
    let client = of_ingester(&target, checked.sessions.pool_size(), &mut findings).await;
    if let Some(operator) = &operator {
        of_operator(operator, &target, &mut findings).await;
    }
    topics::brokers(&settings, client.as_ref(), &mut findings).await;
    match &redis {
        None => findings.fits("Redis", "not set: no event is marked"),
        Some(redis) => ping(redis, &mut findings).await,
    }
    if let Err(line) = findings.print(format.output) {
        crate::terminal::tell(&format!("sluice: {line}"));
        return Ok(false);
    }
    Ok(!findings.anything_fails())
}

/// By the ingester's login; the session, where it is one of its own.
async fn of_ingester(target: &Database, pool_size: u16, findings: &mut Findings) -> Option<Client> {
    let client = connect("PostgreSQL", "DATABASE_URL", target, findings).await?;
    let client = sessions("sessions", client, target, findings).await?;
    let looks = async {
        server::look(&client, findings).await?;
        surroundings::look(&client, pool_size, findings).await
    };
    let looked = tokio::time::timeout(LIMIT, looks).await;
    failed("PostgreSQL", looked, findings);
    Some(client)
}

/// By the login of the page, where it has one of its own.
async fn of_operator(operator: &Database, ingester: &Database, findings: &mut Findings) {
    let what = "operator's login";
    let Some(client) = connect(what, "OPERATOR_DATABASE_URL", operator, findings).await else {
        return;
    };
    let Some(client) = sessions("operator's sessions", client, operator, findings).await else {
        return;
    };
    let looks = surroundings::of_operator(&client, ingester, findings);
    let looked = tokio::time::timeout(LIMIT, looks).await;
    failed(what, looked, findings);
}

/// A look that could not be finished.
fn failed(
    what: &str,
    looked: Result<Result<(), Error>, tokio::time::error::Elapsed>,
    findings: &mut Findings,
) {
    match looked {
        Ok(Ok(())) => {}
        Ok(Err(error)) => findings.fails(what, "a query failed", &describe(&error)),
        Err(_) => findings.fails(what, "a query failed", "no answer in time"),
    }
}

async fn connect(
    what: &str,
    setting: &str,
    target: &Database,
    findings: &mut Findings,
) -> Option<Client> {
    let address = target.address();
    let connected = tokio::time::timeout(LIMIT, target.connect(|_| ())).await;
    let why = match connected {
        Ok(Ok(client)) => {
            findings.fits(what, format!("{address} as {}", target.user()));
            return Some(client);
        }
        Ok(Err(error)) => describe_at(&address, &error),
        Err(_) => "no answer in time".to_owned(),
    };
    findings.fails(what, &address, &format!("{why}; see {setting}"));
    None
}

/// Behind a pooler that shares sessions every other answer would be chance: it is asked for nothing more.
async fn sessions(
    what: &str,
    client: Client,
    target: &Database,
    findings: &mut Findings,
) -> Option<Client> {
    let looked = tokio::time::timeout(LIMIT, pooler::is_between(&client, target)).await;
    let why = match looked {
        Ok(Ok(false)) => {
            findings.fits(what, "its own");
            return Some(client);
        }
        Ok(Ok(true)) => pooler::ADVICE.to_owned(),
        Ok(Err(error)) => describe(&error),
        Err(_) => "no answer in time".to_owned(),
    };
    findings.fails(what, "not its own", &why);
    None
}

/// Redis is done without where it is away.
async fn ping(redis: &Redis, findings: &mut Findings) {
    match tokio::time::timeout(LIMIT, redis.ping()).await {
        Ok(Ok(())) => findings.fits("Redis", "answers"),
        Ok(Err(error)) => findings.warns(
            "Redis",
            "away: no event is marked",
            &format!("REDIS_URL: {error}"),
        ),
        Err(_) => findings.warns(
            "Redis",
            "away: no event is marked",
            "REDIS_URL: no answer in time",
        ),
    }
}
