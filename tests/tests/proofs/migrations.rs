//! `sluice migrate` in a database with functions that the platform replaced, and with its own tables and migrations.

use std::path::PathBuf;

use proofs::database::Database;
use proofs::families::Event;
use proofs::families::partition::Partition;
use proofs::families::{NEW_YEAR_US, timestamp};
use proofs::stack::{Stack, repository, sluice_command, unique};
use serde_json::json;

use crate::earlier::database_of_0_6_0;

/// The newest migration of version 0.6.0: those of the bridge write handlers anew.
const BEFORE: i64 = 19;
const REPLACED: &str = "domain.on_user_created";

/// What `sluice migrate` printed, and whether it succeeded.
fn migrate(database: &Database, arguments: &[&str]) -> (bool, String) {
    let arguments = [&["migrate"], arguments].concat();
    let environment = [("ADMIN_DATABASE_URL", database.admin_url.as_str())];
    let output = sluice_command(&arguments, &environment).output();
    let output = output.expect("sluice can be run");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8(printed).expect("text");
    (output.status.success(), printed)
}

async fn body(database: &Database, function: &str) -> String {
    let body = "SELECT prosrc FROM pg_proc WHERE oid = to_regproc($1)";
    let row = database.client.query_one(body, &[&function]).await;
    row.expect(function).get(0)
}

const LEVEL: &str = "SELECT max(version)::bigint FROM ledger.schema_history";
const HISTORY: &str =
    "SELECT concat_ws(' ', version, name, checksum) FROM ledger.schema_history ORDER BY version";

