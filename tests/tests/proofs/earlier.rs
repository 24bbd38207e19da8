//! A database of version 0.6.0, from this repository's history: what the bridge to 1.0.0 begins with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proofs::database::Database;
use proofs::stack::{Stack, repository, unique};
use refinery::{Runner, load_sql_migrations};

/// Its sources of SQL, in a folder that is removed afterwards.
struct Sources(PathBuf);

impl Sources {
    fn get() -> Self {
        let folder = std::env::temp_dir().join(unique("version_0_6_0"));
        let status = Command::new(repository().join("tests/upgrade/sources.sh"))
            .arg(&folder)
            .args(["migrations", "pg_ext/sql"])
            .stdout(Stdio::null())
            .status();
        assert!(
            status.expect("a shell").success(),
            "the history of the repository"
        );
        Self(folder)
    }

    /// The extension's scripts in the order in which CREATE EXTENSION runs them, for psql's lines and the library's name.
    fn scripts(&self) -> Vec<String> {
        let folder = self.0.join("pg_ext/sql");
        let files = std::fs::read_dir(&folder).expect("the scripts");
        let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
        let steps = |file: &Path| file.to_string_lossy().matches("--").count();
        files.sort_by_key(|file| (steps(file), file.clone()));
        let read = |file: &PathBuf| {
            let text = std::fs::read_to_string(file).expect("a script");
            let lines = text.lines().filter(|line| !line.starts_with("\\echo"));
            let text: String = lines.flat_map(|line| [line, "\n"]).collect();
            text.replace("MODULE_PATHNAME", "sluice")
        };
        files.iter().map(read).collect()
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the scripts create from now on belongs to the extension, as if CREATE EXTENSION ran them.
const JOIN: &str = "
    CREATE FUNCTION public.join_extension() RETURNS event_trigger LANGUAGE plpgsql AS $$
    DECLARE
        made record;
    BEGIN
        FOR made IN
            SELECT c.object_type, c.object_identity FROM pg_event_trigger_ddl_commands() c
            WHERE c.schema_name = 'sluice' AND NOT EXISTS (
                SELECT FROM pg_depend d WHERE d.deptype = 'e' AND d.classid = c.classid AND d.objid = c.objid)
        LOOP
            EXECUTE format('ALTER EXTENSION sluice ADD %s %s', made.object_type, made.object_identity);
        END LOOP;
    END
    $$;
    CREATE EVENT TRIGGER join_extension ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION', 'CREATE TYPE')
    EXECUTE FUNCTION public.join_extension();
    SET check_function_bodies = off;
    SET search_path = pg_catalog";
const JOINED: &str = "
    DROP EVENT TRIGGER join_extension;
    DROP FUNCTION public.join_extension();
    UPDATE pg_extension SET extversion = '0.6.0' WHERE extname = 'sluice';
    CREATE SCHEMA ledger AUTHORIZATION sluice_owner";
/// The server has the scripts of this version alone: its functions and types make room for the earlier ones.
const EMPTY: &str = "
    CREATE EXTENSION sluice;
    DO $$
    DECLARE
        member record;
    BEGIN
        FOR member IN
            SELECT i.type, i.identity FROM pg_depend d CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
            WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'sluice')
                AND i.type IN ('function', 'type')
            ORDER BY i.type
        LOOP
            EXECUTE format('ALTER EXTENSION sluice DROP %s %s', member.type, member.identity);
            EXECUTE format('DROP %s %s', member.type, member.identity);
        END LOOP;
    END
    $$";

/// Functions and tables as version 0.6.0 made them, with its history of migrations.
pub async fn database_of_0_6_0(stack: &Stack) -> Database {
    let sources = Sources::get();
    let database = Database::create_empty(stack).await;
    let mut session = database.session().await;
    for text in [EMPTY, JOIN]
        .map(str::to_owned)
        .into_iter()
        .chain(sources.scripts())
    {
        let done = session.batch_execute(&text).await;
        done.unwrap_or_else(|error| panic!("{error:?}: {text}"));
    }
    session.batch_execute(JOINED).await.expect("joined");
    let migrations = load_sql_migrations(sources.0.join("migrations")).expect("the migrations");
    let mut runner = Runner::new(&migrations);
    runner.set_migration_table_name("ledger.schema_history");
    let ran = runner.run_async(&mut session).await;
    ran.expect("the migrations run");
    database
}
