//! The documentation does what it says: every ```sql block is run by psql, in order, and what it
//! prints is compared with the ```text block that follows it, if one does; the ```sh blocks of the
//! first steps are run by a shell.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use proofs::database::{Database, connect};
use proofs::scene::{STALL, Scene};
use proofs::stack::{Stack, postgres_program, repository, sluice};
use proofs::wait::wait_until;
use proofs::workload::{Message, credit};
use rustix::process::{Pid, Signal, kill_process};

/// The documents, and who runs their SQL: a superuser where nobody is named.
const DOCUMENTS: [(&str, Option<&str>); 4] = [
    ("contract.md", None),
    ("sql.md", Some(ALICE)),
    ("operations.md", None),
    ("page.md", None),
];
const ALICE: &str = "alice";
/// A block that begins with this line is always run as superuser.
const AS_SUPERUSER: &str = "-- as superuser\n";

/// One ```sql block of a document.
struct Example {
    /// Of the document, to be found again.
    line: usize,
    statements: String,
    printed: Option<String>,
}

fn examples(document: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut lines = document.lines().enumerate();
    // Whether nothing but the end of a ```sql block stands before this line.
    let mut after_sql = false;
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            after_sql = false;
            continue;
        };
        let body = lines.by_ref().map(|(_, line)| line);
        let body: String = body
            .take_while(|line| *line != "```")
            .flat_map(|line| [line, "\n"])
            .collect();
        match language {
            "sql" => examples.push(Example {
                line: number + 1,
                statements: body,
                printed: None,
            }),
            "text" if after_sql => {
                let example = examples.last_mut().expect("a block before it");
                example.printed = Some(body);
            }
            _ => {}
        }
        after_sql = language == "sql";
    }
    examples
}

/// The ```sh blocks of a document, as one script.
fn script(document: &str) -> String {
    let blocks = document.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().expect("a first part"))
        .collect()
}

/// Runs of blanks and of dashes count as one, and empty lines not at all: the width of psql's columns says nothing.
fn plain(printed: &str) -> Vec<String> {
    let lines = printed.lines().map(|line| {
        let mut plain = String::new();
        for word in line.split_whitespace() {
            let is_rule = word.chars().all(|c| c == '-' || c == '+');
            let word = if is_rule && word.len() > 1 {
                "--"
            } else {
                word
            };
            plain.push_str(if plain.is_empty() { "" } else { " " });
            plain.push_str(word);
        }
        plain
    });
    lines.filter(|line| !line.is_empty()).collect()
}

