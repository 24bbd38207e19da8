//! Leaders that are frozen past their lease and continue later as if nothing had happened.

use std::time::{Duration, Instant};

use proofs::compare::Accounts;
use proofs::ingester::Ingester;
use proofs::proxy::{Point, Proxy};
use proofs::rng::{Rng, seed};
use proofs::scene::{Scene, assert_mixed};
use proofs::watch::{led_by, led_knowingly, settled, takeovers};
use proofs::workload::Workload;

const LEASE: Duration = Duration::from_millis(1_000);
const SHORT_LEASE: &[(&str, &str)] = &[
    ("LEASE_MS", "1000"),
    ("RENEW_INTERVAL_MS", "300"),
    ("STANDBY_POLL_MS", "200"),
    ("BATCH_SIZE", "150"),
    ("BATCHING_DELAY_MS", "2"),
];
/// The lease, and room for a machine that has much else to do.
const NOT_HELD_UP: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn leaders_frozen_at_random_moments_are_replaced_and_change_nothing_later() {
    let seed = seed();
    let mut rng = Rng::new(seed);
    let scene = Scene::new(4).await;
    let feed = scene.feed(&Workload::new(seed), 3_000);
    let mut instances = [
        scene.ingester_with(SHORT_LEASE),
        scene.ingester_with(SHORT_LEASE),
    ];
    let names = instances
        .each_ref()
        .map(|instance| instance.service_id.clone());
    for round in 0..6 {
        settled(
            &scene.database,
            &scene.topic,
            4,
            &names.each_ref().map(String::as_str),
            Duration::from_secs(15),
        )
        .await;
        let committed = scene.committed().await;
        scene
            .committed_beyond(committed + rng.between(10, 900) as i64)
            .await;
        let frozen = &instances[round % 2];
        let led = led_by(&scene.database, &scene.topic, &frozen.service_id).await;
        frozen.freeze();
        let took = takeovers(
            &scene.database,
            &scene.topic,
            &led,
            Instant::now(),
            NOT_HELD_UP,
        )
        .await;
        assert!(
            took.iter().all(|took| took.after > LEASE / 4),
            "a frozen leader was replaced long before its lease ended: {took:?}"
        );
        frozen.unfreeze();
    }
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    for instance in &mut instances {
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_frozen_in_copy_does_not_hold_up_its_successor() {
    frozen_while_held(Point::InCopy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_frozen_in_an_open_transaction_does_not_hold_up_its_successor() {
    frozen_while_held(Point::BeforeCommit).await;
}

/// The leader's connection stops at `point` by way of the proxy, then the leader itself is frozen.
async fn frozen_while_held(point: Point) {
    let seed = seed();
    let scene = Scene::new(2).await;
    let feed = scene.feed(&Workload::new(seed), 2_000);
    let proxy = Proxy::start(scene.stack.postgres_port).await;
    let url = scene.database.url_through(&scene.stack, proxy.port);
    let mut leader =
        scene.ingester_with(&[&[("DATABASE_URL", url.as_str())], SHORT_LEASE].concat());
    let mut successor = scene.ingester_with(SHORT_LEASE);
    for _ in 0..3 {
        freeze_and_go_on(&scene, &proxy, &leader, &successor, point).await;
    }
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    leader.stop().await;
    successor.stop().await;
}

async fn freeze_and_go_on(
    scene: &Scene,
    proxy: &Proxy,
    leader: &Ingester,
    successor: &Ingester,
    point: Point,
) {
    let instances = [leader.service_id.as_str(), successor.service_id.as_str()];
    settled(
        &scene.database,
        &scene.topic,
        2,
        &instances,
        Duration::from_secs(15),
    )
    .await;
    let hold = proxy.hold_at(point);
    hold.reached().await;
    let led = led_by(&scene.database, &scene.topic, &leader.service_id).await;
    leader.freeze();
    let took = takeovers(
        &scene.database,
        &scene.topic,
        &led,
        Instant::now(),
        NOT_HELD_UP,
    )
    .await;
    println!("frozen {point:?}: successor committed after {took:?}");
    // What it had under way arrives now, as late as can be.
    hold.release();
    leader.unfreeze();
    let committed = scene.committed().await;
    scene.committed_beyond(committed + 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_held_up_past_the_lease_keeps_its_leadership_because_renewals_go_on() {
    let seed = seed();
    let scene = Scene::new(2).await;
    let mut leader = scene.ingester_with(SHORT_LEASE);
    scene.fill(&Workload::new(seed), 1_000).await;
    scene.caught_up().await;
    let mut standby = scene.ingester_with(SHORT_LEASE);
    settled(
        &scene.database,
        &scene.topic,
        2,
        &[&leader.service_id, &standby.service_id],
        Duration::from_secs(15),
    )
    .await;
    let before = scene.database.progress(&scene.topic).await;

    let locker = scene.database.session().await;
    locker
        .batch_execute("BEGIN; SELECT FROM ledger.account_balances ORDER BY account_id, shard_id, currency_code FOR UPDATE")
        .await
        .expect("rows can be locked");
    scene.fill(&Workload::new(seed + 1), 1_000).await;
    proofs::wait::wait_until("both leaders to be held up", Duration::from_secs(20), async || {
        scene.database.count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").await >= 2
    })
    .await;
    proofs::wait::holds_for("leaders and tokens stay", 4 * LEASE, async || {
        let now = scene.database.progress(&scene.topic).await;
        now.iter().all(|(partition, now)| {
            now.leader == before[partition].leader
                && now.fencing_token == before[partition].fencing_token
        })
    })
    .await;
    locker
        .batch_execute("ROLLBACK")
        .await
        .expect("the lock can be given back");

    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    let after = scene.database.progress(&scene.topic).await;
    assert!(
        after
            .iter()
            .all(|(partition, after)| after.fencing_token == before[partition].fencing_token),
        "{before:?} {after:?}"
    );
    leader.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_from_the_database_stops_itself_and_comes_back_later() {
    const LOST: &str = "leadership lost";
    let seed = seed();
    let scene = Scene::new(2).await;
    let feed = scene.feed(&Workload::new(seed), 2_000);
    let proxy = Proxy::start(scene.stack.postgres_port).await;
    let url = scene.database.url_through(&scene.stack, proxy.port);
    let mut leader =
        scene.ingester_with(&[&[("DATABASE_URL", url.as_str())], SHORT_LEASE].concat());
    let mut successor = scene.ingester_with(SHORT_LEASE);
    let instances = [leader.service_id.clone(), successor.service_id.clone()];
    let instances = instances.each_ref().map(String::as_str);
    for _ in 0..2 {
        settled(
            &scene.database,
            &scene.topic,
            2,
            &instances,
            Duration::from_secs(30),
        )
        .await;
        let led = led_knowingly(&scene.database, &scene.topic, &leader).await;
        let lost = leader.log().matches(LOST).count() + led.len();
        proxy.swallow();
        // PostgreSQL still sees its sessions, so this is for the lease to decide.
        takeovers(
            &scene.database,
            &scene.topic,
            &led,
            Instant::now(),
            NOT_HELD_UP,
        )
        .await;
        leader.logs_times(lost, LOST, Duration::from_secs(10)).await;
        // Whatever it had sent before arrives at last, under a token that is stale by now.
        proxy.pass_on();
    }
    settled(
        &scene.database,
        &scene.topic,
        2,
        &instances,
        Duration::from_secs(30),
    )
    .await;
    feed.stop().await;
    assert_mixed(&scene.verify(Accounts::OfOnePartition).await);
    leader.stop().await;
    successor.stop().await;
}
