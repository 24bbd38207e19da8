//! What people are told: no words of a library, no source file of the builder, no fault told again and again as an error.

use std::time::Duration;

use proofs::ingester::Ingester;
use proofs::scene::{STALL, Scene};
use proofs::stack::{sluice_command, unique};
use proofs::workload::{Message, credit};

/// What only a library, a compiler or Debug output says.
const OF_LIBRARIES: [&str; 22] = [
    "os error",
    "db error",
    "error communicating",
    "error connecting",
    "Error occurred",
    "Global error",
    "Meta data fetch",
    "Client creation",
    "Client config",
    "Admin operation",
    "(Local:",
    "(Broker:",
    "BrokerTransport",
    "invalid digit",
    "found in string",
    "invalid value for option",
    "connection string",
    "/src/",
    ".rs:",
    ".c:",
    "error:0",
    "`error",
];

fn assert_plain(what: &str, text: &str) {
    let found: Vec<_> = OF_LIBRARIES
        .iter()
        .filter(|words| text.contains(**words))
        .collect();
    assert!(found.is_empty(), "{what} says {found:?}:\n{text}");
}

/// Exit status, and both outputs.
fn said(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = sluice_command(arguments, environment).output();
    let output = output.expect("sluice runs, and ends by itself");
    let both = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&both).into_owned(),
    )
}

