//! What the ingester needs of the database besides versions: functions with the right to call them, views, triggers,
//! tables with their columns. `DROP EXTENSION … CASCADE` and owners may take them away.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

use crate::schema::shipped::{self, SCRIPT};
use crate::schema::views::{self, Trigger};

/// Functions of schema `sluice` that the ingester's login calls.
const FUNCTIONS: [&str; 35] = [
    "acquire_partition_lock",
    "renew_partition_lock",
    "release_partition_lock",
    "partition_position",
    "start_topics",
    "keep_topic_id",
    "halt_partition",
    "heartbeat",
    "leave",
    "report_partitions",
    "apply_balance_batch",
    "apply_event_batch",
    "last_batch_rejections",
    "pause_handler",
    "trip_breaker",
    "retry_dead_letters",
    "unpublished_dead_letters",
    "dead_letter_headers",
    "mark_published",
    "partitions_to_care_for",
    "partitions_with_results",
    "unsent_results",
    "mark_results",
    "keep_result_headers",
    "result_headers",
    "dead_letter_keys",
    "forget_result_headers",
    "unprocessed_records",
    "unmarked_replays",
    "mark_replays",
    "parked_dead_letters",
    "dangling_references",
    "other_writers",
    "lock_holder",
    // The view partition_status calls it.
    "partition_holder",
];

/// Functions that other functions and handlers call, by the role that they run as.
const CALLERS: [(&str, &str); 9] = [
    ("sluice_owner", "call_handler"),
    ("sluice_handler", "blames_record"),
    ("sluice_handler", "settle_handler"),
    ("sluice_handler", "read_id"),
    ("sluice_handler", "read_text"),
    ("sluice_handler", "read_currency"),
    ("sluice_handler", "read_amount"),
    ("sluice_handler", "read_plain_instant"),
    ("sluice_handler", "absent"),
];

/// What the ingester's login reads or writes itself: table of schema `ledger`, privilege, columns.
const RIGHTS: [(&str, &str, &str); 8] = [
    ("staging_balance_changes", "INSERT", "piece"),
    ("partition_leases", "SELECT", "partition_id topic partition"),
    (
        "partition_progress",
        "SELECT",
        "partition_id commit_offset started_at last_record",
    ),
    (
        "partition_leader_locks",
        "SELECT",
        "topic partition leader_svc_id paused_reason stepped_down_svc_id",
    ),
    ("partition_halts", "SELECT", "topic partition reason"),
    ("live_instances", "SELECT", "service_id topics"),
    ("partition_status", "SELECT", "topic partition state reason"),
    ("event_handlers", "SELECT", "event_type"),
];

/// Columns of schema `ledger` that the functions work on.
const COLUMNS: [(&str, &str); 18] = [
    (
        "partition_leases",
        "partition_id topic partition leader_svc_id lease_id lease_expires_at session_pid stepped_down_svc_id stepped_down_until",
    ),
    (
        "partition_progress",
        "partition_id fencing_token lease_id commit_offset started_at last_record paused_at paused_reason bury_from resumed_at \
         is_domain topic_id is_halted accepted_at",
    ),
    ("staging_balance_changes", "piece"),
    (
        "event_identities",
        "identity payload_hash kafka_offset partition_id",
    ),
    ("event_conflicts", "identity partition_id kafka_offset"),
    (
        "account_balances",
        "account_id shard_id currency_code available frozen updated_msec last_offset last_partition_id last_change_no",
    ),
    (
        "balance_log",
        "partition_id kafka_offset change_no event_id account_id shard_id currency_code available_delta frozen_delta \
         available_after frozen_after reject_reason created_at source previous_offset previous_partition_id previous_change_no event_time",
    ),
    (
        "verdicts",
        "partition_id kafka_offset event_id verdict reason source created_at event_time",
    ),
    (
        "dead_letters",
        "id topic partition kafka_offset event_id key payload headers error_code error_message attempts status \
         first_failed_at updated_at record_time_ms published_at marked_at is_domain owns_identity retry_payload",
    ),
    (
        "dead_letter_actions",
        "id dead_letter_id action by_user why verdict reason payload acted_at",
    ),
    (
        "burials",
        "partition_id kafka_offset by_user why ordered_at outcome settled_at",
    ),
    ("offset_holes", "partition_id first_offset next_offset"),
    (
        "event_handlers",
        "event_type handler parks_key max_failures failure_window paused_at pause_reason paused_version resumed_at",
    ),
    (
        "ingester_instances",
        "service_id session_pid topics expires_at",
    ),
    ("topic_starts", "topic partitions"),
    ("results_progress", "partition_id next_offset"),
    ("result_headers", "partition_id kafka_offset headers"),
    ("changed_verdicts", "id partition_id kafka_offset"),
];

