//! TLS to PostgreSQL, Kafka and Redis, on servers whose certificates a private CA has signed.

use std::time::Duration;

use proofs::database::Database;
use proofs::ingester::Ingester;
use proofs::rng::seed;
use proofs::scene::Scene;
use proofs::stack::{SecureStack, sluice_command, unique};
use proofs::wait::wait_until;
use proofs::workload::{Message, Workload};

const PATIENCE: Duration = Duration::from_secs(30);

async fn scene(secure: &SecureStack) -> Scene {
    let stack = secure.stack.clone();
    let database = Database::create(&stack).await;
    let topic = unique("balance");
    stack.kafka.create_topic(&topic, 1, &[]).await;
    Scene {
        stack,
        database,
        topic,
        partitions: 1,
    }
}

/// The ingester's address of a scene's database, on the host that the certificate names.
fn address(secure: &SecureStack, scene: &Scene, host: &str) -> String {
    let login = &secure.stack.ingester;
    format!(
        "postgres://{}:{}@{host}:{}/{}",
        login.user, login.password, secure.stack.postgres_port, scene.database.name
    )
}

/// Exit status and table of `sluice check`.
fn check(settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = sluice_command(&["check"], settings).output();
    let output = output.expect("sluice can be run");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_lets_in_by_plain_scram_and_certificate() {
    let secure = SecureStack::get();
    let scene = scene(secure).await;
    let url = address(secure, &scene, "localhost");
    let base = [
        ("DATABASE_URL", url.as_str()),
        ("BALANCE_TOPICS", &scene.topic),
    ];
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let settings = [base[0], base[1], ("KAFKA_SASL_MECHANISM", mechanism)];
        let (status, text) = check(&secure.settings(&settings));
        assert_eq!(status, Some(0), "{mechanism}:\n{text}");
    }
    let brokers = format!("localhost:{}", secure.port("KAFKA_SSL_PORT"));
    let (certificate, key) = (
        secure.certificate("client.crt"),
        secure.certificate("client.key"),
    );
    let by_certificate = [
        base[0],
        base[1],
        ("KAFKA_BROKERS", brokers.as_str()),
        ("KAFKA_SECURITY_PROTOCOL", "SSL"),
        ("KAFKA_SSL_CERTIFICATE_LOCATION", &certificate),
        ("KAFKA_SSL_KEY_LOCATION", &key),
        ("KAFKA_SASL_MECHANISM", ""),
        ("KAFKA_SASL_USERNAME", ""),
        ("KAFKA_SASL_PASSWORD", ""),
    ];
    let (status, text) = check(&secure.settings(&by_certificate));
    assert_eq!(status, Some(0), "{text}");
    let without = by_certificate.map(|(name, value)| match name {
        "KAFKA_SSL_CERTIFICATE_LOCATION" | "KAFKA_SSL_KEY_LOCATION" => (name, ""),
        _ => (name, value),
    });
    let (status, text) = check(&secure.settings(&without));
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("KAFKA_SSL_KEY_LOCATION"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_lets_in_by_certificate() {
    let secure = SecureStack::get();
    let scene = scene(secure).await;
    let server = scene.database.session().await;
    server
        .batch_execute(
            "CREATE ROLE sluice_certified LOGIN; GRANT sluice_writer TO sluice_certified",
        )
        .await
        .expect("a login");
    let url = format!(
        "postgres://sluice_certified@localhost:{}/{}",
        secure.stack.postgres_port, scene.database.name
    );
    let (certificate, key) = (
        secure.certificate("client.crt"),
        secure.certificate("client.key"),
    );
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("BALANCE_TOPICS", &scene.topic),
        ("DB_SSLCERT", &certificate),
        ("DB_SSLKEY", &key),
    ];
    let (status, text) = check(&secure.settings(&settings));
    assert_eq!(status, Some(0), "{text}");
    let (status, text) = check(&secure.settings(&settings[..2]));
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("client certificate"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_through_by_tls_all_the_way() {
    let secure = SecureStack::get();
    let scene = scene(secure).await;
    let (dlq, results) = (unique("dlq"), unique("results"));
    for topic in [&dlq, &results] {
        scene.kafka().create_topic(topic, 1, &[]).await;
    }
    let url = address(secure, &scene, "localhost");
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("BALANCE_TOPICS", &scene.topic),
        ("DLQ_TOPIC", &dlq),
        ("RESULTS_TOPIC", &results),
    ];
    let mut ingester = Ingester::start(
        &secure.stack,
        &url,
        &scene.topic,
        &secure.settings(&settings),
    );
    scene.fill(&Workload::new(seed()), 500).await;
    scene
        .kafka()
        .produce(&scene.topic, 0, [Message::of("no event")]);
    scene
        .verify(proofs::compare::Accounts::OfOnePartition)
        .await;
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                 WHERE application_name LIKE 'sluice/%' AND datname = current_database() AND NOT ssl";
    let secret = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                  WHERE application_name LIKE 'sluice/%' AND datname = current_database() AND ssl";
    assert_eq!(scene.database.count(plain).await, 0);
    assert!(scene.database.count(secret).await > 0);
    for topic in [&dlq, &results] {
        let what = format!("something in {topic}");
        wait_until(&what, PATIENCE, async || {
            scene.kafka().ends(topic, 1)[0] > 0
        })
        .await;
    }
    let marked = || {
        redis(secure, &["DBSIZE"])
            .parse::<i64>()
            .unwrap_or_default()
    };
    wait_until("marks in Redis", PATIENCE, async || marked() > 0).await;
    ingester.stop().await;
}

fn redis(secure: &SecureStack, arguments: &[&str]) -> String {
    let (_, rest) = secure.stack.redis_url.split_once("://:").expect("a URL");
    let (password, host) = rest.split_once('@').expect("a password");
    let (_, port) = host.split_once(':').expect("a port");
    let output = std::process::Command::new("redis-cli")
        .args(["-h", "localhost", "-p", port, "--tls"])
        .args(["--cacert", &secure.certificate("ca.crt")])
        .args(["--cert", &secure.certificate("client.crt")])
        .args(["--key", &secure.certificate("client.key")])
        .args(arguments)
        .env("REDISCLI_AUTH", password)
        .output()
        .expect("redis-cli");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_and_named_by_check() {
    let secure = SecureStack::get();
    let scene = scene(secure).await;
    let url = address(secure, &scene, "localhost");
    let by_address = address(secure, &scene, "127.0.0.1");
    let stranger = secure.certificate("stranger.crt");
    let brokers = secure
        .setting("KAFKA_BROKERS")
        .replace("localhost", "127.0.0.1");
    let redis_url = secure
        .setting("REDIS_URL")
        .replace("localhost", "127.0.0.1");
    let plain_redis = secure.setting("REDIS_URL").replace("rediss:", "redis:");
    let wrong_redis = secure.setting("REDIS_URL").replacen("://:", "://:x", 1);
    let (stranger, by_address) = (stranger.as_str(), by_address.as_str());
    let (brokers, redis_url, wrong_redis) =
        (brokers.as_str(), redis_url.as_str(), wrong_redis.as_str());
    for (what, settings, names) in [
        (
            "PostgreSQL",
            vec![("DB_SSLROOTCERT", stranger)],
            "sslrootcert (DB_SSLROOTCERT) must name the CA",
        ),
        (
            "PostgreSQL",
            vec![("DATABASE_URL", by_address)],
            "the host of DATABASE_URL (DB_HOST) must name one",
        ),
        (
            "PostgreSQL",
            vec![("DB_SSLMODE", "disable")],
            "no encryption",
        ),
        (
            "Kafka",
            vec![("KAFKA_SSL_CA_LOCATION", stranger)],
            "KAFKA_SSL_CA_LOCATION must name the CA",
        ),
        (
            "Kafka",
            vec![("KAFKA_BROKERS", brokers)],
            "KAFKA_BROKERS a host that stands in it",
        ),
        (
            "Kafka",
            vec![("KAFKA_SASL_PASSWORD", "wrong")],
            "KAFKA_SASL_PASSWORD must name a login",
        ),
        (
            "Kafka",
            vec![("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")],
            "KAFKA_SECURITY_PROTOCOL is not what",
        ),
        (
            "Redis",
            vec![("REDIS_CA", stranger)],
            "REDIS_CA must name the CA",
        ),
        (
            "Redis",
            vec![("REDIS_URL", redis_url)],
            "the host of REDIS_URL (REDIS_HOST) must name one",
        ),
        (
            "Redis",
            vec![("REDIS_CERT", ""), ("REDIS_KEY", "")],
            "REDIS_CERT and REDIS_KEY must name one",
        ),
        (
            "Redis",
            vec![("REDIS_URL", wrong_redis)],
            "REDIS_PASSWORD, or REDIS_URL, must name a login",
        ),
    ] {
        let mut all = vec![
            ("DATABASE_URL", url.as_str()),
            ("BALANCE_TOPICS", &scene.topic),
        ];
        all.retain(|(name, _)| settings.iter().all(|(another, _)| another != name));
        all.extend(&settings);
        let (status, text) = check(&secure.settings(&all));
        // Redis is done without.
        let (verdict, expected) = if what == "Redis" {
            ("warn", 0)
        } else {
            ("fail", 1)
        };
        assert_eq!(status, Some(expected), "{settings:?}:\n{text}");
        let of_verdict = |line: &&str| line.starts_with(verdict) && !line.contains("topic ");
        let lines: Vec<&str> = text.lines().filter(of_verdict).collect();
        assert!(
            lines.len() == 1 && lines[0].contains(what) && lines[0].contains(names),
            "{settings:?} is not refused by {names:?}:\n{text}"
        );
    }
    let all = [("DATABASE_URL", url.as_str()), ("REDIS_URL", &plain_redis)];
    let (status, text) = check(&secure.settings(&all));
    assert_eq!(status, Some(2), "{text}");
    assert!(
        text.contains("REDIS_CA") && text.contains("rediss://"),
        "{text}"
    );
    // A server that speaks no TLS is not talked to without, where TLS is asked for.
    let plain = Scene::new(1).await;
    let (status, text) = check(&[
        ("DATABASE_URL", &plain.database.url),
        ("DB_SSLMODE", "require"),
        ("KAFKA_BROKERS", &plain.kafka().brokers),
        ("BALANCE_TOPICS", &plain.topic),
    ]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("server does not support TLS"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_ingester_names_a_wrong_ca() {
    let secure = SecureStack::get();
    let scene = scene(secure).await;
    let url = address(secure, &scene, "localhost");
    let stranger = secure.certificate("stranger.crt");
    let start = |name| {
        let all = [
            ("DATABASE_URL", url.as_str()),
            ("BALANCE_TOPICS", &scene.topic),
            (name, stranger.as_str()),
        ];
        Ingester::start(&secure.stack, &url, &scene.topic, &secure.settings(&all))
    };
    // Nobody but the operator can mend it: as with a wrong password, the start ends.
    let mut without_database = start("DB_SSLROOTCERT");
    let status = without_database.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(1));
    assert!(
        without_database
            .log()
            .contains("sslrootcert (DB_SSLROOTCERT) must name the CA"),
        "{}",
        without_database.log()
    );
    let mut without_kafka = start("KAFKA_SSL_CA_LOCATION");
    without_kafka
        .logs("KAFKA_SSL_CA_LOCATION must name the CA", PATIENCE)
        .await;
    let (_, health) = without_kafka.get("/health").await;
    assert!(health.contains(r#""status": "down""#), "{health}");
    without_kafka.stop().await;
    // Redis is done without.
    let mut without_redis = start("REDIS_CA");
    without_redis
        .logs("REDIS_CA must name the CA", PATIENCE)
        .await;
    scene.fill(&Workload::new(seed()), 50).await;
    scene.caught_up().await;
    without_redis.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_all_services_may_stand_in_files() {
    let secure = SecureStack::get();
    let scene = scene(secure).await;
    let file = |secret: &str| {
        let file = scene.stack.dir.join(unique("secret"));
        std::fs::write(&file, format!("{secret}\n")).expect("written");
        file.display().to_string()
    };
    let url = address(secure, &scene, "localhost");
    let port = secure.stack.postgres_port.to_string();
    let (_, rest) = secure.stack.redis_url.split_once("://:").expect("a URL");
    let (redis_password, redis_at) = rest.split_once('@').expect("a password");
    let (redis_host, redis_port) = redis_at.split_once(':').expect("a port");
    let (of_url, of_password, of_kafka, of_redis, of_redis_url) = (
        file(&url),
        file(&secure.stack.ingester.password),
        file(secure.setting("KAFKA_SASL_PASSWORD")),
        file(redis_password),
        file(&secure.stack.redis_url),
    );
    let by_url = [
        ("DATABASE_URL", ""),
        ("DATABASE_URL_FILE", of_url.as_str()),
        ("KAFKA_SASL_PASSWORD", ""),
        ("KAFKA_SASL_PASSWORD_FILE", &of_kafka),
        ("REDIS_URL", ""),
        ("REDIS_URL_FILE", &of_redis_url),
        ("BALANCE_TOPICS", &scene.topic),
    ];
    let by_host = [
        ("DATABASE_URL", ""),
        ("DB_HOST", "localhost"),
        ("DB_PORT", &port),
        ("DB_USERNAME", &secure.stack.ingester.user),
        ("DB_DATABASE", &scene.database.name),
        ("DB_PASSWORD_FILE", &of_password),
        ("KAFKA_SASL_PASSWORD", ""),
        ("KAFKA_SASL_PASSWORD_FILE", &of_kafka),
        ("REDIS_URL", ""),
        ("REDIS_HOST", redis_host),
        ("REDIS_PORT", redis_port),
        ("REDIS_TLS", "true"),
        ("REDIS_PASSWORD_FILE", &of_redis),
        ("BALANCE_TOPICS", &scene.topic),
    ];
    for settings in [&by_url[..], &by_host] {
        let (status, text) = check(&secure.settings(settings));
        assert_eq!(status, Some(0), "{settings:?}:\n{text}");
    }
    for (name, given, file) in [
        ("DATABASE_URL_FILE", ("DATABASE_URL", url.as_str()), &of_url),
        ("DB_PASSWORD_FILE", ("DB_PASSWORD", "x"), &of_password),
        (
            "ADMIN_DATABASE_URL_FILE",
            ("ADMIN_DATABASE_URL", &url),
            &of_url,
        ),
        (
            "REDIS_URL_FILE",
            ("REDIS_URL", &secure.stack.redis_url),
            &of_redis_url,
        ),
        ("REDIS_PASSWORD_FILE", ("REDIS_PASSWORD", "x"), &of_redis),
        (
            "KAFKA_SASL_PASSWORD_FILE",
            ("KAFKA_SASL_PASSWORD", "x"),
            &of_kafka,
        ),
    ] {
        let settings = [("DATABASE_URL", url.as_str()), given, (name, file.as_str())];
        let settings = if given.0 == "DATABASE_URL" {
            &settings[1..]
        } else {
            &settings
        };
        let (status, text) = check(&secure.settings(settings));
        assert_eq!(status, Some(2), "{name}:\n{text}");
        assert!(
            text.contains(&format!("{name}: {} is set, too", given.0)),
            "{name}:\n{text}"
        );
    }
    // And a record goes all the way.
    let mut ingester = Ingester::start(&secure.stack, "", &scene.topic, &secure.settings(&by_host));
    let payload = br#"{"eventId":"a","eventType":"balance.changed","data":{"accountId":1,"changes":[{"currencyCode":"USD","availableDelta":"1"}]}}"#;
    scene.kafka().produce(
        &scene.topic,
        0,
        [Message {
            key: None,
            payload: Some(payload.to_vec()),
            headers: Vec::new(),
        }],
    );
    scene.caught_up().await;
    ingester.stop().await;
}
