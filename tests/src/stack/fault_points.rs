//! Ingester and extension built with fault points (`scripts/build-faults.sh`), and the points: armed,
//! reached, continued.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::database::Database;
use crate::stack::{Stack, repository, unique};
use crate::wait::wait_until;

/// Whose process acts at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Ingester,
    Extension,
}

/// `target/faults`, where the builds with fault points lie.
fn builds() -> PathBuf {
    let built = repository().join("target/faults");
    assert!(
        built.join("lib/sluice.so").exists(),
        "the builds with fault points are missing: run scripts/build-faults.sh"
    );
    built
}

/// The ingester with fault points.
pub fn sluice_with_faults() -> PathBuf {
    builds().join("release/sluice")
}

/// The extension with fault points.
pub fn library_with_faults() -> PathBuf {
    builds().join("lib/sluice.so")
}

/// Every point that stands in the sources, by its name.
pub fn all() -> BTreeMap<String, Side> {
    let mut points = BTreeMap::new();
    for (folder, side) in [
        ("ingester/src", Side::Ingester),
        ("pg_ext/src", Side::Extension),
    ] {
        collect(&repository().join(folder), side, &mut points);
    }
    assert!(points.len() > 30, "the fault points are gone: {points:?}");
    points
}

fn collect(folder: &Path, side: Side, points: &mut BTreeMap<String, Side>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the sources") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            collect(&path, side, points);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let text: String = text.split_whitespace().collect();
        for call in [
            "fault_point!(\"",
            "fault_sent!(\"",
            "||point(\"",
            "fault::point(\"",
        ] {
            let names = text.split(call).skip(1);
            let names = names.filter_map(|rest| rest.split('"').next());
            points.extend(names.map(|name| (name.to_owned(), side)));
        }
    }
}

/// A folder in which points are armed, for one database and its ingesters.
pub struct FaultPoints {
    folder: PathBuf,
}

impl FaultPoints {
    pub fn new(stack: &Stack) -> Self {
        let folder = stack.dir.join(unique("fault_points"));
        std::fs::create_dir(&folder).expect("the stack's folder is writable");
        // Backends run as another user and rename what is armed here.
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("it is ours");
        Self { folder }
    }

    /// New sessions of the database load the extension with fault points.
    pub async fn load_into(&self, database: &Database) {
        let library = self.folder.join("lib");
        std::fs::create_dir(&library).expect("it is new");
        std::fs::copy(library_with_faults(), library.join("sluice.so")).expect("it was built");
        let statements = format!(
            "ALTER DATABASE {name} SET dynamic_library_path = '{}:$libdir';
             ALTER DATABASE {name} SET sluice.fault_points = '{}'",
            library.display(),
            self.folder.display(),
            name = database.name
        );
        let loaded = database.client.batch_execute(&statements).await;
        loaded.expect("a superuser may");
    }

    /// What an ingester is told.
    pub fn setting(&self) -> (&'static str, &str) {
        let folder = self.folder.to_str().expect("a path in UTF-8");
        ("SLUICE_FAULT_POINTS", folder)
    }

    /// Arms a point once, for `crash`, `freeze`, `raise` or `delay MS`, and where wanted `after N`.
    pub fn arm(&self, point: &str, order: &str) {
        self.forget(point);
        // It appears whole, for somebody may pass at any moment.
        let written = self.folder.join(format!("{point}.new"));
        std::fs::write(&written, order).expect("the folder is ours");
        std::fs::rename(written, self.folder.join(point)).expect("one folder");
    }

    /// Neither armed nor hit any more.
    pub fn forget(&self, point: &str) {
        let _ = std::fs::remove_file(self.folder.join(point));
        if let Some(pid) = self.hit(point) {
            let hit = format!("{point}.hit.{}", pid.as_raw_nonzero());
            std::fs::remove_file(self.folder.join(hit)).expect("it was hit once");
        }
    }

    /// Who acted at the point since it was armed.
    pub fn hit(&self, point: &str) -> Option<Pid> {
        let prefix = format!("{point}.hit.");
        let entries = std::fs::read_dir(&self.folder).expect("the folder is ours");
        let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.find_map(|name| Pid::from_raw(name.strip_prefix(&prefix)?.parse().ok()?))
    }

    /// Waits until somebody acts at the point.
    pub async fn reached(&self, point: &str, timeout: Duration) -> Pid {
        let what = format!("the fault point {point} to be reached");
        wait_until(&what, timeout, async || self.hit(point).is_some()).await;
        self.hit(point).expect("just seen")
    }
}

/// Whether a process stands still after SIGSTOP.
pub fn is_stopped(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let stat = stat.unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state == Some('T')
}

/// Lets a frozen process go on.
pub fn go_on(pid: Pid) {
    let _ = kill_process(pid, Signal::CONT);
}