/// Each way to be wrong, and a word of the line that says so.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_has_the_words_of_a_library() {
    let scene = Scene::new(1).await;
    let url = scene.database.url.as_str();
    let (_, at) = scene.database.admin_url.rsplit_once('@').expect("a URL");
    let stranger = format!("postgres://nobody:wrong@{at}");
    let elsewhere = format!("{url}_that_is_not_there");
    let tls = format!("{url}?sslmode=require");
    let kafka = scene.kafka().brokers.as_str();
    let folder = scene.stack.dir.join(unique("migrations"));
    std::fs::create_dir(&folder).expect("a folder of our own");
    std::fs::write(folder.join("V1__wrong.sql"), "SELECT nothing").expect("written");
    let folder = folder.display().to_string();
    let migrate = ["migrate", "--also", &folder];
    let page = ["events", "find", "e"];
    let admin = scene.database.admin_url.as_str();
    for (arguments, changed, told) in [
        (
            &["run"][..],
            ("BATCH_SIZE", "many"),
            "is not a whole number",
        ),
        (&["run"], ("BATCH_SIZE", "0"), "must be from 1 to 100000"),
        (&["run"], ("HTTP_HOST", "here"), "is not an IP address"),
        (
            &["run"],
            ("RUST_LOG", "sluice=loud"),
            "RUST_LOG: must be a level",
        ),
        (
            &["run"],
            ("KAFKA_BROKERS", "kafka://b1:9092"),
            "KAFKA_SECURITY_PROTOCOL",
        ),
        (
            &["run"],
            ("KAFKA_NO_SUCH", "1"),
            "librdkafka has no property no.such",
        ),
        (
            &["run"],
            ("DATABASE_URL", "postgres://h:port/d"),
            "DATABASE_URL: ",
        ),
        (
            &["run"],
            ("DATABASE_URL", "host=h port=x"),
            "the value of port cannot be used",
        ),
        (
            &["run"],
            ("DATABASE_URL", &stranger),
            "said: password authentication failed",
        ),
        (
            &["status"],
            ("ADMIN_DATABASE_URL", &tls),
            "server does not support TLS",
        ),
        (&["run"], ("DB_SSLROOTCERT", "/no/such/ca"), "no such file"),
        (
            &["run"],
            ("ADMIN_TOKEN_FILE", "/no/such/file"),
            "no such file",
        ),
        (
            &["status"],
            ("ADMIN_DATABASE_URL", "postgres://127.0.0.1:1/d"),
            "connection refused",
        ),
        (
            &["status"],
            ("ADMIN_DATABASE_URL", "postgres://no.such.host.invalid/d"),
            "the host name is not known",
        ),
        (
            &["status"],
            ("ADMIN_DATABASE_URL", &elsewhere),
            "does not exist",
        ),
        (
            &["check"],
            ("DATABASE_URL", "postgres://127.0.0.1:1/d"),
            "connection refused",
        ),
        (&["check"], ("KAFKA_BROKERS", "127.0.0.1:1"), "Kafka"),
        (
            &["check"],
            ("REDIS_URL", "redis://127.0.0.1:1"),
            "connection refused",
        ),
        (
            &["events", "topics", "--create"],
            ("KAFKA_BROKERS", "127.0.0.1:1"),
            "KAFKA_BROKERS",
        ),
        (
            &migrate,
            ("ADMIN_DATABASE_URL", admin),
            "migration V1__wrong: column \"nothing\" does not exist",
        ),
        (&page, ("ADMIN_DATABASE_URL", url), "permission denied"),
        (&["man", "/proc/no/folder"], ("PORT", "0"), "no such file"),
    ] {
        let mut environment = vec![
            ("DATABASE_URL", url),
            ("ADMIN_DATABASE_URL", admin),
            ("KAFKA_BROKERS", kafka),
            ("BALANCE_TOPICS", scene.topic.as_str()),
            ("HTTP_HOST", "127.0.0.1"),
            ("PORT", "0"),
        ];
        environment.retain(|(name, _)| *name != changed.0);
        environment.push(changed);
        let (_, text) = said(arguments, &environment);
        let what = format!("{arguments:?} with {changed:?}");
        // Tables break their lines.
        let words: Vec<&str> = text.split_whitespace().collect();
        let words = words.join(" ");
        assert!(
            words.contains(told),
            "{what} does not say {told:?}:\n{text}"
        );
        assert_plain(&what, &text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_setting_that_looks_like_one_of_ours_is_named() {
    let (status, text) = said(
        &["status"],
        &[("ADMIN_DATABASEURL", "postgres://127.0.0.1:1/d")],
    );
    assert_eq!(status, Some(1));
    let named = "ADMIN_DATABASEURL is not a setting, and is ignored: is ADMIN_DATABASE_URL meant?";
    assert!(text.contains(named), "{text}");
    let (_, text) = said(&["run"], &[("BATCHSIZE", "10"), ("PATHS", "1")]);
    assert!(text.contains("is BATCH_SIZE meant?"), "{text}");
    assert_eq!(text.matches("meant?").count(), 1, "{text}");
}

/// A server that takes no writes is reached, and is not called unreachable.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_standby_is_not_called_unreachable() {
    let scene = Scene::new(1).await;
    let read_only = |on: bool| {
        let (name, to) = (&scene.database.name, if on { "on" } else { "off" });
        format!("ALTER DATABASE {name} SET default_transaction_read_only = {to}")
    };
    let client = &scene.database.client;
    client
        .batch_execute(&read_only(true))
        .await
        .expect("a superuser may");
    let mut ingester = scene.ingester();
    ingester.logs("is read-only: it is a standby", STALL).await;
    let log = ingester.log();
    assert!(!log.contains("cannot reach"), "{log}");
    assert_plain("the log", &log);
    let writable = format!(
        "SET default_transaction_read_only = off; {}",
        read_only(false)
    );
    client
        .batch_execute(&writable)
        .await
        .expect("a superuser may");
    scene
        .kafka()
        .produce(&scene.topic, 0, [credit("e", 1, "1")]);
    scene.caught_up().await;
    ingester.stop().await;
}

/// A handler that is gone stops three partitions for one reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_one_line_at_error_however_many_partitions_it_stops() {
    let scene = Scene::new(1).await;
    let topic = unique("nobodys");
    scene.kafka().create_topic(&topic, 3, &[]).await;
    for partition in 0..3 {
        let event = format!(r#"{{"eventId":"e{partition}","eventType":"{topic}","data":{{}}}}"#);
        scene
            .kafka()
            .produce(&topic, partition, [Message::of(event)]);
    }
    // In JSON a line has more fields, and none with a source file.
    let settings = [("EVENT_TOPICS", topic.as_str()), ("LOG_FORMAT", "json")];
    let mut ingester = Ingester::start(&scene.stack, &scene.database.url, &scene.topic, &settings);
    ingester
        .logs_times(3, "no handler for events", Duration::from_secs(30))
        .await;
    ingester.stop().await;
    let log = ingester.log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{}", errors.join("\n"));
    assert!(log.contains("as another partition is"), "{log}");
    assert_plain("the log", &log);
    scene.kafka().delete_topic(&topic).await;
}
