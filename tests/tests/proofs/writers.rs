//! Other writers of Sluice's tables are reported by `sluice check`, the page and a metric.

use proofs::scene::{STALL, Scene};
use proofs::stack::{sluice_command, unique};
use proofs::wait::wait_until;
use serde_json::Value;

/// What `sluice check` finds about other writers. Logins are the whole server's: another test may have left some.
fn check(scene: &Scene) -> Vec<String> {
    let environment = [
        ("DATABASE_URL", scene.database.url.as_str()),
        ("KAFKA_BROKERS", &scene.kafka().brokers),
        ("BALANCE_TOPICS", &scene.topic),
        ("EVENT_TOPICS", ""),
        ("DLQ_TOPIC", ""),
        ("COLUMNS", "1000"),
    ];
    let output = sluice_command(&["check"], &environment).output();
    let output = output.expect("sluice check");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| line.contains("only writer"));
    lines.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_else_may_write_is_named_by_check_page_and_metric() {
    let scene = Scene::new(1).await;
    let (_, operator) = scene.operator().await;
    let before = check(&scene);
    assert!(!before.is_empty(), "it says so where there is nobody else");

    let [app, boss, clerk, viewer, reader] =
        ["app", "boss", "clerk", "viewer", "reader"].map(unique);
    let others = format!(
        "CREATE ROLE {app} LOGIN; GRANT INSERT ON ledger.account_balances TO {app};
         CREATE ROLE {boss} LOGIN NOINHERIT; GRANT sluice_owner TO {boss};
         CREATE ROLE {clerk} LOGIN; GRANT UPDATE (status) ON ledger.dead_letters TO {clerk};
         CREATE VIEW public.people AS SELECT user_id, email FROM domain.users;
         CREATE ROLE {viewer} LOGIN; GRANT UPDATE ON public.people TO {viewer};
         CREATE ROLE {reader} LOGIN; GRANT sluice_reader TO {reader}; GRANT SELECT ON public.people TO {reader};
         CREATE TABLE public.orders (id text PRIMARY KEY);
         CREATE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN UPDATE domain.users SET email = NULL; RETURN NEW; END';
         CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM FROM ledger.account_balances; RETURN NEW; END';
         CREATE FUNCTION public.spread() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN UPDATE posts SET content = NULL; RETURN NEW; END';
         CREATE FUNCTION public.by_path() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, domain AS
            'BEGIN DELETE FROM ONLY \"posts\" WHERE false; RETURN NEW; END';
         CREATE FUNCTION public.stray() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS
            'BEGIN UPDATE posts SET content = NULL; RETURN NEW; END';
         CREATE TRIGGER meddles AFTER INSERT ON public.orders EXECUTE FUNCTION public.meddle();
         CREATE TRIGGER spreads AFTER INSERT ON domain.users EXECUTE FUNCTION public.spread();
         CREATE TRIGGER goes_by_path AFTER INSERT ON public.orders EXECUTE FUNCTION public.by_path();
         CREATE TRIGGER strays AFTER INSERT ON domain.users EXECUTE FUNCTION public.stray();
         CREATE TRIGGER looks AFTER INSERT ON public.orders EXECUTE FUNCTION public.look();
         CREATE RULE also AS ON DELETE TO public.orders DO ALSO DELETE FROM ledger.verdicts;
         ALTER TABLE domain.posts ADD CONSTRAINT ordered FOREIGN KEY (author_id) REFERENCES public.orders ON DELETE CASCADE NOT VALID"
    );
    let client = &scene.database.client;
    client
        .batch_execute(&others)
        .await
        .expect("a superuser may");
    let named = [
        format!("login {app} (ledger.account_balances)"),
        format!("login {boss} ("),
        format!("login {clerk} (ledger.dead_letters)"),
        format!("login {viewer} (public.people)"),
        "trigger meddles on public.orders (by public.meddle())".to_owned(),
        // Unqualified names: by the search_path of whoever writes the table, and by the function's own.
        "trigger spreads on domain.users (by public.spread())".to_owned(),
        "trigger goes_by_path on public.orders (by public.by_path())".to_owned(),
        "rule also on public.orders (by delete from ledger.verdicts)".to_owned(),
        "foreign key ordered of domain.posts (when public.orders changes)".to_owned(),
    ];
    let lines = check(&scene);
    for name in &named {
        assert!(
            lines.iter().any(|line| line.contains(name)),
            "{name}: {lines:#?}"
        );
    }
    for innocent in [
        &reader,
        &operator,
        &scene.stack.ingester.user,
        &"looks on".to_owned(),
        &"strays on".to_owned(),
    ] {
        assert!(
            !lines.iter().any(|line| line.contains(innocent)),
            "{lines:#?}"
        );
    }

    let mut ingester = scene.ingester();
    let metric = format!("sluice_other_writers{{kind=\"login\",writer=\"{app}\"}} 1");
    wait_until(&metric, STALL, async || {
        let (_, metrics) = ingester.get("/metrics").await;
        metrics.lines().any(|line| line == metric)
    })
    .await;
    let address = ingester.address().await;
    let (_, port) = address.rsplit_once(':').expect("a port");
    let host = format!("Host: localhost:{port}");
    let state = ingester.ask("GET /api/state", &[&host], "").await;
    let state: Value = state.body.parse().expect("JSON");
    let told = state["other_writers"].as_array().expect("a list");
    for name in &named {
        let is_told = |line: &Value| line.as_str().is_some_and(|line| line.contains(name));
        assert!(told.iter().any(is_told), "{name}: {told:#?}");
    }

    let end = format!(
        "REVOKE sluice_owner FROM {boss}; REVOKE ALL ON ledger.account_balances FROM {app};
         REVOKE ALL (status) ON ledger.dead_letters FROM {clerk}; REVOKE ALL ON public.people FROM {viewer};
         DROP TABLE public.orders CASCADE; DROP TRIGGER spreads ON domain.users; DROP TRIGGER strays ON domain.users"
    );
    client.batch_execute(&end).await.expect("a superuser may");
    assert_eq!(check(&scene), before);
    wait_until("the metric to say so", STALL, async || {
        let (_, metrics) = ingester.get("/metrics").await;
        !metrics.contains(&metric)
    })
    .await;
    ingester.stop().await;
}