/// Whether a line is as expected, where each `…` stands for anything.
fn fits(expected: &str, line: &str) -> bool {
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// What psql shows to somebody who types these statements, and whether it succeeded.
fn run(scene: &Scene, user: Option<&str>, statements: &str) -> (bool, String) {
    let mut command = Command::new(postgres_program("psql"));
    command
        .arg(&scene.database.admin_url)
        .args(["-Xq", "-P", "pager=off"])
        .args(["-v", "ON_ERROR_STOP=1", "-v", "SHOW_CONTEXT=never"]);
    if let Some(user) = user.filter(|_| !statements.starts_with(AS_SUPERUSER)) {
        command.args(["-c", &format!("SET SESSION AUTHORIZATION {user}")]);
    }
    let mut psql = command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql");
    let mut stdin = psql.stdin.take().expect("piped");
    stdin
        .write_all(statements.as_bytes())
        .expect("psql reads its input");
    drop(stdin);
    let output = psql.wait_with_output().expect("a child of ours");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    // With a file psql says first where in it an error is.
    let errors = errors.lines().map(|line| {
        let place = line.strip_prefix("psql:<stdin>:");
        place
            .and_then(|rest| rest.split_once(": "))
            .map_or(line, |(_, words)| words)
    });
    let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
    errors.for_each(|line| printed.extend([line, "\n"]));
    (output.status.success(), printed)
}

/// Runs all examples of a document; answers what is not as it says.
fn run_all(scene: &Scene, name: &str, user: Option<&str>) -> Vec<String> {
    let document =
        std::fs::read_to_string(repository().join("docs").join(name)).expect("a document");
    let examples = examples(&document);
    assert!(!examples.is_empty(), "docs/{name} has no SQL");
    let mut faults = Vec::new();
    for example in examples {
        let (succeeded, printed) = run(scene, user, &example.statements);
        let expected = example.printed.as_deref().map(plain);
        // What is shown to be refused has to be.
        let may_fail = expected
            .iter()
            .flatten()
            .any(|line| line.starts_with("ERROR:"));
        let found = plain(&printed);
        let is_as_expected = expected.is_none_or(|expected| {
            expected.len() == found.len()
                && expected
                    .iter()
                    .zip(&found)
                    .all(|(expected, line)| fits(expected, line))
        });
        if succeeded == may_fail || !is_as_expected {
            faults.push(format!(
                "docs/{name}:{}:\n{}--- printed:\n{printed}",
                example.line, example.statements
            ));
        }
    }
    faults
}

/// An account 42 with a history, and dead letters of both kinds: 1 and 2 of balances, 3 and 4 of users.
async fn fill(scene: &Scene) {
    let kafka = scene.kafka();
    kafka.create_topic("balance.changed", 1, &[]).await;
    kafka.create_topic("user.created", 1, &[]).await;
    let change = |event_id: &str, changes: &str| {
        Message::of(format!(
            r#"{{"eventId":"{event_id}","eventType":"balance.changed","data":{{"accountId":42,"changes":[{changes}]}}}}"#
        ))
    };
    let balances = [
        credit("dep-1", 42, "100"),
        change(
            "ord-1",
            r#"{"currencyCode":"USD","availableDelta":"-30","frozenDelta":"30"}"#,
        ),
        change("ord-2", r#"{"currencyCode":"USD","availableDelta":"-500"}"#),
        credit("dep-1", 42, "100"),
        Message::of(r#"{"eventId":"#),
        change(
            "tr-1",
            r#"{"currencyCode":"USD","availableDelta":"-20"},{"accountId":7,"currencyCode":"USD","availableDelta":"20"}"#,
        ),
        change(
            "ord-7",
            r#"{"currencyCode":"USD","availableDelta":"12,50"}"#,
        ),
    ];
    let user = |event_id: &str, data: &str| {
        Message::of(format!(
            r#"{{"eventId":"{event_id}","eventType":"user.created","timestamp":"2026-11-21T05:00:00Z","data":{data}}}"#
        ))
    };
    let users = [
        user(
            "u-1",
            r#"{"userId":"usr_1","username":"ada","email":"ada@example.org","role":"USER"}"#,
        ),
        user(
            "u-2",
            r#"{"userId":"usr_2","email":"bob@example.org","role":"USER"}"#,
        ),
        user(
            "u-3",
            r#"{"userId":"usr_3","username":"","email":"eve@example.org","role":"USER"}"#,
        ),
    ];
    // One topic after the other, so that the letters have the ids that the documents name.
    let keyed = |message: Message| Message {
        key: Some(b"42".to_vec()),
        ..message
    };
    for (topic, messages) in [
        ("balance.changed", balances.to_vec()),
        ("user.created", users.to_vec()),
    ] {
        kafka.produce(topic, 0, messages.into_iter().map(keyed));
        let mut ingester = scene.ingester_with(&[
            ("BALANCE_TOPICS", "balance.changed"),
            ("EVENT_TOPICS", "user.created"),
            ("MAX_RETRY_ATTEMPTS", "1"),
            ("DLQ_TOPIC", ""),
        ]);
        scene.database.caught_up(kafka, topic, 1, STALL).await;
        ingester.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_of_the_documents_does_what_they_say() {
    let scene = Scene::new(1).await;
    fill(&scene).await;
    let again = format!("DROP ROLE IF EXISTS {ALICE}");
    scene
        .database
        .client
        .batch_execute(&again)
        .await
        .expect("a superuser may");
    let mut faults = Vec::new();
    for (name, user) in DOCUMENTS {
        faults.extend(run_all(&scene, name, user));
    }
    for topic in ["balance.changed", "user.created"] {
        scene.kafka().delete_topic(topic).await;
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    scene.verify_invariants().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_steps_lead_to_verdicts() {
    const TOPIC: &str = "balance.changed";
    let stack = Stack::get();
    let admin = connect(&stack.admin_url("postgres")).await;
    admin
        .batch_execute("DROP ROLE IF EXISTS bank_ingester")
        .await
        .expect("a superuser may");
    let database = Database::create_empty(&stack).await;
    let scene = Scene::with_database(stack, database, 1, &[]).await;
    scene.kafka().create_topic(TOPIC, 2, &[]).await;
    let document = repository().join("docs/getting-started.md");
    let steps = script(&std::fs::read_to_string(document).expect("a document"));
    assert!(steps.trim_end().ends_with("sluice run &"), "{steps}");
    let (_, at) = scene.database.admin_url.rsplit_once('@').expect("a URL");
    let database_url = format!("postgres://bank_ingester:choose-one@{at}");
    let path = [postgres_program("psql"), sluice()]
        .map(|program| program.parent().expect("a folder").display().to_string());
    let mut shell = Command::new("bash")
        .args(["-euc", &format!("{steps}\necho $!; wait")])
        .env_clear()
        .env("PATH", format!("{}:{}:/usr/bin:/bin", path[0], path[1]))
        .envs([
            ("ADMIN_DATABASE_URL", scene.database.admin_url.as_str()),
            ("DATABASE_URL", &database_url),
            ("KAFKA_BROKERS", &scene.kafka().brokers),
            ("PORT", "0"),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut said = String::new();
    let mut stdout = BufReader::new(shell.stdout.take().expect("piped"));
    let ingester: i32 = loop {
        said.clear();
        let read = stdout.read_line(&mut said).expect("text");
        assert_ne!(read, 0, "a step failed");
        if let Ok(pid) = said.trim().parse() {
            break pid;
        }
    };
    wait_until("four verdicts", STALL, async || {
        let verdicts = "SELECT count(*) FROM ledger.event_verdicts";
        scene.database.count(verdicts).await == 4
    })
    .await;
    let faults = run_all(&scene, "getting-started.md", None);
    let pid = Pid::from_raw(ingester).expect("a process");
    kill_process(pid, Signal::TERM).expect("it runs");
    assert!(shell.wait().expect("a child of ours").success());
    scene.kafka().delete_topic(TOPIC).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_document_is_read_as_it_is_meant() {
    let document = "text\n```sql\nSELECT 1;\n```\n```text\none\n```\n```sh\nrm\n```\n```text\nno\n```\n```sql\nSELECT 2;\n```\n";
    let found: Vec<_> = examples(document)
        .into_iter()
        .map(|example| (example.line, example.statements, example.printed))
        .collect();
    assert_eq!(
        found,
        [
            (2, "SELECT 1;\n".into(), Some("one\n".into())),
            (14, "SELECT 2;\n".into(), None)
        ]
    );
    assert_eq!(
        plain(" a  |   b\n----+-----\n\n  1 | -2  \n"),
        ["a | b", "--", "1 | -2"]
    );
    for (expected, line, is_fit) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a…", "ab", true),
        ("a … c", "a b c", true),
        ("a … c", "a b d", false),
        ("… b … d …", "a b c d e", true),
        ("…", "", true),
    ] {
        assert_eq!(fits(expected, line), is_fit, "{expected:?} {line:?}");
    }
}
