//! Interleavings of sessions as PostgreSQL itself writes them down: specifications that its `isolationtester` (of the
//! package postgresql-server-dev) runs step by step, and what they must print.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::Database;

/// Where PostgreSQL's own tools are.
fn isolationtester() -> String {
    let pg_config = std::env::var("PGRX_PG_CONFIG_PATH");
    let pg_config = pg_config.unwrap_or_else(|_| "/usr/lib/postgresql/15/bin/pg_config".to_owned());
    let answer = Command::new(pg_config).arg("--pgxs").output();
    let makefile = String::from_utf8(answer.expect("pg_config").stdout).expect("a path");
    let pgxs = Path::new(makefile.trim())
        .ancestors()
        .nth(3)
        .expect("…/pgxs/src/makefiles/pgxs.mk");
    format!("{}/src/test/isolation/isolationtester", pgxs.display())
}

#[tokio::test]
async fn two_sessions_at_one_fence() {
    let database = Database::create().await;
    let specs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/isolation");
    let spec = std::fs::File::open(specs.join("fence.spec")).expect("the specification");
    let run = Command::new(isolationtester())
        .arg(database.superuser_url())
        .stdin(spec)
        .stderr(Stdio::inherit())
        .output()
        .expect("isolationtester, of postgresql-server-dev");
    let printed = String::from_utf8(run.stdout).expect("text");
    let expected = std::fs::read_to_string(specs.join("fence.out")).expect("what it prints");
    assert!(printed == expected, "it printed:\n{printed}");
}
