//! One dependency, one room: who looks for Kafka finds it in one place.

use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of ours") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_dependency_is_named_in_its_room_only() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (dependency, package, room) in [
        ("rdkafka::", "ingester/src", "ingester/src/{source,outlet}"),
        ("redis::", "ingester/src", "ingester/src/hint"),
        ("axum::", "ingester/src", "ingester/src/http"),
        (
            "prometheus_client::",
            "ingester/src",
            "ingester/src/metrics",
        ),
        ("openssl::ssl", "ingester/src", "ingester/src/{tls,db,hint}"),
        ("refinery::", "ingester/src", "ingester/src/schema"),
        (
            "clap::",
            "ingester/src",
            "ingester/src/{config,main,commands/}",
        ),
        ("pg_sys", "pg_ext/src", "pg_ext/src/{pg/,error}"),
    ] {
        let (before, choices) = room.split_once('{').unwrap_or((room, "}"));
        let rooms: Vec<String> = choices
            .trim_end_matches('}')
            .split(',')
            .map(|choice| format!("{before}{choice}"))
            .collect();
        let naming: Vec<String> = sources(&top.join(package))
            .into_iter()
            .filter(|path| {
                let text = std::fs::read_to_string(path).expect("a source file");
                text.contains(dependency)
            })
            .map(|path| {
                path.strip_prefix(&top)
                    .expect("below it")
                    .display()
                    .to_string()
            })
            .collect();
        assert!(
            !naming.is_empty(),
            "nobody names {dependency}: mend this test"
        );
        let strangers: Vec<_> = naming
            .iter()
            .filter(|path| !rooms.iter().any(|room| path.starts_with(room)))
            .collect();
        assert!(
            strangers.is_empty(),
            "{dependency} is named in {strangers:?}"
        );
    }
}
