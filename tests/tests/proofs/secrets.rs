//! Secrets appear nowhere: not in the output of any command, successful or not, nor in logs, process lists, HTTP
//! answers, tables, sessions or topics.

use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use proofs::database::Database;
use proofs::ingester::Ingester;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene};
use proofs::stack::{SecureStack, sluice_command, unique};
use proofs::wait::wait_until;
use proofs::workload::{Message, Workload};

/// A secret that opens nothing.
const CANARY: &str = "c4n4ry0f5luice";

/// All that must be seen nowhere.
struct Secrets(Vec<String>);

impl Secrets {
    fn of(secure: &SecureStack) -> Self {
        let stack = &secure.stack;
        let (_, redis) = stack.redis_url.split_once("://:").expect("a URL");
        let (redis, _) = redis.split_once('@').expect("a password");
        Self(vec![
            CANARY.to_owned(),
            stack.admin.password.clone(),
            stack.ingester.password.clone(),
            secure.setting("KAFKA_SASL_PASSWORD").to_owned(),
            redis.to_owned(),
        ])
    }

    fn assert_absent(&self, place: &str, text: &str) {
        for secret in &self.0 {
            assert!(
                !text.contains(secret.as_str()),
                "{place} shows a secret:\n{text}"
            );
        }
    }

    fn assert_not_said(&self, place: &str, output: &Output) {
        for bytes in [&output.stdout, &output.stderr] {
            self.assert_absent(place, &String::from_utf8_lossy(bytes));
        }
    }
}

/// Each command as it is used; a new one has to be added here.
fn commands<'a>(partition: &'a str, folder: &'a str) -> Vec<Vec<&'a str>> {
    vec![
        vec!["migrate"],
        vec!["check"],
        vec!["uninstall"],
        vec!["status"],
        vec!["status", "--output", "json"],
        vec!["partitions"],
        vec!["prune", "--topic", "balance.changed", "--dry-run"],
        vec!["pause", partition, "--why", "a test"],
        vec!["resume", partition],
        vec!["step-down", partition],
        vec!["accept", partition, "--why", "a test"],
        vec!["bury", partition, "1000000", "--why", "a test"],
        vec![
            "bury",
            partition,
            "1000000",
            "--withdraw",
            "--why",
            "a test",
        ],
        vec!["dlq", "list"],
        vec!["dlq", "show", "1"],
        vec!["dlq", "stats"],
        vec!["dlq", "replay", "--since", "yesterday"],
        vec!["dlq", "discard", "--since", "yesterday"],
        vec!["dlq", "export"],
        vec!["events", "list"],
        vec!["events", "schema", "user.created"],
        vec!["events", "sample", "user.created"],
        vec!["events", "find", "nobody"],
        vec!["events", "topics"],
        vec!["plan", "--events-per-day", "1000", "--watch", "0"],
        vec!["completions", "bash"],
        vec!["man", folder],
        vec!["version"],
        vec!["help"],
    ]
}

/// The names of all commands, from the help.
fn all_commands() -> BTreeSet<String> {
    let output = sluice_command(&["--help"], &[])
        .output()
        .expect("sluice --help");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

struct World {
    secure: &'static SecureStack,
    scene: Scene,
    url: String,
    admin_url: String,
    dlq: String,
    results: String,
}

impl World {
    async fn new() -> Self {
        let secure = SecureStack::get();
        let stack = secure.stack.clone();
        let database = Database::create(&stack).await;
        let (topic, dlq, results) = (unique("balance"), unique("dlq"), unique("results"));
        for topic in [&topic, &dlq, &results] {
            stack.kafka.create_topic(topic, 1, &[]).await;
        }
        let address = |user: &str, password: &str| {
            format!(
                "postgres://{user}:{password}@localhost:{}/{}",
                stack.postgres_port, database.name
            )
        };
        Self {
            url: address(&stack.ingester.user, &stack.ingester.password),
            admin_url: address(&stack.admin.user, &stack.admin.password),
            scene: Scene {
                stack: stack.clone(),
                database,
                topic,
                partitions: 1,
            },
            secure,
            dlq,
            results,
        }
    }

    fn settings<'s>(&'s self, other: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
        let mut all = vec![
            ("DATABASE_URL", self.url.as_str()),
            ("ADMIN_DATABASE_URL", &self.admin_url),
            ("BALANCE_TOPICS", &self.scene.topic),
            ("DLQ_TOPIC", &self.dlq),
            ("RESULTS_TOPIC", &self.results),
            ("RUST_LOG", "trace"),
            ("KAFKA_SASL_MECHANISM", "PLAIN"),
        ];
        all.retain(|(name, _)| other.iter().all(|(another, _)| another != name));
        all.extend(other);
        self.secure.settings(&all)
    }

    /// Everything in the tables, the sessions and the server's log.
    async fn database_says(&self) -> String {
        let relations = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('ledger', 'domain', 'sluice') AND c.relkind IN ('r', 'p', 'v', 'm')";
        let client = &self.scene.database.client;
        let mut said = String::new();
        let relations = client.query(relations, &[]).await.expect("the catalog");
        assert!(relations.len() > 20);
        let mut names: Vec<String> = relations.iter().map(|row| row.get(0)).collect();
        names.push("pg_catalog.pg_stat_activity".to_owned());
        for name in names {
            let all = format!("SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM {name} t");
            let row = client.query_one(&all, &[]).await.expect(&name);
            said += row.get::<_, &str>(0);
        }
        let log = std::fs::read(self.scene.stack.dir.join("pg/log")).expect("the server's log");
        said + &*String::from_utf8_lossy(&log)
    }

    fn kafka_says(&self) -> String {
        let topics = [&self.dlq, &self.results, &self.scene.topic];
        let records = topics.map(|topic| self.scene.kafka().read(topic, 0));
        let bytes = |bytes: &Option<Vec<u8>>| {
            String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned()
        };
        records
            .iter()
            .flatten()
            .map(|record| {
                let message = &record.message;
                let headers = message.headers.iter();
                let headers: String = headers
                    .map(|(name, value)| name.clone() + bytes(value).as_str())
                    .collect();
                bytes(&message.key) + bytes(&message.payload).as_str() + headers.as_str()
            })
            .collect()
    }
}

