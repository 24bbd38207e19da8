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
    let output = output.expect("sluice runs");
    let both = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&both).into_owned(),
    )
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
    let settings = [("EVENT_TOPICS", topic.as_str())];
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
