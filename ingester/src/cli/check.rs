//! `sluice check`: connects to everything and says in a table what fits and what does not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::batch::record::Kind;
use crate::config::database::DatabaseArgs;
use crate::config::kafka::{KafkaArgs, KafkaSettings};
use crate::config::redis_server::RedisArgs;
use crate::kafka::client::Kafka;
use crate::leases::topics::Topic;
use crate::partition::Partition;
use crate::postgres::database::Database;
use crate::postgres::error::describe;
use crate::postgres::pooler;
use crate::redis_marks::Redis;
use crate::schema::migrations as schema;
use crate::terminal::clean;

const LIMIT: Duration = Duration::from_secs(8);

/// One line of the table.
struct Finding {
    what: String,
    found: String,
    verdict: Verdict,
}

enum Verdict {
    Fits,
    Note(String),
    Fails(String),
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        verdict: Result<(), String>,
    ) {
        self.0.push(Finding {
            what: what.into(),
            found: found.into(),
            verdict: verdict.map_or_else(Verdict::Fails, |()| Verdict::Fits),
        });
    }

    /// What nobody can call right or wrong from here, and what to do where it is wrong.
    fn note(&mut self, what: impl Into<String>, found: impl Into<String>, advice: &str) {
        let finding = Finding {
            what: what.into(),
            found: found.into(),
            verdict: Verdict::Note(advice.to_owned()),
        };
        self.0.push(finding);
    }

    /// `advice` is what to change when `fits` is false.
    fn test(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        fits: bool,
        advice: &str,
    ) {
        self.add(
            what,
            found,
            if fits { Ok(()) } else { Err(advice.to_owned()) },
        );
    }
}

/// Whether everything fits.
pub async fn check(
    database: &DatabaseArgs,
    kafka: &KafkaArgs,
    redis: &RedisArgs,
) -> Result<bool, crate::config::setting::BadSetting> {
    let settings = kafka.settings(crate::config::setting::environment())?;
    let target = database.database("sluice check", Duration::from_secs(30))?;
    let redis = redis.redis()?;
    let mut findings = Findings::default();
    let client = connect(&target, &mut findings).await;
    let client = match client {
        Some(client) => sessions(client, &target, &mut findings).await,
        None => None,
    };
    if let Some(client) = &client {
        let trouble = match tokio::time::timeout(LIMIT, postgres(client, &mut findings)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(describe(&error)),
            Err(_) => Some("no answer in time".to_owned()),
        };
        if let Some(trouble) = trouble {
            findings.add("PostgreSQL", "a query failed", Err(trouble));
        }
    }
    brokers(&settings, client.as_ref(), &mut findings).await;
    match &redis {
        None => findings.test("Redis", "not set: the hint is off", true, ""),
        Some(redis) => ping(redis, &mut findings).await,
    }
    println!("{}", clean(&table(&findings).to_string()));
    let fails = |finding: &Finding| matches!(finding.verdict, Verdict::Fails(_));
    Ok(!findings.0.iter().any(fails))
}

async fn connect(target: &Database, findings: &mut Findings) -> Option<Client> {
    let address = target.address();
    match tokio::time::timeout(LIMIT, target.connect(|_| ())).await {
        Ok(Ok(client)) => {
            findings.test(
                "PostgreSQL",
                format!("{address} as {}", target.user()),
                true,
                "",
            );
            Some(client)
        }
        Ok(Err(error)) => {
            findings.add(
                "PostgreSQL",
                &address,
                Err(format!("{}; see DATABASE_URL", describe(&error))),
            );
            None
        }
        Err(_) => {
            findings.add(
                "PostgreSQL",
                &address,
                Err("no answer in time; see DATABASE_URL".into()),
            );
            None
        }
    }
}

async fn brokers(settings: &KafkaSettings, client: Option<&Client>, findings: &mut Findings) {
    match Kafka::connect(settings, Arc::default()) {
        Err(error) => findings.add("Kafka", &settings.brokers, Err(error)),
        Ok(kafka) => {
            let wanted = crate::leases::topics::Topics::new(settings);
            let registered = match client {
                Some(client) => {
                    let asked =
                        tokio::time::timeout(LIMIT, crate::leases::topics::registered(client));
                    asked.await.ok().and_then(Result::ok).unwrap_or_default()
                }
                None => Vec::new(),
            };
            let kafka = Arc::new(kafka);
            // By its callbacks Kafka says why it refuses.
            kafka.serve();
            let look = Look {
                kafka: kafka.clone(),
                brokers: &settings.brokers,
                client,
            };
            let wanted = wanted.with(&registered);
            if let Err(error) = look.topics(&wanted, settings, findings).await {
                let refusal = kafka.refusal();
                let advice = refusal.unwrap_or_else(|| format!("{error}; see KAFKA_BROKERS"));
                findings.add("Kafka", &settings.brokers, Err(advice));
            }
        }
    }
}