/// A DBA replaced a function that comes with Sluice, and changed a setting of another one; a migration writes both anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_shipped_function_that_was_replaced_is_kept_or_refused_by_name_and_never_undone_silently()
{
    let stack = Stack::get();
    let database = database_of_0_6_0(&stack).await;
    let client = &database.client;
    let replaced = format!(
        "CREATE OR REPLACE FUNCTION {REPLACED}(events domain.event[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN /* ours */ END $$;
         CREATE OR REPLACE FUNCTION domain.await_skills(type text, events domain.event[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN /* ours */ END $$;
         ALTER FUNCTION domain.on_wallet_updated(domain.event[]) SET work_mem = '64MB';
         ALTER FUNCTION sluice.prune SET search_path = pg_catalog;
         CREATE FUNCTION domain.on_user_deleted(text) RETURNS void LANGUAGE sql AS 'SELECT'"
    );
    client.batch_execute(&replaced).await.expect("a DBA may");
    let ours = body(&database, REPLACED).await;

    let (succeeded, printed) = migrate(&database, &[]);
    assert!(!succeeded, "{printed}");
    let named = format!(
        "replaced in this database, and to be written anew: {REPLACED}, domain.on_wallet_updated, sluice.prune. Nothing was changed."
    );
    assert!(printed.contains(&named), "{printed}");
    assert_eq!(database.count(LEVEL).await, BEFORE);
    // One that is as it came is not what was meant.
    let (succeeded, printed) = migrate(&database, &["--keep", "domain.on_message_read"]);
    assert!(
        !succeeded && printed.contains("domain.on_message_read: no function"),
        "{printed}"
    );
    assert_eq!(database.count(LEVEL).await, BEFORE);

    let choices = [
        "--keep",
        REPLACED,
        "--overwrite",
        "domain.on_wallet_updated",
        "--overwrite",
        "sluice.prune",
    ];
    let (succeeded, printed) = migrate(&database, &choices);
    assert!(succeeded, "{printed}");
    for line in [
        "kept domain.on_user_created, which",
        "kept domain.await_skills, which",
        "overwritten domain.on_wallet_updated",
        "overwritten sluice.prune",
    ] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    assert_eq!(body(&database, REPLACED).await, ours);
    assert!(
        body(&database, "domain.on_user_updated")
            .await
            .contains("extra")
    );
    let settings = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'domain'::regnamespace AND proconfig IS NOT NULL";
    assert_eq!(database.count(settings).await, 0);
    // Behind the bridge the history is that of a new database.
    let new = Database::create(&stack).await;
    let mut histories = Vec::new();
    for database in [&database, &new] {
        let rows = database.client.query(HISTORY, &[]).await.expect("it");
        histories.push(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>());
    }
    assert_eq!(histories[0], histories[1]);

    // The record of the migration is what it is for everybody, so a later release goes on from it.
    let (succeeded, printed) = migrate(&database, &[]);
    let kept = "kept domain.await_skills, which was replaced in this database\nkept domain.on_user_created, which was replaced in this database\n";
    assert!(succeeded);
    assert_eq!(printed, kept);
    let (succeeded, printed) = migrate(
        &database,
        &[
            "--overwrite",
            REPLACED,
            "--overwrite",
            "domain.await_skills",
        ],
    );
    assert!(succeeded, "{printed}");
    assert!(body(&database, REPLACED).await.contains("extra"));
    let (_, printed) = migrate(&database, &[]);
    assert!(printed.starts_with("up to date: "), "{printed}");
}

/// `CREATE INDEX CONCURRENTLY` leaves one behind that no query uses where it fails.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_index_stops_the_upgrade_only_where_its_name_is_one_that_sluice_creates() {
    let stack = Stack::get();
    let database = database_of_0_6_0(&stack).await;
    let client = &database.client;
    let broken = "CREATE INDEX messages_by_sender ON domain.messages (sender_id) WHERE sender_id IS NOT NULL;
        CREATE INDEX x_messages_by_age ON domain.messages (created_at);
        UPDATE pg_index SET indisvalid = false
        WHERE indexrelid IN ('domain.messages_by_sender'::regclass, 'domain.x_messages_by_age'::regclass)";
    client.batch_execute(broken).await.expect("a superuser may");
    let (succeeded, printed) = migrate(&database, &[]);
    assert!(!succeeded, "{printed}");
    let named = "index domain.messages_by_sender is not valid: no query uses it";
    assert!(printed.contains(named), "{printed}");
    assert_eq!(database.count(LEVEL).await, 25);
    let removed = client.batch_execute("DROP INDEX domain.messages_by_sender");
    removed.await.expect("it is there");
    let (succeeded, printed) = migrate(&database, &[]);
    assert!(succeeded, "{printed}");
    let valid = "SELECT count(*) FROM pg_index WHERE indisvalid AND indexrelid = 'domain.messages_by_sender'::regclass";
    assert_eq!(database.count(valid).await, 1);
}

/// Each would be undone without a word by the next `CREATE OR REPLACE` of the function.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_setting_or_right_of_a_shipped_function_that_has_settings_is_seen() {
    let database = Database::create(&Stack::get()).await;
    for (function, change) in [
        ("sluice.prune", "SET work_mem = '64MB'"),
        ("sluice.find_event", "SET search_path = pg_catalog"),
        ("sluice.accept_partition", "SECURITY INVOKER"),
        ("ledger.refuse_balance_topic", "RESET search_path"),
        ("domain.on_user_created", "STABLE"),
    ] {
        let alter = format!("ALTER FUNCTION {function} {change}");
        database.client.batch_execute(&alter).await.expect(&alter);
        let (succeeded, printed) = migrate(&database, &[]);
        let kept = format!("kept {function}, which was replaced in this database\n");
        assert!(succeeded && printed == kept, "{alter}: {printed}");
        let (succeeded, printed) = migrate(&database, &["--overwrite", function]);
        assert!(succeeded, "{printed}");
        let (_, printed) = migrate(&database, &[]);
        assert!(printed.starts_with("up to date: "), "{alter}: {printed}");
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(unique("own_migrations"));
        std::fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("a folder of ours");
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain name")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A table of the platform's own, its handler, and later a column of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_platforms_own_migrations_follow_those_of_sluice_each_once_and_in_order() {
    let stack = Stack::get();
    let database = Database::create_empty(&stack).await;
    let folder = Folder::new();
    let also = ["--also", folder.path()];
    let refused = |told: &str| {
        let (succeeded, printed) = migrate(&database, &also);
        assert!(!succeeded && printed.contains(told), "{printed}");
    };
    refused("no file there has a name such as V1__own_tables.sql");
    folder.write("notes.sql", "SELECT 1");
    refused("notes.sql has no name such as V1__own_tables.sql");
    let none = "SELECT count(*) FROM pg_namespace WHERE nspname = 'ledger'";
    assert_eq!(
        database.count(none).await,
        0,
        "refused before anything was done"
    );
    std::fs::remove_file(folder.0.join("notes.sql")).expect("it is there");

    let documented =
        std::fs::read_to_string(repository().join("docs/events.md")).expect("a document");
    let (_, section) = documented
        .split_once("## Tables of your own")
        .expect("a section");
    let example = section.split_once("```sql\n").expect("an example").1;
    let example = example.split_once("```").expect("its end").0;
    folder.write("V1__reviews.sql", example);
    folder.write(
        "V2__stars.sql",
        "ALTER TABLE platform.reviews ADD stars integer",
    );
    let (succeeded, printed) = migrate(&database, &also);
    assert!(succeeded, "{printed}");
    let ours = printed
        .find("applied migration V1__partitions\n")
        .expect("those of Sluice");
    let first = printed
        .find("applied migration V1__reviews of family own")
        .expect("the first");
    let second = printed
        .find("applied migration V2__stars of family own")
        .expect("the second");
    assert!(ours < first && first < second, "{printed}");
    let (succeeded, printed) = migrate(&database, &also);
    assert!(
        succeeded && printed.starts_with("up to date: "),
        "{printed}"
    );

    // What the example makes takes events.
    let writer = database.writer().await;
    let event = Event::new(
        "review.written",
        "review-1",
        NEW_YEAR_US,
        json!({ "reviewId": "rev_1", "userId": "usr_1", "text": "Good." }),
    );
    let grant = format!("GRANT sluice_writer TO {}", stack.ingester.user);
    database
        .client
        .batch_execute(&grant)
        .await
        .expect("a superuser may");
    let mut partition = Partition::lead(&writer, "review.written", 0).await;
    partition.send(&writer, &[&event]).await.expect("applied");
    let kept = format!(
        "SELECT count(*) FROM platform.reviews WHERE review_id = 'rev_1' AND body = 'Good.' AND written_at = '{}'",
        timestamp(NEW_YEAR_US)
    );
    assert_eq!(database.count(&kept).await, 1);

    folder.write(
        "V2__stars.sql",
        "ALTER TABLE platform.reviews ADD stars bigint",
    );
    refused("migration V2__stars differs from V2__stars, which this database has");
}

/// Names that a platform may give to columns and tables of its own: no release of Sluice takes one of them.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_sluice_has_a_name_that_is_the_platforms() {
    let database = Database::create(&Stack::get()).await;
    let taken = "SELECT (SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
            WHERE c.relnamespace IN ('domain'::regnamespace, 'ledger'::regnamespace) AND a.attname LIKE 'x\\_%')
        + (SELECT count(*) FROM pg_class WHERE relnamespace IN ('domain'::regnamespace, 'ledger'::regnamespace) AND relname LIKE 'x\\_%')
        + (SELECT count(*) FROM pg_proc WHERE pronamespace IN ('domain'::regnamespace, 'ledger'::regnamespace) AND proname LIKE 'x\\_%')
        + (SELECT count(*) FROM pg_namespace WHERE nspname = 'platform')";
    assert_eq!(database.count(taken).await, 0);
}
