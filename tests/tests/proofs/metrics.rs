//! Every metric is documented, every documented metric exists, and alerts and dashboard use no others.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use proofs::scene::{STALL, Scene};
use proofs::stack::repository;
use proofs::wait::wait_until;
use proofs::workload::{Message, credit};
use serde_json::Value;

use super::domain::Notes;

/// One line of the table in docs/metrics.md.
#[derive(Debug)]
struct Documented {
    kind: String,
    labels: Vec<String>,
    /// What the last label may say; empty where the values are no closed list.
    values: Vec<String>,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).expect(path)
}

fn in_backticks(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn documented() -> BTreeMap<String, Documented> {
    let document = read("docs/metrics.md");
    let rows = document
        .lines()
        .filter(|line| line.starts_with("| `sluice_") || line.starts_with("| `process_"));
    let metrics = rows.map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let (labels, values) = cells[2].split_once('=').unwrap_or((cells[2], ""));
        let documented = Documented {
            kind: cells[1].to_owned(),
            labels: in_backticks(labels),
            values: in_backticks(values),
        };
        (in_backticks(cells[0]).remove(0), documented)
    });
    metrics.collect()
}

/// The types that a scrape tells, by name.
fn types(scrape: &str) -> BTreeMap<&str, &str> {
    let told = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    told.filter_map(|line| line.split_once(' ')).collect()
}

/// Without what a histogram adds.
fn base(name: &str, known: impl Fn(&str) -> bool) -> &str {
    let parts = ["_bucket", "_sum", "_count"];
    let base = parts.iter().find_map(|part| name.strip_suffix(part));
    base.filter(|base| known(base)).unwrap_or(name)
}

/// Name and labels of each sample; no value of ours has a comma or a quote in it.
fn samples(scrape: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let lines = scrape.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (series, _) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split(',');
        let labels = labels.filter_map(|label| label.split_once('='));
        (
            name,
            labels
                .map(|(label, value)| (label, value.trim_matches('"')))
                .collect(),
        )
    });
    samples.collect()
}

fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new(repository().join("scripts/promtool.sh"))
        .args(arguments)
        .current_dir(repository())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("scripts/promtool.sh");
    let mut stdin = child.stdin.take().expect("piped");
    // It may end before it has read everything; its status says why.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(
        output.status.success(),
        "promtool {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let scene = Scene::new(1).await;
    let notes = Notes::new(&scene, 1).await;
    notes.register(&scene).await;
    let placeholder =
        "INSERT INTO domain.users (user_id, referenced_by) VALUES ('nobody', 'a test')";
    let database = &scene.database.client;
    database
        .batch_execute(placeholder)
        .await
        .expect("a placeholder");
    let other = "CREATE TABLE public.people (id text PRIMARY KEY);
        ALTER TABLE domain.posts ADD CONSTRAINT of FOREIGN KEY (author_id) REFERENCES public.people ON DELETE CASCADE NOT VALID";
    database.batch_execute(other).await.expect("another writer");
    let mut ingester = scene.ingester_with(&[
        ("EVENT_TOPICS", &notes.topic),
        ("REDIS_URL", &scene.stack.redis_url),
        ("DANGLING_AFTER", "0"),
    ]);
    let hour_ago = "SELECT to_char(now() AT TIME ZONE 'UTC' - interval '1 hour', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";
    let hour_ago: String = database
        .query_one(hour_ago, &[])
        .await
        .expect("a time")
        .get(0);
    let delayed = String::from_utf8(credit("c", 1, "1").payload.expect("an event")).expect("JSON");
    let delayed = delayed.replacen('{', &format!("{{\"timestamp\":\"{hour_ago}\","), 1);
    let balances = [
        credit("a", 1, "5"),
        credit("b", 1, "-7"),
        Message::of("{"),
        Message::of(delayed),
    ];
    scene.kafka().produce(&scene.topic, 0, balances);
    let note = [notes.message("e", "n", Some("text"), 1)];
    scene.kafka().produce(&notes.topic, 0, note);
    let (topic, note) = (&scene.topic, &notes.topic);
    let wanted = [
        format!("sluice_records_total{{topic=\"{topic}\",verdict=\"APPLIED\"}} 2"),
        format!("sluice_records_total{{topic=\"{note}\",verdict=\"APPLIED\"}} 1"),
        format!("sluice_dead_letters_parked{{topic=\"{topic}\",code=\"MALFORMED_JSON\"}} 1"),
        format!("sluice_rejections_total{{topic=\"{topic}\",reason=\"INSUFFICIENT_BALANCE\"}} 1"),
        format!("sluice_rejections_total{{topic=\"{note}\",reason=\"EVENT_ID_CONFLICT\"}} 0"),
        format!("sluice_event_delay_seconds_count{{topic=\"{note}\"}} 1"),
        // The others do not say when they happened.
        format!("sluice_event_age_seconds_count{{topic=\"{topic}\"}} 1"),
        format!("sluice_event_age_seconds_count{{topic=\"{note}\"}} 1"),
        format!("sluice_partition_lag_seconds{{topic=\"{topic}\",partition=\"0\"}} 0.0"),
        format!("sluice_batch_errors_total{{topic=\"{topic}\",consequence=\"halt\"}} 0"),
        format!("sluice_topic_partitions{{topic=\"{topic}\"}} 1"),
        "sluice_dangling_references{kind=\"user\"} 1".to_owned(),
        "sluice_other_writers{kind=\"foreign key\",writer=\"of of domain.posts\"} 1".to_owned(),
        "sluice_leadership_changes_total{change=\"acquired\"} 2".to_owned(),
        "sluice_partitions_led{state=\"running\"} 2".to_owned(),
        "sluice_staging_bytes 0".to_owned(),
        "sluice_kafka_queue_bytes 0".to_owned(),
        "sluice_redis_up 1".to_owned(),
    ];
    let mut scrape = String::new();
    for wanted in wanted {
        wait_until(&wanted, STALL, async || {
            scrape = ingester.get("/metrics").await.1;
            scrape.lines().any(|found| found == wanted)
        })
        .await;
    }
    let host = format!("Host: {}", ingester.address().await);
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.3";
    let open = ingester
        .ask("GET /metrics", &[host.as_str(), accept], "")
        .await;
    assert!(
        open.head
            .contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        open.head
    );
    assert!(open.body.ends_with("\n# EOF\n") && !scrape.contains("# EOF"));
    assert!(
        open.body.contains("\n# TYPE sluice_records counter\n"),
        "{}",
        open.body
    );
    assert_eq!(
        samples(&open.body).len(),
        samples(&scrape).len(),
        "the same is told"
    );
    let health: Value = ingester.get("/health").await.1.parse().expect("JSON");
    assert_eq!(health["serviceId"], *ingester.service_id);
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(health["uptimeSeconds"].is_u64(), "{health}");
    ingester.stop().await;
    let log = ingester.log();
    let signed = format!(
        "service_id={} version={} uptime_s=",
        ingester.service_id,
        env!("CARGO_PKG_VERSION")
    );
    let unsigned: Vec<&str> = log.lines().filter(|line| !line.contains(&signed)).collect();
    assert!(
        unsigned.is_empty(),
        "log lines that do not say who wrote them: {unsigned:#?}"
    );
    let age = format!("sluice_event_age_seconds_sum{{topic=\"{topic}\"}} ");
    let age = scrape.lines().find_map(|line| line.strip_prefix(&age));
    let age: f64 = age.expect("a sum").parse().expect("seconds");
    assert!((3_600.0..3_700.0).contains(&age), "{age}");

    promtool(&["check", "metrics"], &scrape);
    let (documented, measured) = (documented(), types(&scrape));
    let said: BTreeMap<&str, &str> = documented
        .iter()
        .map(|(name, metric)| (name.as_str(), metric.kind.as_str()))
        .collect();
    assert_eq!(measured, said, "measured, and documented");
    for (name, labels) in samples(&scrape) {
        let metric = &documented[base(name, |base| measured.contains_key(base))];
        let labels: Vec<_> = labels.into_iter().filter(|label| label.0 != "le").collect();
        let names: Vec<&str> = labels.iter().map(|label| label.0).collect();
        assert_eq!(names, metric.labels, "labels of {name}");
        if !metric.values.is_empty() {
            let value = labels.last().expect("a label").1;
            assert!(
                metric.values.iter().any(|known| known == value),
                "{name}: {value}"
            );
        }
    }
}