fn table(findings: &Findings) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["check", "found", "", "what to change"]);
    for finding in &findings.0 {
        let (word, advice) = match &finding.verdict {
            Verdict::Fits => ("ok", ""),
            Verdict::Note(advice) => ("note", advice.as_str()),
            Verdict::Fails(advice) => ("FAIL", advice.as_str()),
        };
        table.add_row([&finding.what, &finding.found, word, advice]);
    }
    table
}

/// Behind a pooler that shares sessions every other answer would be chance: it is asked for nothing more.
async fn sessions(client: Client, target: &Database, findings: &mut Findings) -> Option<Client> {
    let looked = tokio::time::timeout(LIMIT, pooler::is_between(&client, target)).await;
    let verdict = match looked {
        Ok(Ok(false)) => Ok(()),
        Ok(Ok(true)) => Err(pooler::ADVICE.to_owned()),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err("no answer in time; see DATABASE_URL".to_owned()),
    };
    let (found, client) = match verdict {
        Ok(()) => ("its own", Some(client)),
        Err(_) => ("not its own", None),
    };
    findings.add("sessions", found, verdict);
    client
}

async fn postgres(client: &Client, findings: &mut Findings) -> Result<(), tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::int,
                current_setting('synchronous_commit'), current_setting('fsync'), pg_is_in_recovery(), current_user::text",
            &[],
        )
        .await?;
    let user: String = row.get(5);
    findings.test(
        "server version",
        row.get::<_, &str>(0),
        row.get::<_, i32>(1) >= 150_000,
        "PostgreSQL 15 or newer is needed",
    );
    let durable: &str = row.get(2);
    findings.test(
        "synchronous_commit",
        durable,
        !["off", "local"].contains(&durable),
        "set it to on",
    );
    findings.test(
        "fsync",
        row.get::<_, &str>(3),
        row.get::<_, &str>(3) == "on",
        "set it to on, or a crash loses money",
    );
    findings.test(
        "role of the server",
        if row.get(4) { "standby" } else { "primary" },
        !row.get::<_, bool>(4),
        "connect to the primary",
    );
    let version = schema::extension(client).await?;
    let wanted = schema::EXTENSION_VERSION;
    findings.test(
        "extension sluice",
        version.as_deref().unwrap_or("missing"),
        version.as_deref() == Some(wanted),
        &format!("run `sluice migrate`: this binary wants {wanted}"),
    );
    match schema::standing(client).await {
        Ok(standing) => {
            let (level, advice) = standing.told();
            findings.test(
                "migrations",
                format!("{level} of {}", schema::newest()),
                standing.is_newest(),
                &advice,
            );
        }
        Err(error) => findings.add(
            "migrations",
            "not readable",
            Err(format!(
                "{}: GRANT sluice_writer TO {user}",
                describe(&error)
            )),
        ),
    }
    privileges(client, &user, version.is_some(), findings).await
}

async fn privileges(
    client: &Client,
    user: &str,
    installed: bool,
    findings: &mut Findings,
) -> Result<(), tokio_postgres::Error> {
    if !installed {
        return Ok(());
    }
    let may: bool = client
        .query_one("SELECT pg_has_role('sluice_writer', 'USAGE')", &[])
        .await?
        .get(0);
    findings.test(
        "role sluice_writer",
        user,
        may,
        &format!("GRANT sluice_writer TO {user}"),
    );
    let missing = schema::missing(client).await?;
    findings.test(
        "functions, views, triggers, columns, grants",
        match missing.len() {
            0 => "all there".to_owned(),
            count => format!("{count} missing"),
        },
        missing.is_empty(),
        &missing.join("; "),
    );
    let tables = "SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relnamespace = to_regnamespace('ledger') AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
            AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') ORDER BY 1";
    let open: Vec<String> = client
        .query(tables, &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let found = if open.is_empty() {
        "functions only".to_owned()
    } else {
        format!("may write {}", open.join(", "))
    };
    findings.test(
        "least privilege",
        found,
        open.is_empty(),
        "let the ingester log in as a plain member of sluice_writer",
    );
    other_writers(client, &missing, findings).await
}

/// What Sluice relies on: that nobody else writes its tables.
async fn other_writers(
    client: &Client,
    missing: &[String],
    findings: &mut Findings,
) -> Result<(), tokio_postgres::Error> {
    // Said already.
    if missing
        .iter()
        .any(|missing| missing.contains("other_writers"))
    {
        return Ok(());
    }
    let writers = "SELECT kind, writer, writes FROM sluice.other_writers()";
    let rows = client.query(writers, &[]).await?;
    if rows.is_empty() {
        findings.test("only writer", "nobody else", true, "");
    }
    for row in &rows {
        let (kind, writer, writes): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let advice = match kind {
            "login" => format!(
                "REVOKE its right, also roles that it is a member of, unless it is yours: {writer} can change things by the functions of schema sluice"
            ),
            // Known by the text of its function alone.
            "trigger" => "drop it, unless it never writes there".to_owned(),
            _ => format!("drop the {kind}"),
        };
        findings.note(
            "only writer",
            format!("{kind} {writer} ({writes})"),
            &advice,
        );
    }
    Ok(())
}

/// What the topics are looked at with.
struct Look<'c> {
    kafka: Arc<Kafka>,
    brokers: &'c str,
    client: Option<&'c Client>,
}