/// Whatever it answers by HTTP.
async fn http_says(ingester: &Ingester) -> String {
    let mut said = String::new();
    for path in ["/", "/health", "/livez", "/readyz", "/metrics", "/nothing"] {
        said += &ingester.get(path).await.1;
    }
    said
}

fn argv(ingester: &Ingester) -> String {
    let bytes = std::fs::read(format!("/proc/{}/cmdline", ingester.pid())).expect("it runs");
    assert!(!bytes.is_empty());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_shows_a_secret_well_or_ill() {
    let world = World::new().await;
    let secrets = Secrets::of(world.secure);
    let wrong_url = format!(
        "postgres://nobody:{CANARY}@localhost:{}/d",
        world.scene.stack.postgres_port
    );
    let away_url = format!("postgres://nobody:{CANARY}@localhost:1/d");
    let (_, redis_at) = world.secure.stack.redis_url.split_once('@').expect("a URL");
    let wrong_redis = format!("rediss://:{CANARY}@{redis_at}");
    let away_redis = format!("rediss://:{CANARY}@localhost:1");
    let wrong = [
        ("DATABASE_URL", wrong_url.as_str()),
        ("ADMIN_DATABASE_URL", &wrong_url),
        ("KAFKA_SASL_PASSWORD", CANARY),
        ("REDIS_URL", &wrong_redis),
    ];
    let away = [
        ("DATABASE_URL", away_url.as_str()),
        ("ADMIN_DATABASE_URL", &away_url),
        ("KAFKA_BROKERS", "localhost:1"),
        ("KAFKA_SASL_PASSWORD", CANARY),
        ("REDIS_URL", &away_redis),
    ];
    let partition = format!("{}/0", world.scene.topic);
    let folder = world
        .scene
        .stack
        .dir
        .join(unique("man"))
        .display()
        .to_string();
    let commands = commands(&partition, &folder);
    let mut tried: BTreeSet<String> = commands.iter().map(|words| words[0].to_owned()).collect();
    // By the test below.
    tried.insert("run".to_owned());
    assert_eq!(tried, all_commands(), "a command is not tried here");
    for settings in [&[][..], &wrong, &away] {
        let settings = world.settings(settings);
        for words in &commands {
            let output = sluice_command(words, &settings).output().expect("sluice");
            secrets.assert_not_said(&format!("{words:?}"), &output);
        }
    }
    for name in all_commands() {
        let output = sluice_command(&[&name, "--help"], &world.settings(&[])).output();
        secrets.assert_not_said(&format!("{name} --help"), &output.expect("sluice"));
    }
    secrets.assert_absent("the database", &world.database_says().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_running_ingester_shows_a_secret() {
    let world = World::new().await;
    let secrets = Secrets::of(world.secure);
    let (stack, topic) = (&world.scene.stack, &world.scene.topic);
    let run = |settings: &[(&str, &str)]| {
        let address = settings.iter().find(|(name, _)| *name == "DATABASE_URL");
        let address = address.map_or(world.url.as_str(), |(_, url)| *url);
        Ingester::start(stack, address, topic, &world.settings(settings))
    };
    let mut ingester = run(&[]);
    world.scene.fill(&Workload::new(seed()), 300).await;
    world
        .scene
        .kafka()
        .produce(topic, 0, [Message::of("no event")]);
    world.scene.caught_up().await;
    wait_until("letters and results to be told", STALL, async || {
        let ends = [&world.dlq, &world.results].map(|topic| world.scene.kafka().ends(topic, 1)[0]);
        ends[0] > 0 && ends[1] > 300
    })
    .await;
    secrets.assert_absent("HTTP", &http_says(&ingester).await);
    secrets.assert_absent("argv", &argv(&ingester));
    secrets.assert_absent("the database", &world.database_says().await);
    ingester.stop().await;
    let log = ingester.log();
    assert!(
        log.contains("TRACE") && log.contains("DEBUG"),
        "the log says all"
    );
    secrets.assert_absent("the log", &log);
    secrets.assert_absent("Kafka", &world.kafka_says());

    let wrong = format!(
        "postgres://nobody:{CANARY}@localhost:{}/d",
        stack.postgres_port
    );
    let away = format!("postgres://nobody:{CANARY}@localhost:1/d");
    let (_, redis_at) = stack.redis_url.split_once('@').expect("a URL");
    let wrong_redis = format!("rediss://:{CANARY}@{redis_at}");
    let mut refused = run(&[("DATABASE_URL", &wrong)]);
    refused.ended(Duration::from_secs(30)).await;
    secrets.assert_absent("the log of one that is refused", &refused.log());
    for (what, settings) in [
        ("trying again", [("DATABASE_URL", away.as_str())]),
        ("KAFKA_SASL_PASSWORD", [("KAFKA_SASL_PASSWORD", CANARY)]),
        ("REDIS_PASSWORD", [("REDIS_URL", wrong_redis.as_str())]),
    ] {
        let mut waiting = run(&settings);
        waiting.logs(what, Duration::from_secs(30)).await;
        secrets.assert_absent("HTTP", &http_says(&waiting).await);
        secrets.assert_absent("argv", &argv(&waiting));
        waiting.stop().await;
        secrets.assert_absent("the log of one that waits", &waiting.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bad_setting_quotes_a_secret() {
    let world = World::new().await;
    let secrets = Secrets::of(world.secure);
    let file = world.scene.stack.dir.join(unique("secret"));
    std::fs::write(&file, CANARY).expect("written");
    let file = file.display().to_string();
    let addresses = [
        CANARY.to_owned(),
        format!("postgres://u:p@{CANARY}@h/d"),
        format!("postgres://u:{CANARY}@h:port/d"),
        format!("postgres://u:p@h/d?{CANARY}=1"),
        format!("postgres://u:{CANARY}@h/d?sslrootcert=/no/such/file"),
        format!("host=h password=a {CANARY}"),
        format!("host=h password='{CANARY}"),
    ];
    let mut bad: Vec<(&str, &str)> = Vec::new();
    for address in &addresses {
        bad.push(("DATABASE_URL", address));
        bad.push(("ADMIN_DATABASE_URL", address));
    }
    let redis = [
        CANARY.to_owned(),
        format!("redis://:{CANARY}#1@h"),
        format!("redis://u:{CANARY}/x@h"),
        format!("redis://:{CANARY}@h"),
    ];
    bad.extend(redis.iter().map(|url| ("REDIS_URL", url.as_str())));
    bad.extend([
        ("DATABASE_URL_FILE", file.as_str()),
        ("DB_PASSWORD_FILE", "/no/such/file"),
        ("KAFKA_SASL_PASSWORT", CANARY),
        ("KAFKA_SSL_KEY_PEM", CANARY),
        ("KAFKA_SASL_JAAS_CONFIG", CANARY),
    ]);
    for setting in bad {
        let mut all = world.settings(&[setting]);
        if setting.0 == "DATABASE_URL_FILE" {
            all.retain(|(name, _)| *name != "DATABASE_URL");
        }
        let command = if setting.0 == "ADMIN_DATABASE_URL" {
            "migrate"
        } else {
            "run"
        };
        let output = sluice_command(&[command], &all).output().expect("sluice");
        assert!(!output.status.success(), "{setting:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        let name = setting.0.trim_end_matches("_FILE");
        assert!(
            text.contains(name) || text.contains("REDIS_CA"),
            "{setting:?} is not named:\n{text}"
        );
        secrets.assert_not_said(&format!("{setting:?}"), &output);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_on_the_command_line_is_refused() {
    for (command, flag, name) in [
        ("run", "--database-url", "DATABASE_URL"),
        ("run", "--db-password", "DB_PASSWORD"),
        ("run", "--redis-url", "REDIS_URL"),
        ("run", "--redis-password", "REDIS_PASSWORD"),
        ("check", "--database-url", "DATABASE_URL"),
        ("migrate", "--admin-database-url", "ADMIN_DATABASE_URL"),
        ("status", "--admin-database-url", "ADMIN_DATABASE_URL"),
        ("run", "--kafka-sasl-password", "--kafka-sasl-password"),
    ] {
        for words in [
            vec![format!("{flag}={CANARY}")],
            vec![flag.to_owned(), CANARY.to_owned()],
        ] {
            let words: Vec<&str> = std::iter::once(command)
                .chain(words.iter().map(String::as_str))
                .collect();
            let output = sluice_command(&words, &[]).output().expect("sluice");
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
            assert!(text.contains(name), "{words:?}: {text}");
            assert!(!text.contains(CANARY), "{words:?}: {text}");
        }
        if name.starts_with('-') {
            continue;
        }
        let help = sluice_command(&[command, "--help"], &[])
            .output()
            .expect("sluice");
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(!help.contains(flag), "{command} offers {flag}:\n{help}");
        assert!(
            help.contains(&format!("[env: {name}]")),
            "{command} does not tell of {name}:\n{help}"
        );
    }
}