/// Where people read the documents, in the rules that are shipped.
const BOOK: &str = "https://sluice.example.org/docs/";

const RULES: &str = "deploy/prometheus/alerts.yml";
const RULE_TESTS: &str = "deploy/prometheus/alerts_test.yml";

/// Each rule by its name.
fn alerts(rules: &str) -> Vec<(&str, &str)> {
    let rules = rules.split("- alert: ").skip(1);
    rules
        .map(|rule| rule.split_once('\n').expect("more"))
        .collect()
}

#[test]
fn every_alert_fires_clears_and_has_a_run_book() {
    promtool(&["check", "rules", RULES], "");
    promtool(&["test", "rules", RULE_TESTS], "");
    let (rules, tests) = (read(RULES), read(RULE_TESTS));
    let (operations, metrics) = (read("docs/operations.md"), read("docs/metrics.md"));
    let alerts = alerts(&rules);
    for (alert, rule) in &alerts {
        let run_book = format!("operations.md#{}", alert.to_lowercase());
        for part in [
            "summary: ",
            "description: ",
            &format!("runbook_url: {BOOK}operations/#{}\n", alert.to_lowercase()),
        ] {
            assert!(rule.contains(part), "{alert} has no {part}");
        }
        let (_, severity) = rule.split_once("severity: ").expect(alert);
        let (severity, _) = severity.split_once('}').expect(alert);
        for (text, part) in [
            (&operations, format!("\n### {alert}\n")),
            (
                &metrics,
                format!("\n| [{alert}]({run_book}) | {severity} | "),
            ),
            (
                &tests,
                format!("alertname: {alert}\n        exp_alerts:\n          - exp_labels"),
            ),
            (&tests, format!("alertname: {alert}, exp_alerts: []")),
        ] {
            assert!(text.contains(&part), "nowhere: {part}");
        }
    }
    // And no more of them.
    assert_eq!(operations.matches("\n### Sluice").count(), alerts.len());
    assert_eq!(metrics.matches("\n| [Sluice").count(), alerts.len());
}

/// Every `sluice_…` in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let starts = text.match_indices("sluice_").map(|(at, _)| &text[at..]);
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    starts
        .map(|rest| rest.split(|c| !is_part(c)).next().unwrap_or_default())
        .collect()
}

#[test]
fn alerts_and_dashboard_ask_for_documented_metrics_only() {
    let documented = documented();
    let dashboard = read("deploy/grafana/sluice.json");
    let parsed: Value = dashboard.parse().expect("JSON");
    let panels = parsed["panels"].as_array().expect("panels");
    for panel in panels {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let expression = target["expr"].as_str().expect("an expression");
            assert!(expression.contains("sluice_"), "{expression}");
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}");
        assert!(
            panel["description"]
                .as_str()
                .is_some_and(|text| text.len() > 20),
            "{panel}"
        );
    }
    for (file, text) in [("dashboard", &dashboard), ("rules", &read(RULES))] {
        for name in names(text) {
            let known = |name: &str| documented.contains_key(name);
            assert!(known(base(name, known)), "{file}: {name}");
        }
    }
}

/// One Prometheus may scrape several installations: neither rules nor dashboard add up what belongs to two of them.
#[test]
fn alerts_and_dashboard_tell_installations_apart() {
    let rules = read(RULES);
    let dashboard: Value = read("deploy/grafana/sluice.json").parse().expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let shown: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"))
        .filter_map(|target| target["expr"].as_str())
        .collect();
    for expression in &shown {
        for name in names(expression) {
            let chosen = format!("{name}{{namespace=~\"$namespace\",job=~\"$job\"");
            assert!(expression.contains(&chosen), "{expression}");
        }
    }
    let asked = rules.lines().filter(|line| line.contains("sluice_"));
    for expression in asked {
        for aggregated in ["sum", "max", "count"] {
            let bare = format!("{aggregated}(");
            assert!(!expression.contains(&bare), "{expression}");
        }
        for (at, _) in expression.match_indices(" by (") {
            let labels = &expression[at + 5..];
            assert!(labels.starts_with("namespace, job"), "{expression}");
        }
    }
}