const MIGRATE: &str = "run `sluice migrate`";

/// What is missing, each with what to do about it; nothing where all is there. Takes the texts of the migrations.
pub async fn missing(client: &Client, migrations: &[&str]) -> Result<Vec<String>, Error> {
    let mut missing = functions(client).await?;
    missing.extend(callers(client).await?);
    missing.extend(views(client, migrations).await?);
    missing.extend(triggers(client, migrations).await?);
    missing.extend(columns(client).await?);
    missing.extend(rights(client).await?);
    Ok(missing)
}

async fn functions(client: &Client) -> Result<Vec<String>, Error> {
    const FUNCTION: &str = "
        SELECT w.name, count(p.oid) > 0, coalesce(bool_and(has_function_privilege(p.oid, 'EXECUTE')), false)
        FROM unnest($1::text[]) w(name)
        LEFT JOIN pg_proc p ON p.pronamespace = to_regnamespace('sluice') AND p.proname = w.name
        GROUP BY 1 ORDER BY 1";
    let rows = client.query(FUNCTION, &[&created()]).await?;
    let told = rows.iter().filter_map(|row| {
        let (name, exists, may_call): (&str, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if !exists {
            Some(format!("function sluice.{name} is missing: {MIGRATE}"))
        } else if !may_call && FUNCTIONS.contains(&name) {
            Some(format!(
                "no right to call sluice.{name}: GRANT EXECUTE ON FUNCTION sluice.{name} TO sluice_writer"
            ))
        } else {
            None
        }
    });
    Ok(told.collect())
}

async fn callers(client: &Client) -> Result<Vec<String>, Error> {
    const CALLER: &str = "
        SELECT w.role, w.name FROM unnest($1::text[], $2::text[]) w(role, name)
        JOIN pg_proc p ON p.pronamespace = to_regnamespace('sluice') AND p.proname = w.name
        WHERE NOT has_function_privilege(w.role, p.oid, 'EXECUTE') ORDER BY 2";
    let (roles, names): (Vec<&str>, Vec<&str>) = CALLERS.into_iter().unzip();
    let rows = client.query(CALLER, &[&roles, &names]).await?;
    let told = rows.iter().map(|row| {
        let (role, name): (&str, &str) = (row.get(0), row.get(1));
        format!(
            "{role} may not call sluice.{name}: GRANT EXECUTE ON FUNCTION sluice.{name} TO {role}"
        )
    });
    Ok(told.collect())
}

/// The functions that the extension's script creates: all are to be there, called by the ingester or not.
fn created() -> Vec<&'static str> {
    let names = SCRIPT.lines().filter_map(|line| {
        let rest = line.strip_prefix("CREATE FUNCTION sluice.")?;
        rest.split(['(', ' ', ';']).next()
    });
    names.collect()
}

