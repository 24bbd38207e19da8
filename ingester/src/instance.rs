//! Who this process is: the instance's name, its version, and for how long it runs. Stands on every log line and in `/health`.

use std::sync::{LazyLock, OnceLock};
use std::time::Instant;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
static SERVICE_ID: OnceLock<String> = OnceLock::new();

/// Called first of all: from here on the time counts.
pub fn begins() {
    LazyLock::force(&BEGAN);
}

/// Once the settings say how the instance is called; a command has no name.
pub fn is_called(service_id: &str) {
    let _ = SERVICE_ID.set(service_id.to_owned());
}

pub fn uptime_s() -> u64 {
    BEGAN.elapsed().as_secs()
}

/// A line of the log, with who wrote it: as first fields of a JSON object, or behind a text.
pub fn signed(line: &str) -> String {
    let service_id = SERVICE_ID.get().map(String::as_str);
    sign(line, service_id, uptime_s())
}

fn sign(line: &str, service_id: Option<&str>, uptime_s: u64) -> String {
    if let Some(rest) = line.strip_prefix('{') {
        let service_id = service_id.map_or(String::new(), |id| {
            let id = serde_json::Value::from(id);
            format!("\"service_id\":{id},")
        });
        return format!("{{{service_id}\"version\":\"{VERSION}\",\"uptime_s\":{uptime_s},{rest}");
    }
    let text = line.trim_end_matches('\n');
    let service_id = service_id.map_or(String::new(), |id| format!(" service_id={id}"));
    format!("{text}{service_id} version={VERSION} uptime_s={uptime_s}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_log_line_says_which_instance_of_which_version_wrote_it_and_how_old_it_is() {
        let signed = sign("{\"level\":\"INFO\"}\n", Some("a \"name\""), 7);
        let read: serde_json::Value = serde_json::from_str(&signed).expect("JSON");
        assert_eq!(read["service_id"], "a \"name\"");
        assert_eq!(
            (&read["version"], &read["uptime_s"]),
            (&VERSION.into(), &7.into())
        );
        assert_eq!(read["level"], "INFO");
        assert_eq!(
            sign("INFO stopping\n", Some("one"), 7),
            format!("INFO stopping service_id=one version={VERSION} uptime_s=7\n")
        );
        assert_eq!(
            sign("INFO x\n", None, 0),
            format!("INFO x version={VERSION} uptime_s=0\n")
        );
    }
}
