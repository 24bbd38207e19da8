//! Disks that are full, slow, or fail to sync. `tests/shims/disk.c` simulates them.

use std::path::{Path, PathBuf};
use std::process::Command;

use proofs::compare::Accounts;
use proofs::ingester::Ingester;
use proofs::load::Feed;
use proofs::rng::seed;
use proofs::scene::{STALL, Scene, assert_mixed};
use proofs::stack::{Stack, repository, unique};
use proofs::wait::wait_until;
use proofs::workload::Workload;

use super::{Preloaded, goes_on};

/// Compiles the shim, where PostgreSQL's account can load it.
fn shim(stack: &Stack) -> String {
    let library = stack.dir.join(format!("{}.so", unique("disk")));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&library)
        .arg(repository().join("tests/shims/disk.c"))
        .arg("-ldl")
        .output()
        .expect("cc: run make setup");
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    library.to_str().expect("a path in UTF-8").to_owned()
}

struct Disk(PathBuf);

impl Disk {
    fn is(&self, state: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, state).expect("the stack's folder is writable");
        std::fs::rename(new, &self.0).expect("one folder");
    }

    fn is_well(&self) {
        let _ = std::fs::remove_file(&self.0);
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

/// A scene on such a disk, under load.
struct Setting {
    scene: Scene,
    disk: Disk,
    instances: [Ingester; 2],
    feed: Feed,
}

impl Setting {
    async fn begin(stack: &Stack) -> (Self, Preloaded<'_>) {
        let mut scene = Scene::new(4).await;
        let disk = Disk(stack.dir.join(unique("disk")));
        let path = disk.path().to_str().expect("a path in UTF-8");
        let preloaded = Preloaded::start(stack, &shim(stack), &[("DISK_FAULTS", path)]).await;
        scene.database.reconnect().await;
        let instances = [scene.ingester(), scene.ingester()];
        let feed = scene.feed(&Workload::new(seed()), 1_000);
        scene.committed_beyond(1_000).await;
        (
            Self {
                scene,
                disk,
                instances,
                feed,
            },
            preloaded,
        )
    }

    /// PostgreSQL may have ended itself meanwhile.
    async fn mended(&mut self) {
        self.disk.is_well();
        self.scene.stack.control(&["postgres-start"]).await;
        let url = &self.scene.database.admin_url;
        wait_until("PostgreSQL to take work", STALL, async || {
            let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
            connected.is_ok()
        })
        .await;
        self.scene.database.reconnect().await;
        goes_on(&self.scene, 2_000, STALL).await;
    }

    async fn end(mut self, preloaded: Preloaded<'_>) {
        self.feed.stop().await;
        let report = self.scene.verify(Accounts::OfOnePartition).await;
        assert_mixed(&report);
        for instance in &mut self.instances {
            instance.stop().await;
        }
        preloaded.end().await;
        self.scene.database.reconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make disasters"]
async fn a_full_disk_is_waited_out_and_kills_no_record() {
    let stack = Stack::get();
    let (mut setting, preloaded) = Setting::begin(&stack).await;
    setting.disk.is("full");
    let log = || {
        setting
            .instances
            .iter()
            .map(Ingester::log)
            .collect::<String>()
    };
    wait_until("the full disk to be noticed", STALL, async || {
        let log = log();
        log.contains("No space left on device") || log.contains("trying again")
    })
    .await;
    setting.mended().await;
    setting.end(preloaded).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make disasters"]
async fn a_slow_disk_costs_nobody_a_lease_for_long_and_no_record() {
    let stack = Stack::get();
    let (mut setting, preloaded) = Setting::begin(&stack).await;
    for slow in ["slow 50", "slow 400", "slow 1500"] {
        setting.disk.is(slow);
        goes_on(&setting.scene, 300, STALL).await;
    }
    setting.mended().await;
    setting.end(preloaded).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make disasters"]
async fn a_disk_that_fails_to_sync_loses_nothing_that_was_committed() {
    let stack = Stack::get();
    let (mut setting, preloaded) = Setting::begin(&stack).await;
    // PostgreSQL gives up: a failed sync may have lost pages for good.
    for _ in 0..2 {
        setting.disk.is("fail");
        let url = setting.scene.database.admin_url.clone();
        wait_until("PostgreSQL to end its sessions", STALL, async || {
            let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
            connected.is_err()
        })
        .await;
        setting.mended().await;
    }
    setting.end(preloaded).await;
}
