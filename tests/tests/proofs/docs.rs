//! The documentation is tested: psql runs every ```sql block, in order, and its output is compared with the ```text
//! block that follows, if there is one; a shell runs the ```sh blocks. Those of docs/deploying.md are left to
//! packaging/test.sh and deploy/check.sh.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use proofs::database::{Database, connect};
use proofs::scene::{STALL, Scene};
use proofs::stack::{Stack, postgres_program, repository, sluice};
use proofs::wait::wait_until;
use proofs::workload::{Message, credit};
use rustix::process::{Pid, Signal, kill_process};

/// The documents, and who runs their SQL: a superuser where nobody is named.
const DOCUMENTS: [(&str, Option<&str>); 6] = [
    ("contract.md", None),
    ("sql.md", Some(ALICE)),
    ("operations.md", None),
    ("page.md", None),
    ("events.md", None),
    ("publishing.md", None),
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

/// The ```sh blocks of a document.
fn scripts(name: &str) -> Vec<String> {
    let document = std::fs::read_to_string(repository().join(name)).expect("a document");
    let blocks = document.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().expect("a first part").to_owned())
        .collect()
}

/// A shell that stops at the first failure, with PostgreSQL's programs and `sluice` at hand.
fn shell(script: &str) -> Command {
    let folders = [postgres_program("psql"), sluice()]
        .map(|program| program.parent().expect("a folder").display().to_string());
    let mut shell = Command::new("bash");
    shell
        .args(["-euo", "pipefail", "-c", script])
        .env_clear()
        .env(
            "PATH",
            format!("{}:{}:{}", folders[0], folders[1], variable("PATH")),
        )
        .env("HOME", variable("HOME"));
    shell
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Runs a script to its end, and answers what it prints.
fn run_to_end(mut shell: Command) -> String {
    let output = shell.output().expect("a shell");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shell:?}\n{printed}{errors}");
    printed
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
    // As a member of the role that the example names, and with no more rights.
    if let Some(role) = statements.strip_prefix("-- as sluice_") {
        let role = role.lines().next().unwrap_or_default();
        command.args(["-c", &format!("SET ROLE sluice_{role}")]);
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
    // tr-1 happened before ord-1, and comes after it.
    let change = |event_id: &str, at: &str, changes: &str| {
        Message::of(format!(
            r#"{{"eventId":"{event_id}","eventType":"balance.changed","timestamp":"2026-11-21T{at}:00Z","data":{{"accountId":42,"changes":[{changes}]}}}}"#
        ))
    };
    let deposit = change(
        "dep-1",
        "05:00",
        r#"{"currencyCode":"USD","availableDelta":"100"}"#,
    );
    let balances = [
        deposit.clone(),
        change(
            "ord-1",
            "06:30",
            r#"{"currencyCode":"USD","availableDelta":"-30","frozenDelta":"30"}"#,
        ),
        change(
            "ord-2",
            "06:40",
            r#"{"currencyCode":"USD","availableDelta":"-500"}"#,
        ),
        deposit,
        Message::of(r#"{"eventId":"#),
        change(
            "tr-1",
            "06:10",
            r#"{"currencyCode":"USD","availableDelta":"-20"},{"accountId":7,"currencyCode":"USD","availableDelta":"20"}"#,
        ),
        Message::of(
            r#"{"eventId":"ord-7","eventType":"balance.changed","data":{"accountId":42,"changes":[{"currencyCode":"USD","availableDelta":"12,50"}]}}"#,
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
        .batch_execute("DROP ROLE IF EXISTS bank_ingester, bank_operator")
        .await
        .expect("a superuser may");
    let database = Database::create_empty(&stack).await;
    let scene = Scene::with_database(stack, database, 1, &[]).await;
    scene.kafka().create_topic(TOPIC, 2, &[]).await;
    let steps = scripts("docs/getting-started.md").concat();
    assert!(steps.trim_end().ends_with("sluice run &"), "{steps}");
    let (_, at) = scene.database.admin_url.rsplit_once('@').expect("a URL");
    let database_url = format!("postgres://bank_ingester:choose-one@{at}");
    let operator_url = format!("postgres://bank_operator:choose-another@{at}");
    // By the tutorial's login and token the page can be used at once.
    let page =
        "sluice check -o jsonl | grep -q '\"check\":\"role sluice_admin\",\"verdict\":\"ok\"'";
    let steps = steps.replacen("sluice check\n", &format!("sluice check\n{page}\n"), 1);
    assert!(steps.contains(page), "{steps}");
    let mut shell = shell(&format!("{steps}\necho $!; wait"))
        .envs([
            ("ADMIN_DATABASE_URL", scene.database.admin_url.as_str()),
            ("DATABASE_URL", &database_url),
            ("OPERATOR_DATABASE_URL", &operator_url),
            ("ADMIN_TOKEN", "a-token-of-a-test"),
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
    // What the page shows of it, by the login that was made for it.
    let operator = connect(&operator_url).await;
    let shown = operator.query("SELECT FROM ledger.dead_letters", &[]);
    assert_eq!(shown.await.expect("a member of sluice_admin").len(), 1);
    let pid = Pid::from_raw(ingester).expect("a process");
    kill_process(pid, Signal::TERM).expect("it runs");
    assert!(shell.wait().expect("a child of ours").success());
    scene.kafka().delete_topic(TOPIC).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Dead letters 42 and 43 of partition 3, whose amount has a comma or that are no event, and one that broke its handler.
async fn letters_to_work_on(scene: &Scene) {
    let numbers = "ALTER TABLE ledger.dead_letters ALTER COLUMN id RESTART WITH 42";
    let client = &scene.database.client;
    client
        .batch_execute(numbers)
        .await
        .expect("a superuser may");
    let kafka = scene.kafka();
    kafka.create_topic("balance.changed", 4, &[]).await;
    kafka.create_topic("user.created", 1, &[]).await;
    let comma = r#"{"eventId":"ord-7","eventType":"balance.changed","data":{"accountId":42,"changes":[{"currencyCode":"USD","availableDelta":"12,50"}]}}"#;
    let messages = [
        credit("dep-1", 42, "100"),
        Message::of(comma.to_owned()),
        Message::of("test".to_owned()),
    ];
    kafka.produce("balance.changed", 3, messages);
    let letters = async |count| {
        wait_until("the dead letters", STALL, async || {
            let parked = "SELECT count(*) FROM ledger.dead_letters WHERE status = 'PARKED'";
            scene.database.count(parked).await == count
        })
        .await;
    };
    letters(2).await;
    let nameless = r#"{"eventId":"u-2","eventType":"user.created","timestamp":"2026-11-21T05:00:00Z","data":{"userId":"usr_2","email":"bob@example.org","role":"USER"}}"#;
    kafka.produce("user.created", 0, [Message::of(nameless.to_owned())]);
    letters(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_documents_do_what_they_say() {
    const RESTORED: &str = "bank";
    const TOKEN: &str = "a-token-of-a-test";
    let scene = Scene::new(1).await;
    let mut ingester = scene.ingester_with(&[
        ("BALANCE_TOPICS", "balance.changed"),
        ("EVENT_TOPICS", "user.created"),
        ("MAX_RETRY_ATTEMPTS", "1"),
        ("RETRY_DELAY_MS", "1"),
        ("DLQ_TOPIC", ""),
        ("ADMIN_TOKEN", TOKEN),
        ("OPERATOR_DATABASE_URL", &scene.operator().await.0),
    ]);
    letters_to_work_on(&scene).await;
    let folder = scene.stack.dir.join("commands");
    std::fs::create_dir(&folder).expect("a folder of our own");
    for checks in ["sql", "families"] {
        let link = std::os::unix::fs::symlink(repository().join(checks), folder.join(checks));
        link.expect("a link");
    }
    let postgres = connect(&scene.stack.admin_url("postgres")).await;
    let forget = format!("DROP DATABASE IF EXISTS {RESTORED}");
    postgres
        .batch_execute(&forget)
        .await
        .expect("a superuser may");

    let address = ingester.address().await;
    for script in [scripts("docs/operations.md"), scripts("docs/page.md")].concat() {
        let is_restore = script.contains("pg_restore");
        let database = if is_restore {
            RESTORED
        } else {
            &scene.database.name
        };
        let mut shell = shell(&script.replace("localhost:3010", &address));
        shell.current_dir(&folder).envs([
            (
                "ADMIN_DATABASE_URL",
                scene.stack.admin_url(database).as_str(),
            ),
            ("KAFKA_BROKERS", &scene.kafka().brokers),
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", &scene.stack.postgres_port.to_string()),
            ("PGUSER", &scene.stack.admin.user),
            ("PGPASSWORD", &scene.stack.admin.password),
            ("ADMIN_TOKEN", TOKEN),
        ]);
        let printed = run_to_end(shell);
        assert!(!printed.contains("\"error\""), "{script}{printed}");
    }

    let settled = "SELECT count(*) FROM ledger.dead_letters WHERE (id, status) IN ((42, 'REPLAYED'), (43, 'PARKED'))";
    assert_eq!(scene.database.count(settled).await, 2);
    let restored = Database::open(&scene.stack, RESTORED).await;
    assert_eq!(restored.count(settled).await, 2);
    assert_eq!(
        restored
            .count("SELECT count(*) FROM ledger.event_verdicts")
            .await,
        4
    );
    let paused = "SELECT count(*) FROM ledger.partition_status WHERE reason = 'paused by hand: ticket 4711 (ann)'";
    assert_eq!(scene.database.count(paused).await, 1, "by the page's API");
    ingester.stop().await;
    for topic in ["balance.changed", "user.created"] {
        scene.kafka().delete_topic(topic).await;
    }
    drop(restored);
    postgres
        .batch_execute(&forget)
        .await
        .expect("nobody is in it");
    scene.verify_invariants().await;
}

/// The block of the README that begins so; the ingester that `run` starts is stopped once `done` prints `1`.
fn readme(beginning: &str, run: &str, done: &str) -> String {
    let blocks = scripts("README.md");
    let block = blocks.iter().find(|block| block.starts_with(beginning));
    let until = format!(
        "until psql \"$ADMIN_DATABASE_URL\" -Atc '{done}' | grep -qx 1; do sleep 0.1; done"
    );
    let moment = format!("\n{run} & {until}; kill $!; wait $!");
    let script = block
        .expect(beginning)
        .replace(&format!("\n{run}"), &moment);
    assert!(script.contains(&moment), "{script}");
    script
}

#[test]
fn the_readmes_first_look_works() {
    let stack = Stack::get();
    let folder = stack.dir.join("up");
    let script = readme(
        "make up",
        "target/release/sluice run",
        "SELECT count(*) / 2 FROM ledger.event_verdicts",
    );
    let mut shell = shell(&script.replace(".stack/env", "$STACK/env"));
    shell
        .current_dir(repository())
        .env("STACK", &folder)
        .env("PORT", "0")
        // Inside ours, which ends it should we be killed.
        .env("STACK_ROOT", &stack.dir)
        // What tests run beside is built already.
        .env("MAKEFLAGS", "-o build");
    let printed = run_to_end(shell);
    for verdict in [
        "dep-1    | APPLIED",
        "ord-1    | REJECTED | INSUFFICIENT_BALANCE",
    ] {
        assert!(printed.contains(verdict), "{printed}");
    }
    assert!(!folder.exists(), "make down leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_installation_works() {
    let stack = Stack::get();
    let server = connect(&stack.admin_url("postgres")).await;
    let again = "DROP ROLE IF EXISTS sluice";
    server.batch_execute(again).await.expect("a superuser may");
    stack.kafka.create_topic("balance.changed", 1, &[]).await;
    let database = Database::create_empty(&stack).await;
    let (_, at) = database.admin_url.rsplit_once('@').expect("a URL");
    let database_url = format!("postgres://sluice:choose-one@{at}");
    let script = readme(
        "make install-extension",
        "sluice run",
        "SELECT count(*) FROM ledger.live_instances",
    );
    // Installed it is already, and where things are is up to the reader.
    let steps = script.lines();
    let steps: Vec<_> = steps
        .filter(|line| !line.starts_with("make ") && !line.starts_with("export "))
        .collect();
    let mut shell = shell(&steps.join("\n").replace('…', "choose-one"));
    shell.envs([
        ("ADMIN_DATABASE_URL", database.admin_url.as_str()),
        ("DATABASE_URL", &database_url),
        ("KAFKA_BROKERS", &stack.kafka.brokers),
        ("PORT", "0"),
    ]);
    run_to_end(shell);
    stack.kafka.delete_topic("balance.changed").await;
}

/// By a superuser what only a superuser may, by the DBA everything else; and what is left is nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_dba_without_superuser_installs_upgrades_and_backs_up_as_the_page_says() {
    const DATABASE: &str = "bank";
    let stack = Stack::get();
    let server = connect(&stack.admin_url("postgres")).await;
    let forget = async || {
        for statement in [
            "DROP DATABASE IF EXISTS bank",
            "DROP ROLE IF EXISTS bank_operator",
            "DROP ROLE IF EXISTS bank_ingester",
            "DROP ROLE IF EXISTS bank_dba",
        ] {
            server.batch_execute(statement).await.expect(statement);
        }
    };
    forget().await;
    let create = format!("CREATE DATABASE {DATABASE}");
    server
        .batch_execute(&create)
        .await
        .expect("a superuser may");
    let superuser = stack.admin_url(DATABASE);
    let (_, at) = superuser.rsplit_once('@').expect("a URL");
    let [dba, ingester] =
        ["bank_dba", "bank_ingester"].map(|user| format!("postgres://{user}:choose-one@{at}"));
    let folder = stack.dir.join("installing");
    std::fs::create_dir(&folder).expect("a folder of our own");
    let steps = scripts("docs/installing.md");
    let is_last = |script: &&String| script.contains("sluice uninstall");
    let (last, steps): (Vec<&String>, Vec<&String>) = steps.iter().partition(is_last);
    assert_eq!(last.len(), 1, "uninstalling comes last");
    // One shell, for what is exported counts for the commands that follow.
    let check = format!(
        "DATABASE_URL={ingester} KAFKA_BROKERS={} BALANCE_TOPICS= EVENT_TOPICS=none.yet DLQ_TOPIC= sluice check -o jsonl || true",
        stack.kafka.brokers
    );
    let run = |scripts: &[&String], check: &str| {
        let scripts: Vec<&str> = scripts.iter().map(|script| script.as_str()).collect();
        let mut shell = shell(&format!("{}\n{check}", scripts.concat()));
        shell
            .current_dir(&folder)
            .envs([("SUPERUSER_URL", &superuser), ("DBA_URL", &dba)]);
        run_to_end(shell)
    };
    let said = run(&steps, &check);
    for look in [
        "migrations",
        "role sluice_writer",
        "least privilege",
        "functions, views, triggers, columns, grants",
    ] {
        let fits = format!("{{\"check\":\"{look}\",\"verdict\":\"ok\"");
        assert!(said.contains(&fits), "{look}: {said}");
    }
    let said = run(&last, "true");
    assert!(said.contains("removed schema ledger"), "{said}");
    forget().await;
}

#[test]
fn every_example_of_the_operations_says_as_whom() {
    let path = repository().join("docs/operations.md");
    let document = std::fs::read_to_string(path).expect("a document");
    let mut blocks = 0;
    for (language, mark) in [("```sh\n", "# as "), ("```sql\n", "-- as ")] {
        for block in document.split(language).skip(1) {
            let first = block.lines().next().expect("a line");
            let role = first.strip_prefix(mark);
            assert!(
                role.is_some_and(
                    |role| ["superuser", "sluice_admin", "sluice_reader"].contains(&role)
                ),
                "as whom? {first}"
            );
            blocks += 1;
        }
    }
    assert!(blocks > 10, "{blocks}");
}

/// Each test that the contract names is there.
#[test]
fn guarantees_name_tests_that_exist() {
    let proofs = repository().join("tests/tests/proofs");
    let contract =
        std::fs::read_to_string(repository().join("docs/contract.md")).expect("a document");
    let (_, guarantees) = contract.split_once("## Guarantees").expect("a chapter");
    let named: Vec<_> = guarantees
        .split('`')
        .filter_map(|word| word.split_once("::"))
        .filter(|(file, _)| *file != "Scene")
        .collect();
    assert!(named.len() > 10, "{named:?}");
    for (file, test) in named {
        let source = std::fs::read_to_string(proofs.join(format!("{file}.rs"))).expect(file);
        assert!(source.contains(&format!("fn {test}()")), "{file}::{test}");
    }
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
