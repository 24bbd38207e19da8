//! A server that runs out of memory refuses that batch and nothing else. Needs the services of `make test`.

mod common;

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use tokio_postgres::Client;

use common::notes::{Writer, note, notes, raw};
use common::{Batch, Database, Leader, call, change, lead};

const EVENTS: i64 = 6_000;
const MIB: u64 = 1 << 20;

async fn backend(client: &Client) -> i32 {
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await;
    row.expect("a backend").get(0)
}

/// Lets a process have so much more than it has.
fn limit(pid: i32, more: u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let bytes = kilobytes.and_then(|text| text.parse::<u64>().ok());
    let most = bytes.expect("its size") * 1024 + more;
    let owner = |pid: &str| {
        let found = std::fs::metadata(format!("/proc/{pid}")).expect("it lives");
        (found.uid(), found.gid())
    };
    let (theirs, mine) = (owner(&pid.to_string()), owner("self"));
    let mut command = Command::new("prlimit");
    if theirs != mine {
        // Whom a process belongs to may limit it, root not everywhere.
        command = Command::new("setpriv");
        let (user, group) = (
            format!("--reuid={}", theirs.0),
            format!("--regid={}", theirs.1),
        );
        command.args([&user, &group, "--clear-groups", "prlimit"]);
    }
    let limited = command
        .args([format!("--pid={pid}"), format!("--as={most}")])
        .status();
    assert!(limited.expect("comes with util-linux").success());
}

async fn try_batch(
    client: &Client,
    leader: Leader,
    batch: &Batch,
) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("BEGIN").await?;
    let stage = "INSERT INTO ledger.staging_balance_changes VALUES ($1)";
    for piece in batch.bytes().chunks(64 << 10) {
        client.execute(stage, &[&piece]).await?;
    }
    let (rows, checksum) = (batch.row_count(), batch.checksum());
    let span = (leader.commit_offset, leader.commit_offset + EVENTS);
    call(client, leader, span.0, span.1, rows, checksum).await?;
    client.batch_execute("ROLLBACK").await
}

#[tokio::test]
async fn memory_that_runs_out_in_a_backend_refuses_the_batch_and_ends_no_session() {
    let database = Database::create().await;
    let (writer, bystander) = (database.writer().await, database.admin().await);
    let leader = lead(&writer, 0, "a").await;
    let batch = (0..EVENTS).fold(Batch::default(), |batch, offset| {
        let account = offset * 7 % 2_000;
        match offset % 10 {
            0 => batch.dead(offset, "MALFORMED_JSON", &"{".repeat(400)),
            1 => batch.event(offset, "the same", &[change(account, "1", "0")]),
            _ => batch.event(offset, &format!("e{offset}"), &[change(account, "1", "0")]),
        }
    });
    let (mut refused, mut done) = (0, 0);
    // From next to nothing up to more than it takes, so that each step is the one that finds no room.
    for more in 0..60 {
        let client = database.writer().await;
        let load = "SELECT * FROM sluice.last_batch_steps()";
        client
            .batch_execute(load)
            .await
            .expect("the library is loaded");
        limit(backend(&client).await, more * MIB / 2);
        match try_batch(&client, leader, &batch).await {
            Ok(()) => done += 1,
            Err(error) => {
                let code = error.code().map(|code| code.code().to_owned());
                assert_eq!(code.as_deref(), Some("53200"), "with {more}: {error:?}");
                refused += 1;
            }
        }
        let lives = bystander.batch_execute("SELECT").await;
        lives.unwrap_or_else(|error| panic!("with {more} the server went down: {error}"));
    }
    assert!(refused > 5 && done > 5, "{refused} refused, {done} done");
}

#[tokio::test]
async fn memory_that_runs_out_in_an_event_batch_or_a_replay_refuses_it_and_ends_no_session() {
    const RECORDS: i64 = 300;
    let (database, admin, mut writer) = notes("").await;
    let body = "x".repeat(20_000);
    let good: Vec<_> = (0..RECORDS)
        .map(|n| note(&format!("e{n}"), &format!("n{n}"), Some(&body)))
        .collect();
    let bad: Vec<_> = (0..RECORDS).map(|_| raw(&format!("{{{body}"))).collect();
    let answer = writer.send(&bad).await.expect("dead letters");
    assert_eq!(answer.get::<_, i64>("dead"), RECORDS);
    let replay =
        "SELECT count(*) FROM sluice.replay_dead_letters(since => '-infinity', dry_run => false)";
    for replays in [false, true] {
        let (mut refused, mut done) = (0, 0);
        for more in 0..60 {
            let client = match replays {
                true => database.admin().await,
                false => database.writer().await,
            };
            // Without the compiler of queries: a library that finds no memory to be loaded fails with another code.
            let load = "SET jit = off; BEGIN; SELECT * FROM sluice.last_batch_steps()";
            client
                .batch_execute(load)
                .await
                .expect("the library is loaded");
            // A batch goes through its handler, too.
            let step = if replays { MIB } else { 4 * MIB };
            limit(backend(&client).await, more * step);
            let outcome = if replays {
                client.query_one(replay, &[]).await.map(drop)
            } else {
                let limited = Writer {
                    client,
                    time_ms: None,
                    ..writer
                };
                let next = limited.next + RECORDS;
                limited.send_until(&good, next).await.map(drop)
            };
            match outcome {
                Ok(()) => done += 1,
                Err(error) => {
                    let code = error.code().map(|code| code.code().to_owned());
                    assert_eq!(
                        code.as_deref(),
                        Some("53200"),
                        "{replays} {more}: {error:?}"
                    );
                    refused += 1;
                }
            }
            let lives = admin.batch_execute("SELECT").await;
            lives.unwrap_or_else(|error| {
                panic!("{replays} with {more} the server went down: {error}")
            });
        }
        assert!(
            refused > 5 && done > 5,
            "{replays}: {refused} refused, {done} done"
        );
    }
}
