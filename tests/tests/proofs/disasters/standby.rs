//! A standby that is promoted while the leader keeps writing to the old primary.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use proofs::compare::{Accounts, compare};
use proofs::database::{Database, connect};
use proofs::ingester::Ingester;
use proofs::proxy::Proxy;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::stack::{Stack, postgres_program, unique};
use proofs::wait::wait_until;
use proofs::workload::Workload;

/// A program of PostgreSQL's, as the account that runs the server.
fn postgres(program: &str) -> Command {
    let program = postgres_program(program);
    // Root may not run a server; the stack runs it as Debian's own user then.
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
            "--",
        ])
        .arg(program);
    command
}

fn done(command: &mut Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    assert!(
        status.expect("PostgreSQL's programs").success(),
        "{command:?}"
    );
}

/// A streaming copy of the stack's server.
struct Standby {
    data: PathBuf,
    port: u16,
}

impl Standby {
    fn start(stack: &Stack) -> Self {
        let data = stack.dir.join("pg").join(unique("standby"));
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        drop(listener);
        done(
            postgres("pg_basebackup")
                .args(["--checkpoint=fast", "--write-recovery-conf", "-d"])
                .arg(stack.admin_url("postgres"))
                .arg("-D")
                .arg(&data),
        );
        done(
            postgres("pg_ctl")
                .args(["start", "-s", "-w", "-D"])
                .arg(&data)
                .arg("-l")
                .arg(data.join("log"))
                .args(["-o", &format!("-c port={port} -c max_connections=200")]),
        );
        Self { data, port }
    }

    /// Hears no more of its primary, and becomes one.
    async fn promote_behind(&self, stack: &Stack, lag: impl Future<Output = ()>) {
        let client = connect(&stack.url(&stack.admin, self.port, "postgres")).await;
        for statement in [
            "ALTER SYSTEM SET primary_conninfo = ''",
            "SELECT pg_reload_conf()",
        ] {
            client
                .batch_execute(statement)
                .await
                .expect("a superuser may");
        }
        wait_until("the standby to hear no more", STALL, async || {
            let row = client
                .query_one("SELECT count(*) FROM pg_stat_wal_receiver", &[])
                .await;
            row.expect("an answer").get::<_, i64>(0) == 0
        })
        .await;
        lag.await;
        let promoted = client.batch_execute("SELECT pg_promote()").await;
        promoted.expect("a standby can be promoted");
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let _ = postgres("pg_ctl")
            .args(["stop", "-s", "-m", "immediate", "-D"])
            .arg(&self.data)
            .status();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make disasters"]
async fn a_standby_promoted_under_a_living_leader_of_the_old_primary_has_every_record_once() {
    let scene = Scene::new(4).await;
    let ways = [
        Proxy::start(scene.stack.postgres_port).await,
        Proxy::start(scene.stack.postgres_port).await,
    ];
    let ingester = |way: &Proxy| {
        let url = scene.database.url_through(&scene.stack, way.port);
        Ingester::start(&scene.stack, &url, &scene.topic, &[])
    };
    let mut instances = [ingester(&ways[0]), ingester(&ways[1])];
    let feed = scene.feed(&Workload::new(seed()), 1_000);
    scene.committed_beyond(1_000).await;
    let standby = Standby::start(&scene.stack);
    scene
        .committed_beyond(scene.committed().await + 1_000)
        .await;

    // What the old primary commits from here on, nobody else has.
    let lag = async {
        scene
            .committed_beyond(scene.committed().await + 2_000)
            .await
    };
    standby.promote_behind(&scene.stack, lag).await;
    let stack = Stack {
        postgres_port: standby.port,
        ..scene.stack.clone()
    };
    let promoted = Database::open(&stack, &scene.database.name).await;
    let behind = promoted.committed(&scene.topic).await;
    assert!(
        behind + 1_000 < scene.committed().await,
        "the standby was meant to be behind"
    );

    // One is led to the new primary and takes everything there, while the other leads on the old one. Both hold
    // tokens that both servers know.
    ways[1].lead_to(standby.port);
    wait_until(
        "somebody to go on with the new primary",
        STALL,
        async || promoted.committed(&scene.topic).await > behind + 500,
    )
    .await;
    scene.committed_beyond(scene.committed().await + 500).await;
    // Then the other comes, with leases, tokens and offsets of a past that did not happen here.
    ways[0].lead_to(standby.port);
    let goal = promoted.committed(&scene.topic).await + 3_000;
    wait_until(
        "both to go on with the new primary",
        Duration::from_secs(60),
        async || promoted.committed(&scene.topic).await > goal,
    )
    .await;
    feed.stop().await;
    promoted
        .caught_up(&stack.kafka, &scene.topic, 4, STALL)
        .await;
    let report = compare(&stack, &promoted, &scene.topic, 4, Accounts::OfOnePartition).await;
    report.assert_none();
    assert_mixed(&report);
    for (check, found) in promoted.run_checks().await {
        assert_eq!(found, None, "{check} found something");
    }
    for instance in &mut instances {
        instance.stop().await;
    }
}
