//! What `sluice migrate` and `sluice uninstall` do to a database that is not Sluice's alone: names that are taken, families
//! of event types that are wanted or not, and nothing that is left behind.

use std::path::PathBuf;

use proofs::database::{Database, connect};
use proofs::families::Event;
use proofs::families::NEW_YEAR_US;
use proofs::families::partition::Partition;
use proofs::stack::{Stack, repository, sluice_command, unique};
use serde_json::json;

/// What a command printed, and whether it succeeded.
fn run(database: &Database, arguments: &[&str], settings: &[(&str, &str)]) -> (bool, String) {
    let mut environment = vec![("ADMIN_DATABASE_URL", database.admin_url.as_str())];
    environment.extend_from_slice(settings);
    let output = sluice_command(arguments, &environment).output();
    let output = output.expect("sluice can be run");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8(printed).expect("text");
    (output.status.success(), printed)
}

fn succeeds(database: &Database, arguments: &[&str]) -> String {
    let (succeeded, printed) = run(database, arguments, &[]);
    assert!(succeeded, "{arguments:?}: {printed}");
    printed
}

/// Everything in a database but what every database has, roles and rights included.
async fn content(database: &Database) -> Vec<String> {
    const CONTENT: &str = "
        SELECT 'schema ' || nspname || ' of ' || nspowner::regrole || coalesce(nspacl::text, '') FROM pg_namespace
        WHERE nspname !~ '^pg_(temp|toast_temp)'
        UNION ALL SELECT 'relation ' || oid::regclass || ' ' || coalesce(relacl::text, '') FROM pg_class
        WHERE oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace
        UNION ALL SELECT 'function ' || oid::regprocedure || ' ' || coalesce(proacl::text, '') FROM pg_proc WHERE oid >= 16384
        UNION ALL SELECT 'type ' || oid::regtype FROM pg_type WHERE oid >= 16384
        UNION ALL SELECT 'extension ' || extname FROM pg_extension
        UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
        UNION ALL SELECT concat_ws(' ', 'default privileges', defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype, defaclacl)
        FROM pg_default_acl
        UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname LIKE 'sluice\\_%'
        ORDER BY 1";
    let rows = database.client.query(CONTENT, &[]).await.expect("catalogs");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Their tables would be written by Sluice's functions, or Sluice's by their logins.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_or_role_of_somebody_elses_stops_the_migration_with_one_sentence_and_nothing_is_changed()
 {
    let stack = Stack::get();
    for (made, told) in [
        ("CREATE SCHEMA domain", "schema domain of "),
        (
            "CREATE SCHEMA ledger; CREATE TABLE ledger.books (id int)",
            "schema ledger of ",
        ),
        ("CREATE SCHEMA ledger", "schema ledger of "),
        (
            "CREATE SCHEMA sluice; CREATE FUNCTION sluice.leave(text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "schema sluice of ",
        ),
    ] {
        let database = Database::create_empty(&stack).await;
        database
            .client
            .batch_execute(made)
            .await
            .expect("a superuser may");
        let before = content(&database).await;
        let (succeeded, printed) = run(&database, &["migrate"], &[]);
        assert!(!succeeded, "{made}: {printed}");
        let sentence = format!("not Sluice's, although it has a name that Sluice needs: {told}");
        assert!(printed.contains(&sentence), "{made}: {printed}");
        assert!(printed.contains("Nothing was changed"), "{printed}");
        assert_eq!(printed.trim_end().lines().count(), 1, "{printed}");
        assert_eq!(content(&database).await, before, "{made}");
    }
    // Roles are the server's, and that of every other test: for a moment this one is somebody's login.
    let database = Database::create(&stack).await;
    drop(database);
    let database = Database::create_empty(&stack).await;
    let client = &database.client;
    let login = client.batch_execute("ALTER ROLE sluice_reader LOGIN").await;
    login.expect("a superuser may");
    let before = content(&database).await;
    let (succeeded, printed) = run(&database, &["migrate"], &[]);
    let after = content(&database).await;
    let again = client
        .batch_execute("ALTER ROLE sluice_reader NOLOGIN")
        .await;
    again.expect("a superuser may");
    assert!(!succeeded, "{printed}");
    assert!(
        printed.contains("role sluice_reader (it may log in)"),
        "{printed}"
    );
    assert_eq!(after, before);
    succeeds(&database, &["migrate"]);
}

/// Databases of tests that are done, whose roles would be needed there.
async fn drop_others(stack: &Stack, kept: &Database) {
    let server = connect(&stack.admin_url("postgres")).await;
    let others = "SELECT datname FROM pg_database WHERE datname LIKE 'proof%' AND datname <> $1";
    let others = server
        .query(others, &[&kept.name])
        .await
        .expect("databases");
    for row in others {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", row.get::<_, &str>(0));
        server.batch_execute(&drop).await.expect("a superuser may");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstall_tells_what_it_would_remove_and_then_leaves_nothing() {
    let stack = Stack::get();
    let database = Database::create_empty(&stack).await;
    drop_others(&stack, &database).await;
    let roles = "DROP ROLE IF EXISTS sluice_writer, sluice_reader, sluice_admin, sluice_handler, sluice_owner";
    database
        .client
        .batch_execute(roles)
        .await
        .expect("nobody needs them");
    let before = content(&database).await;
    assert!(succeeds(&database, &["uninstall"]).starts_with("nothing of Sluice"));

    succeeds(&database, &["migrate"]);
    let migrated = content(&database).await;
    let told = succeeds(&database, &["uninstall"]);
    for line in [
        "would remove schema domain with 19 tables",
        "would remove schema ledger with 26 tables",
        "would remove extension sluice",
        "would remove role sluice_owner",
        "a dry run: nothing was changed",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert_eq!(content(&database).await, migrated, "a dry run");
    let told = succeeds(&database, &["uninstall", "--yes"]);
    assert!(told.contains("removed role sluice_owner"), "{told}");
    assert_eq!(content(&database).await, before);
    succeeds(&database, &["migrate"]);
    assert_eq!(content(&database).await, migrated, "once more");
    succeeds(&database, &["uninstall", "--yes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstall_keeps_what_another_database_needs_and_takes_what_others_made_by_consent_alone()
 {
    let stack = Stack::get();
    let other = Database::create(&stack).await;
    let database = Database::create(&stack).await;
    let client = &database.client;
    let theirs =
        "CREATE SCHEMA theirs; CREATE VIEW theirs.rich AS SELECT * FROM ledger.account_balances;
        CREATE TABLE theirs.kept (id int); GRANT SELECT ON theirs.kept TO sluice_reader;
        CREATE FUNCTION theirs.on_it(domain.event[]) RETURNS void LANGUAGE sql AS 'SELECT'";
    client.batch_execute(theirs).await.expect("a superuser may");
    let before = content(&database).await;
    let (succeeded, printed) = run(&database, &["uninstall", "--yes"], &[]);
    assert!(!succeeded, "{printed}");
    let named = "function theirs.on_it(domain.event[]), view theirs.rich. Nothing was changed";
    assert!(printed.contains(named), "{printed}");
    assert_eq!(content(&database).await, before);

    let ingester = database.writer().await;
    let name = "SET application_name = 'sluice/one'";
    let grant = format!("GRANT sluice_writer TO {}", stack.ingester.user);
    client.batch_execute(&grant).await.expect("a superuser may");
    ingester.batch_execute(name).await.expect("a setting");
    let (succeeded, printed) = run(&database, &["uninstall", "--yes", "--cascade"], &[]);
    assert!(
        !succeeded && printed.contains("ingesters work in this database (sluice/one)"),
        "{printed}"
    );
    assert_eq!(content(&database).await, before);
    drop(ingester);
    proofs::wait::wait_until("the session ends", proofs::scene::STALL, async || {
        let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sluice/one'";
        database.count(left).await == 0
    })
    .await;

    let told = succeeds(&database, &["uninstall", "--yes", "--cascade"]);
    assert!(
        told.contains("removed view theirs.rich, which others have made"),
        "{told}"
    );
    assert!(
        told.contains(&format!(
            "kept role sluice_owner, which is needed in {}",
            other.name
        )) || told.contains("kept role sluice_owner"),
        "{told}"
    );
    let left =
        "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname IN ('ledger', 'domain', 'sluice'))
        + (SELECT count(*) FROM pg_extension WHERE extname = 'sluice')
        + (SELECT count(*) FROM pg_default_acl) + (SELECT count(*) FROM pg_event_trigger)";
    assert_eq!(database.count(left).await, 0);
    assert_eq!(
        database.count("SELECT count(*) FROM theirs.kept").await,
        0,
        "it is there"
    );
    other.audit("balance.changed").await;
}

/// A bank has no table of posts.
#[tokio::test(flavor = "multi_thread")]
async fn the_core_alone_has_no_table_of_posts_and_stays_so_until_the_family_is_wanted() {
    let stack = Stack::get();
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'domain'::regnamespace AND relkind IN ('r', 'v')";
    for (arguments, settings) in [
        (&["migrate", "--without-families"][..], &[][..]),
        (&["migrate"], &[("FAMILIES", "none")]),
    ] {
        let database = Database::create_empty(&stack).await;
        let (succeeded, printed) = run(&database, arguments, settings);
        assert!(
            succeeded && !printed.contains("family platform"),
            "{printed}"
        );
        assert_eq!(database.count(tables).await, 0);
        let handlers = "SELECT count(*) FROM ledger.event_handlers";
        assert_eq!(database.count(handlers).await, 0);
        let dangling = "SELECT count(*) FROM sluice.dangling_references('0')";
        assert_eq!(database.count(dangling).await, 0);
        for (check, found) in database.run_checks_of("sql").await {
            assert_eq!(found, None, "{check}");
        }
        assert!(succeeds(&database, &["migrate"]).starts_with("up to date: "));
        assert_eq!(database.count(tables).await, 0);
        let printed = succeeds(&database, &["migrate", "--families", "platform"]);
        assert!(
            printed.contains("applied migration V1__tables of family platform"),
            "{printed}"
        );
        assert_eq!(database.count(handlers).await, 30);
        assert!(
            succeeds(&database, &["migrate", "--without-families"]).starts_with("up to date: ")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_of_somebodys_own_is_a_folder_of_the_same_form_with_a_history_of_its_own() {
    let stack = Stack::get();
    let database = Database::create_empty(&stack).await;
    let folder = std::env::temp_dir().join(unique("family"));
    let migrations = folder.join("migrations");
    std::fs::create_dir_all(&migrations).expect("a new folder");
    let documented =
        std::fs::read_to_string(repository().join("docs/events.md")).expect("a document");
    let (_, section) = documented
        .split_once("## Tables of your own")
        .expect("a section");
    let example = section.split_once("```sql\n").expect("an example").1;
    let example = example.split_once("```").expect("its end").0;
    std::fs::write(migrations.join("V1__reviews.sql"), example).expect("a folder of ours");
    let name = folder
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let path = folder.to_str().expect("a plain name");
    let printed = succeeds(&database, &["migrate", "--family", path]);
    let (first, second) = (
        printed
            .find("applied migration V2__handlers of family platform")
            .expect("the platform's"),
        printed
            .find(&format!("applied migration V1__reviews of family {name}"))
            .expect("the new one"),
    );
    assert!(first < second, "{printed}");
    let history = format!("SELECT count(*) FROM ledger.{name}_schema_history WHERE version = 1");
    assert_eq!(database.count(&history).await, 1);
    assert!(succeeds(&database, &["migrate", "--family", path]).starts_with("up to date: "));

    let writer = database.writer().await;
    let grant = format!("GRANT sluice_writer TO {}", stack.ingester.user);
    database
        .client
        .batch_execute(&grant)
        .await
        .expect("a superuser may");
    let review = json!({ "reviewId": "rev_1", "userId": "usr_1", "text": "Good." });
    let event = Event::new("review.written", "review-1", NEW_YEAR_US, review);
    let mut partition = Partition::lead(&writer, "review.written", 0).await;
    partition.send(&writer, &[&event]).await.expect("applied");
    assert_eq!(
        database
            .count("SELECT count(*) FROM platform.reviews")
            .await,
        1
    );

    // The form is that of the family that comes with Sluice.
    let shipped = repository().join("families/platform");
    for part in ["migrations", "events", "README.md"] {
        assert!(shipped.join(part).exists(), "{part}");
    }
    let refused: PathBuf = std::env::temp_dir().join(unique("Not-A-Name"));
    std::fs::create_dir(&refused).expect("a new folder");
    let shown = refused.to_str().expect("a plain name");
    let (succeeded, printed) = run(&database, &["migrate", "--family", shown], &[]);
    assert!(
        !succeeded && printed.contains("the folder's name is the family's"),
        "{printed}"
    );
    for folder in [folder, refused] {
        std::fs::remove_dir_all(folder).expect("ours");
    }
}

/// So that `\\d+`, `\\df+` and `\\du+` teach.
#[tokio::test(flavor = "multi_thread")]
async fn every_schema_role_table_view_column_and_function_has_a_comment() {
    let database = Database::create(&Stack::get()).await;
    const BARE: &str = "
        WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname IN ('sluice', 'ledger', 'domain'))
        SELECT 'schema ' || oid::regnamespace FROM ours WHERE obj_description(oid, 'pg_namespace') IS NULL
        UNION ALL SELECT 'role ' || rolname FROM pg_roles
        WHERE rolname LIKE 'sluice\\_%' AND NOT rolcanlogin AND shobj_description(oid, 'pg_authid') IS NULL
        UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class
        WHERE relnamespace IN (SELECT oid FROM ours) AND relkind IN ('r', 'v') AND obj_description(oid, 'pg_class') IS NULL
        UNION ALL SELECT 'column ' || c.oid::regclass || '.' || a.attname
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace IN (SELECT oid FROM ours) AND c.relkind IN ('r', 'v', 'c') AND col_description(c.oid, a.attnum) IS NULL
        UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc
        WHERE pronamespace IN (SELECT oid FROM ours) AND obj_description(oid, 'pg_proc') IS NULL
        ORDER BY 1";
    let rows = database.client.query(BARE, &[]).await.expect("catalogs");
    let bare: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(bare.is_empty(), "{}", bare.join("\n"));
}