/// Which of these views the database does not have.
async fn missing_views(client: &Client, names: &[&str]) -> Result<Vec<String>, Error> {
    // Not by to_regclass, which asks for the right to use the schema.
    const MISSING: &str = "
        SELECT w.name FROM unnest($1::text[]) WITH ORDINALITY w(name, n)
        WHERE NOT EXISTS (
            SELECT FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE s.nspname || '.' || c.relname = w.name)
        ORDER BY w.n";
    let rows = client.query(MISSING, &[&names]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Views of `domain` are for people: the ingester runs without them.
async fn views(client: &Client, migrations: &[&str]) -> Result<Vec<String>, Error> {
    let views = views::views(migrations.iter().copied());
    let names: Vec<&str> = views.iter().map(|view| view.name).collect();
    let missing = missing_views(client, &names).await?;
    let needed = missing.iter().filter(|name| name.starts_with("ledger."));
    Ok(needed
        .map(|name| format!("view {name} is missing: {MIGRATE}"))
        .collect())
}

async fn triggers(client: &Client, migrations: &[&str]) -> Result<Vec<String>, Error> {
    let broken = broken_triggers(client, migrations).await?;
    let told = broken.into_iter().map(|(trigger, exists)| {
        let state = if exists { "disabled" } else { "missing" };
        let Trigger { table, name, .. } = trigger;
        format!("trigger {name} of {table} is {state}: {MIGRATE}")
    });
    Ok(told.collect())
}

/// The triggers that do not fire, each with whether it exists.
async fn broken_triggers<'m>(
    client: &Client,
    migrations: &[&'m str],
) -> Result<Vec<(Trigger<'m>, bool)>, Error> {
    // Where the table itself is not there its columns are told of.
    const STATE: &str = "
        SELECT t.tgenabled::text FROM pg_class c
        LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = $2 AND NOT t.tgisinternal
        WHERE c.oid = to_regclass($1)";
    let mut broken = Vec::new();
    for trigger in views::triggers(migrations.iter().copied()) {
        let which: [&(dyn ToSql + Sync); 2] = [&trigger.table, &trigger.name];
        let Some(row) = client.query_opt(STATE, &which).await? else {
            continue;
        };
        let state: Option<String> = row.get(0);
        if !matches!(state.as_deref(), Some("O" | "A")) {
            broken.push((trigger, state.is_some()));
        }
    }
    Ok(broken)
}

/// Makes anew what belongs to the tables and is not there any more; answers what it was.
pub async fn restore(client: &Client, migrations: &[&str]) -> Result<Vec<String>, Error> {
    let mut restored = Vec::new();
    // What triggers call, before the triggers.
    let functions = shipped::functions(migrations.iter().copied());
    // Those of `domain` are handlers and what they call: whoever drops one has one of his own.
    let names = functions.keys().copied();
    let names: Vec<&str> = names.filter(|name| name.starts_with("ledger.")).collect();
    for name in missing_functions(client, &names).await? {
        as_owner(client, functions[name.as_str()].statement).await?;
        restored.push(format!("function {name}"));
    }
    // In the order of their definitions, because one may read another.
    let views = views::views(migrations.iter().copied());
    let names: Vec<&str> = views.iter().map(|view| view.name).collect();
    let missing = missing_views(client, &names).await?;
    for view in views
        .iter()
        .filter(|view| missing.iter().any(|name| name == view.name))
    {
        as_owner(client, &view.anew()).await?;
        restored.push(format!("view {}", view.name));
    }
    for (trigger, exists) in broken_triggers(client, migrations).await? {
        let Trigger { table, name, anew } = trigger;
        let enable = format!("ALTER TABLE {table} ENABLE TRIGGER {name}");
        let statement: &str = if exists { &enable } else { anew };
        client.batch_execute(statement).await?;
        restored.push(format!("trigger {name} of {table}"));
    }
    Ok(restored)
}

/// Which of these functions the database does not have.
async fn missing_functions(client: &Client, names: &[&str]) -> Result<Vec<String>, Error> {
    const MISSING: &str = "
        SELECT w.name FROM unnest($1::text[]) w(name)
        WHERE NOT EXISTS (
            SELECT FROM pg_proc p JOIN pg_namespace s ON s.oid = p.pronamespace WHERE s.nspname || '.' || p.proname = w.name)
        ORDER BY 1";
    let rows = client.query(MISSING, &[&names]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What the owner of the tables makes is his, and the default privileges of his schemas go with it.
async fn as_owner(client: &Client, statements: &str) -> Result<(), Error> {
    let transaction = format!("BEGIN; SET LOCAL ROLE sluice_owner; {statements} COMMIT");
    client.batch_execute(&transaction).await
}

async fn columns(client: &Client) -> Result<Vec<String>, Error> {
    const COLUMN: &str = "
        SELECT 'ledger.' || w.table || '.' || w.name
        FROM unnest($1::text[], $2::text[]) w(\"table\", name)
        WHERE NOT EXISTS (
            SELECT FROM pg_attribute a
            WHERE a.attrelid = to_regclass('ledger.' || w.table) AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped)
        ORDER BY 1";
    let pairs = COLUMNS
        .iter()
        .flat_map(|(table, names)| names.split_whitespace().map(move |name| (*table, name)));
    let (tables, names): (Vec<&str>, Vec<&str>) = pairs.unzip();
    let rows = client.query(COLUMN, &[&tables, &names]).await?;
    let told = rows.iter().map(|row| {
        let name: &str = row.get(0);
        format!("column {name} is missing: restore it")
    });
    Ok(told.collect())
}

async fn rights(client: &Client) -> Result<Vec<String>, Error> {
    // A column that is not there has been told of already.
    const RIGHT: &str = "
        SELECT w.right, w.table, w.name
        FROM unnest($1::text[], $2::text[], $3::text[]) w(\"table\", \"right\", name)
        JOIN pg_attribute a ON a.attrelid = to_regclass('ledger.' || w.table) AND a.attname = w.name
        WHERE NOT has_column_privilege(a.attrelid, a.attnum, w.right)
        ORDER BY 2, 3";
    let each = RIGHTS.iter().flat_map(|(table, right, names)| {
        names
            .split_whitespace()
            .map(move |name| (*table, (*right, name)))
    });
    let (tables, rest): (Vec<&str>, Vec<(&str, &str)>) = each.unzip();
    let (rights, names): (Vec<&str>, Vec<&str>) = rest.into_iter().unzip();
    let rows = client.query(RIGHT, &[&tables, &rights, &names]).await?;
    let told = rows.iter().map(|row| {
        let (right, table, name): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        format!("no right to {right} ledger.{table}.{name}: GRANT {right} ({name}) ON ledger.{table} TO sluice_writer")
    });
    Ok(told.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn what_the_ingester_calls_is_made_by_the_script() {
        let created = created();
        for name in FUNCTIONS {
            assert!(created.contains(&name), "{name}");
        }
        assert!(created.len() > 40, "{created:?}");
    }

    /// Of operators, who call by logins of their own; and what is about texts only.
    const NOT_THE_INGESTERS: [&str; 8] = [
        "cli/prune.rs",
        "operator/dead_letters.rs",
        "operator/events.rs",
        "operator/partitions.rs",
        "operator/prune.rs",
        "schema/objects.rs",
        "schema/shipped.rs",
        "schema/views.rs",
    ];
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

    /// A function that is not in the list is one whose loss `sluice check` would not see.
    #[test]
    fn every_function_that_the_sources_call_is_checked() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut called = BTreeSet::new();
        for path in sources(&folder) {
            if NOT_THE_INGESTERS
                .iter()
                .any(|file| path == folder.join(file))
            {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source file");
            for (at, schema) in text.match_indices("sluice.") {
                let rest = &text[at + schema.len()..];
                let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                let (name, behind) =
                    rest.split_at(rest.find(|c: char| !is_name(c)).unwrap_or(rest.len()));
                if behind.starts_with('(') {
                    called.insert(name.to_owned());
                }
            }
        }
        assert!(called.len() > 30, "{called:?}");
        for name in called {
            assert!(
                FUNCTIONS.contains(&name.as_str()),
                "{name} is called and not in FUNCTIONS"
            );
        }
    }
}
