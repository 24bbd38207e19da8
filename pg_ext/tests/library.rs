//! The library as PostgreSQL loads it: the settings that it declares, and the functions that earlier scripts name.

mod common;

use common::{Database, sqlstate};

/// Loads the library into the session.
const LOAD: &str = "SELECT sluice.last_batch_rejections()";

/// C functions that the script of a released version names.
const RELEASED: [&str; 18] = [
    "absent_wrapper",
    "acquire_partition_lock_wrapper",
    "apply_balance_batch_wrapper",
    "apply_event_batch_wrapper",
    "capture_staged_row",
    "correct_balances_wrapper",
    "event_identity_wrapper",
    "heartbeat_wrapper",
    "last_batch_steps_wrapper",
    "leave_wrapper",
    "read_amount",
    "read_currency",
    "read_id",
    "read_plain_instant",
    "read_text",
    "release_partition_lock_wrapper",
    "renew_partition_lock_wrapper",
    "replay_letters_wrapper",
];

#[tokio::test]
async fn a_misspelt_setting_is_an_error_and_so_is_a_value_that_is_none() {
    let database = Database::create().await;
    let session = database.writer().await;
    session.execute(LOAD, &[]).await.expect("loaded");
    for (setting, refused) in [
        ("sluice.max_event_byte = 5", "42602"),
        ("sluice.max_event_bytes = 'much'", "22023"),
        ("sluice.max_event_bytes = 0", "22023"),
    ] {
        let set = session.query(&format!("SET {setting}"), &[]).await;
        assert_eq!(sqlstate(set), refused, "{setting}");
    }
    let with_unit = "SET sluice.max_event_bytes = '2048kB'";
    session.batch_execute(with_unit).await.expect("a number");
    let shown = session.query_one("SHOW sluice.max_event_bytes", &[]).await;
    assert_eq!(shown.expect("declared").get::<_, String>(0), "2MB");
}

#[tokio::test]
async fn a_limit_that_is_no_number_is_refused_also_where_it_was_set_before_the_library_was_loaded()
{
    let database = Database::create().await;
    let session = database.writer().await;
    let set = "SET sluice.max_event_bytes = '1 megabyte'";
    session.batch_execute(set).await.expect("not known yet");
    for _ in 0..2 {
        assert_eq!(sqlstate(session.query(LOAD, &[]).await), "22023");
    }
    let set = "SET sluice.max_event_bytes = '1MB'";
    session.batch_execute(set).await.expect("not known yet");
    session.execute(LOAD, &[]).await.expect("loaded");
    let shown = session.query_one("SHOW sluice.max_event_bytes", &[]).await;
    assert_eq!(shown.expect("declared").get::<_, String>(0), "1MB");
}

#[tokio::test]
async fn every_function_that_a_released_script_names_is_still_in_the_library() {
    let database = Database::create().await;
    let admin = database.admin().await;
    for symbol in RELEASED {
        let create = format!(
            "CREATE FUNCTION pg_temp.{symbol}() RETURNS void LANGUAGE c AS '$libdir/sluice', '{symbol}'"
        );
        let created = admin.batch_execute(&create).await;
        assert!(created.is_ok(), "{symbol}: {created:?}");
    }
}

/// Between the installation of the library and the update of the extension, sessions call it as the former script says.
#[tokio::test]
async fn a_function_that_is_declared_as_before_says_what_to_run() {
    let database = Database::create().await;
    let admin = database.admin().await;
    let as_in_0_6_0 = "
        CREATE FUNCTION pg_temp.replay_letters(topic text, partition integer, ids bigint[], payload bytea)
        RETURNS TABLE (id bigint, kafka_offset bigint, verdict text, reason text, message text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS '$libdir/sluice', 'replay_letters_wrapper'";
    admin.batch_execute(as_in_0_6_0).await.expect("declared");
    let call = "SELECT * FROM pg_temp.replay_letters('orders', 0, '{1}', NULL)";
    let refused = admin.query(call, &[]).await.expect_err("refused");
    let message = refused.as_db_error().expect("by the database").message();
    assert!(
        message.contains("ALTER EXTENSION sluice UPDATE"),
        "{message}"
    );
    assert_eq!(sqlstate(Err::<(), _>(refused)), "55000");
}
