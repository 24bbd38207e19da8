//! Faults that cannot be mixed: clocks that jump, disks that are full, slow or failing, a standby promoted while a
//! leader is alive, and a frozen broker.

mod brokers;
mod clocks;
mod disks;
mod standby;

use std::path::PathBuf;
use std::time::Duration;

use proofs::scene::Scene;
use proofs::stack::Stack;

/// A PostgreSQL that was started with a library before its own calls; put back by `end`.
struct Preloaded<'s> {
    stack: &'s Stack,
}

impl<'s> Preloaded<'s> {
    async fn start(stack: &'s Stack, library: &str, environment: &[(&str, &str)]) -> Self {
        stack.control(&["postgres-stop"]).await;
        let mut environment = environment.to_vec();
        environment.push(("SLUICE_POSTGRES_PRELOAD", library));
        stack.control_with(&["postgres-start"], &environment).await;
        Self { stack }
    }

    async fn end(self) {
        self.stack.control(&["postgres-stop"]).await;
        self.stack.control(&["postgres-start"]).await;
    }
}

/// The library of Debian's package libfaketime.
fn faketime() -> String {
    let libraries = std::fs::read_dir("/usr/lib")
        .expect("it is there")
        .flatten();
    let mut libraries = libraries.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let library: Option<PathBuf> = libraries.find(|library| library.exists());
    let library = library.expect("libfaketime: run make setup");
    library.to_str().expect("a path in UTF-8").to_owned()
}

/// That work goes on, for a while and without a break of more than `longest`.
async fn goes_on(scene: &Scene, records: i64, longest: Duration) {
    let goal = scene.committed().await + records;
    loop {
        let before = scene.committed().await;
        if before >= goal {
            return;
        }
        let what = "the next commit";
        proofs::wait::wait_until(what, longest, async || scene.committed().await > before).await;
    }
}
