//! What the ingester needs of the database besides versions: functions with the right to call them, the trigger that
//! hands over staged rows, tables with their columns. `DROP EXTENSION … CASCADE` and owners may take them away.

use tokio_postgres::Client;

/// Functions of schema `sluice` that the ingester's login calls.
const FUNCTIONS: [&str; 23] = [
    "acquire_partition_lock",
    "renew_partition_lock",
    "release_partition_lock",
    "heartbeat",
    "leave",
    "report_partitions",
    "apply_balance_batch",
    "apply_event_batch",
    "pause_handler",
    "trip_breaker",
    "retry_dead_letters",
    "unpublished_dead_letters",
    "mark_published",
    "partitions_to_care_for",
    "partitions_with_results",
    "unsent_results",
    "mark_results",
    "unprocessed_records",
    "unmarked_replays",
    "mark_replays",
    "parked_dead_letters",
    "dangling_references",
    "other_writers",
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

/// The scripts of the extension: what they create is to be there, called by the ingester or not.
pub const SCRIPTS: [&str; 7] = [
    include_str!("../../pg_ext/sql/sluice--0.1.0.sql"),
    include_str!("../../pg_ext/sql/sluice--0.1.0--0.2.0.sql"),
    include_str!("../../pg_ext/sql/sluice--0.2.0--0.3.0.sql"),
    include_str!("../../pg_ext/sql/sluice--0.3.0--0.4.0.sql"),
    include_str!("../../pg_ext/sql/sluice--0.4.0--0.5.0.sql"),
    include_str!("../../pg_ext/sql/sluice--0.5.0--0.6.0.sql"),
    include_str!("../../pg_ext/sql/sluice--0.6.0--0.7.0.sql"),
];

/// Triggers of schema `ledger`: table, name, and how it is made anew.
const TRIGGERS: [(&str, &str, &str); 3] = [
    // It depends on the extension, and goes with it.
    (
        "staging_balance_changes",
        "capture",
        "CREATE TRIGGER capture BEFORE INSERT ON ledger.staging_balance_changes
         FOR EACH ROW EXECUTE FUNCTION sluice.capture_staged_row()",
    ),
    (
        "partition_progress",
        "record_pause",
        "CREATE TRIGGER record_pause AFTER UPDATE OF paused_at ON ledger.partition_progress
         FOR EACH ROW WHEN (NEW.paused_at IS DISTINCT FROM OLD.paused_at) EXECUTE FUNCTION ledger.record_partition_action()",
    ),
    (
        "partition_leases",
        "record_step_down",
        "CREATE TRIGGER record_step_down AFTER UPDATE OF stepped_down_until ON ledger.partition_leases
         FOR EACH ROW WHEN (NEW.stepped_down_until IS NOT NULL) EXECUTE FUNCTION ledger.record_partition_action()",
    ),
];

/// What the ingester's login reads or writes itself: table of schema `ledger`, privilege, columns.
const RIGHTS: [(&str, &str, &str); 7] = [
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
    ("live_instances", "SELECT", "service_id topics"),
    ("partition_status", "SELECT", "topic partition state reason"),
    ("event_handlers", "SELECT", "event_type"),
];

/// Columns of schema `ledger` that the functions work on.
const COLUMNS: [(&str, &str); 15] = [
    (
        "partition_leases",
        "partition_id topic partition leader_svc_id lease_id lease_expires_at session_pid stepped_down_svc_id stepped_down_until",
    ),
    (
        "partition_progress",
        "partition_id fencing_token lease_id commit_offset started_at last_record paused_at paused_reason bury_from resumed_at",
    ),
    ("staging_balance_changes", "piece"),
    (
        "event_identities",
        "identity payload_hash kafka_offset partition_id",
    ),
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
         first_failed_at updated_at record_time_ms published_at marked_at",
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
    ("results_progress", "partition_id next_offset"),
    ("changed_verdicts", "id partition_id kafka_offset"),
];

const MIGRATE: &str = "run `sluice migrate`";

/// What is missing, each with what to do about it; nothing where all is there.
pub async fn missing(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let mut missing = functions(client).await?;
    missing.extend(callers(client).await?);
    missing.extend(triggers(client).await?);
    missing.extend(columns(client).await?);
    missing.extend(rights(client).await?);
    Ok(missing)
}

async fn functions(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
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

async fn callers(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
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

/// The functions that the extension's scripts leave behind.
fn created() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for line in SCRIPTS.iter().flat_map(|script| script.lines()) {
        let name = |begin: &str| {
            let rest = line.strip_prefix(begin)?.strip_prefix("sluice.")?;
            rest.split(['(', ' ', ';']).next()
        };
        if let Some(name) = name("CREATE FUNCTION ").or_else(|| name("CREATE OR REPLACE FUNCTION "))
        {
            names.push(name);
        }
        if let Some(name) = name("DROP FUNCTION ").or_else(|| name("DROP FUNCTION IF EXISTS ")) {
            names.retain(|known| *known != name);
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

async fn triggers(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let told = broken_triggers(client).await?.into_iter().map(|broken| {
        let state = if broken.exists { "disabled" } else { "missing" };
        let Broken { table, name, .. } = broken;
        format!("trigger {name} of ledger.{table} is {state}: {MIGRATE}")
    });
    Ok(told.collect())
}

/// A trigger that does not fire.
struct Broken {
    table: &'static str,
    name: &'static str,
    anew: &'static str,
    exists: bool,
}

async fn broken_triggers(client: &Client) -> Result<Vec<Broken>, tokio_postgres::Error> {
    // Where the table itself is not there its columns are told of.
    const STATE: &str = "
        SELECT t.tgenabled::text FROM pg_class c
        LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = $2 AND NOT t.tgisinternal
        WHERE c.oid = to_regclass('ledger.' || $1)";
    let mut broken = Vec::new();
    for (table, name, anew) in TRIGGERS {
        let Some(row) = client.query_opt(STATE, &[&table, &name]).await? else {
            continue;
        };
        let state: Option<String> = row.get(0);
        let exists = state.is_some();
        if !matches!(state.as_deref(), Some("O" | "A")) {
            broken.push(Broken {
                table,
                name,
                anew,
                exists,
            });
        }
    }
    Ok(broken)
}

/// Makes anew what belongs to the tables and went with the extension; answers what it was.
pub async fn restore(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let mut restored = Vec::new();
    for Broken {
        table,
        name,
        anew,
        exists,
    } in broken_triggers(client).await?
    {
        let enable = format!("ALTER TABLE ledger.{table} ENABLE TRIGGER {name}");
        client
            .batch_execute(if exists { &enable } else { anew })
            .await?;
        restored.push(format!("trigger {name} of ledger.{table}"));
    }
    Ok(restored)
}

async fn columns(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
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

async fn rights(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
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
    use super::*;

    #[test]
    fn what_the_ingester_calls_is_made_by_the_scripts() {
        let created = created();
        for name in FUNCTIONS {
            assert!(created.contains(&name), "{name}");
        }
        assert!(created.len() > 40, "{created:?}");
    }
}