impl Look<'_> {
    /// An error is one of Kafka as a whole.
    async fn topics(
        &self,
        topics: &BTreeMap<String, Topic>,
        settings: &KafkaSettings,
        findings: &mut Findings,
    ) -> Result<(), String> {
        let mut awaited: Vec<&str> = Vec::new();
        for (topic, wanted) in topics {
            let name = format!("topic {topic}");
            match (self.kafka.partition_count(topic).await?, wanted.setting) {
                (Some(count), _) => {
                    findings.test(name, self.partitions(count), true, "");
                    if let Some(client) = self.client {
                        offsets(&self.kafka, topic, client, findings).await;
                    }
                }
                (None, Some(setting)) => {
                    let advice = format!("create it or change {setting}");
                    findings.add(name, "missing", Err(advice));
                }
                (None, None) if wanted.kind == Kind::Balance => {
                    findings.test(name, "not there yet: read once it is", true, "");
                }
                (None, None) => awaited.push(topic),
            }
        }
        if !awaited.is_empty() {
            let first = awaited[..awaited.len().min(3)].join(", ");
            let more = if awaited.len() > 3 { ", …" } else { "" };
            findings.test(
                "topics of handlers",
                format!("{} not there yet: {first}{more}", awaited.len()),
                true,
                "",
            );
        }
        if settings.dlq_topic.is_none() {
            findings.test("dead letter topic", "DLQ_TOPIC is empty: none", true, "");
        }
        for (what, setting, topic) in [
            ("dead letter topic", "DLQ_TOPIC", &settings.dlq_topic),
            ("results topic", "RESULTS_TOPIC", &settings.results_topic),
        ] {
            let Some(topic) = topic else { continue };
            let name = format!("{what} {topic}");
            match self.kafka.partition_count(topic).await? {
                Some(count) => findings.test(name, self.partitions(count), true, ""),
                None => findings.note(
                    name,
                    "missing",
                    &format!(
                        "create it or change {setting}, unless the broker creates topics by itself"
                    ),
                ),
            }
        }
        Ok(())
    }

    fn partitions(&self, count: i32) -> String {
        format!("{count} partitions at {}", self.brokers)
    }
}

/// Whether Kafka still has what the database wants to read next.
async fn offsets(kafka: &Arc<Kafka>, topic: &str, client: &Client, findings: &mut Findings) {
    let committed = "SELECT l.partition, p.commit_offset FROM ledger.partition_progress p
        JOIN ledger.partition_leases l USING (partition_id) WHERE l.topic = $1 AND p.started_at IS NOT NULL ORDER BY 1";
    let which: [&(dyn ToSql + Sync); 1] = [&topic];
    let asked = tokio::time::timeout(LIMIT, client.query(committed, &which)).await;
    let Ok(Ok(rows)) = asked else {
        return;
    };
    let (mut behind, mut faults) = (0, Vec::new());
    for row in &rows {
        let partition = Partition {
            topic: topic.to_owned(),
            number: row.get(0),
        };
        let next: i64 = row.get(1);
        match kafka.watermarks(&partition).await {
            Ok(Some(ends)) if next < ends.low => {
                faults.push(format!(
                    "{partition}: offsets {next} to {} are gone (retention)",
                    ends.low - 1
                ));
            }
            Ok(Some(ends)) if next > ends.high => {
                faults.push(format!(
                    "{partition} ends at {}, before the committed {next}",
                    ends.high
                ));
            }
            Ok(Some(ends)) => behind += ends.high - next,
            Ok(None) => faults.push(format!("{partition} does not exist any more")),
            Err(error) => faults.push(format!("{partition}: {error}")),
        }
    }
    let verdict = if faults.is_empty() {
        Ok(())
    } else {
        Err(faults.join("; "))
    };
    findings.add(
        format!("offsets of {topic}"),
        format!("{} partitions read, {behind} records behind", rows.len()),
        verdict,
    );
}

async fn ping(redis: &Redis, findings: &mut Findings) {
    match tokio::time::timeout(LIMIT, redis.ping()).await {
        Ok(Ok(())) => findings.test("Redis", "answers", true, ""),
        Ok(Err(error)) => {
            findings.add("Redis", "not usable", Err(format!("REDIS_URL: {error}")));
        }
        Err(_) => findings.add("Redis", "no answer in time", Err("see REDIS_URL".into())),
    }
}
