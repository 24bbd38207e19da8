//! The setting of one scenario: a database and a topic of its own, and the verdict on all of it.

use std::sync::Mutex;
use std::time::Duration;

use crate::compare::{Accounts, Report, Source, compare_from};
use crate::database::Database;
use crate::ingester::Ingester;
use crate::kafka::Kafka;
use crate::load::{Feed, fill};
use crate::stack::{Login, Stack, unique};
use crate::workload::Workload;

/// How long a scenario may go without any commit before it counts as stuck.
pub const STALL: Duration = Duration::from_secs(60);

pub struct Scene {
    pub stack: Stack,
    pub database: Database,
    pub topic: String,
    pub partitions: i32,
}

/// Brokers and topics of tests that have ended: a broker that starts again opens every partition there is.
static DONE: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

impl Drop for Scene {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            DONE.lock()
                .expect("no one panics with it")
                .push((self.stack.kafka.brokers.clone(), self.topic.clone()));
        }
    }
}

impl Scene {
    pub async fn new(partitions: i32) -> Self {
        Self::with_topic(partitions, &[]).await
    }

    pub async fn with_topic(partitions: i32, settings: &[(&str, &str)]) -> Self {
        let stack = Stack::get();
        let database = Database::create(&stack).await;
        Self::with_database(stack, database, partitions, settings).await
    }

    pub async fn with_database(
        stack: Stack,
        database: Database,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Self {
        let topic = unique("balance");
        let done = DONE
            .lock()
            .expect("no one panics with it")
            .extract_if(.., |(brokers, _)| *brokers == stack.kafka.brokers)
            .map(|(_, topic)| topic)
            .collect::<Vec<String>>();
        stack.kafka.delete_topics(&done).await;
        stack.kafka.create_topic(&topic, partitions, settings).await;
        Self {
            stack,
            database,
            topic,
            partitions,
        }
    }

    pub fn kafka(&self) -> &Kafka {
        &self.stack.kafka
    }

    pub fn ingester(&self) -> Ingester {
        self.ingester_with(&[])
    }

    /// The address of a login of its own that is a member of `sluice_admin`, and its name.
    pub async fn operator(&self) -> (String, String) {
        let login = Login {
            user: unique("operator"),
            password: unique("secret"),
        };
        let Login { user, password } = &login;
        let statements =
            format!("CREATE ROLE {user} LOGIN PASSWORD '{password}'; GRANT sluice_admin TO {user}");
        let created = self.database.client.batch_execute(&statements).await;
        created.expect("a superuser may create roles");
        let (port, database) = (self.stack.postgres_port, &self.database.name);
        (self.stack.url(&login, port, database), login.user)
    }

    pub fn ingester_with(&self, settings: &[(&str, &str)]) -> Ingester {
        Ingester::start(&self.stack, &self.database.url, &self.topic, settings)
    }

    pub async fn fill(&self, workload: &Workload, events: u64) {
        let (kafka, topic, partitions, workload) = (
            self.kafka().clone(),
            self.topic.clone(),
            self.partitions,
            workload.clone(),
        );
        tokio::task::spawn_blocking(move || fill(&kafka, &topic, partitions, &workload, events))
            .await
            .expect("Kafka takes the load");
    }

    pub fn feed(&self, workload: &Workload, rate: u64) -> Feed {
        Feed::start(self.kafka(), &self.topic, self.partitions, workload, rate)
    }

    pub async fn committed(&self) -> i64 {
        self.database.committed(&self.topic).await
    }

    /// Waits until more than `offset` records are committed.
    pub async fn committed_beyond(&self, offset: i64) {
        let what = format!(
            "more than {offset} records of {} to be committed",
            self.topic
        );
        crate::wait::wait_until(&what, STALL, async || self.committed().await > offset).await;
    }

    pub async fn caught_up(&self) {
        self.database
            .caught_up(self.kafka(), &self.topic, self.partitions, STALL)
            .await;
    }

    /// Waits for the end of the topic, then compares everything with the reference ledger and runs
    /// the invariant checks: 0 differences, no row.
    pub async fn verify(&self, accounts: Accounts) -> Report {
        self.verify_from(Source::Topic, accounts).await
    }

    /// The same, with the records from `source`.
    pub async fn verify_from(&self, source: Source, accounts: Accounts) -> Report {
        self.caught_up().await;
        let report = compare_from(
            source,
            &self.stack,
            &self.database,
            &self.topic,
            self.partitions,
            accounts,
        )
        .await;
        report.assert_none();
        self.verify_invariants().await;
        report
    }

    pub async fn verify_invariants(&self) {
        for (check, found) in self.database.run_checks().await {
            assert_eq!(found, None, "{check} found something");
        }
    }
}

/// That the load had in it what a scenario is meant to be tried with.
pub fn assert_mixed(report: &Report) {
    for kind in [
        "APPLIED",
        "REJECTED INSUFFICIENT_BALANCE",
        "REJECTED INSUFFICIENT_FROZEN",
        "REJECTED EVENT_ID_CONFLICT",
        "DUPLICATE",
        "DEAD",
    ] {
        assert!(
            report.count(kind) > 0,
            "the load had no record that is {kind}: {:?}",
            report.verdicts
        );
    }
}
