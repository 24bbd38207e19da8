//! What is asked of a log of ten million rows: the last hundred changes of one account, its
//! balance at a moment, and what became of an event.

use std::time::Instant;

use tokio_postgres::Client;

use crate::Measured;
use crate::fill;
use crate::measure::random::Random;
use crate::measure::report::{right_aligned, table};
use crate::measure::sample::Spread;
use crate::stack::{KNOWN_IDENTITIES, Result, Stack};

/// Times that each question is asked.
const QUESTIONS: usize = 200;
/// And one that walks through half a million changes.
const LONG_QUESTIONS: usize = 3;
const ROWS: usize = 10_000_000;
/// Every tenth row is the busy account's, the others are spread over these, a hundred each.
const ACCOUNTS: usize = 100_000;
/// Rows are a millisecond apart.
const BEGIN: &str = "timestamptz '2026-01-01'";
/// Ids that no other part uses.
const FIRST_ACCOUNT: usize = 1_000_000_000;

/// Measures all, and answers with the table.
pub async fn run(stack: &Stack) -> Result<Measured> {
    let machine = stack.machine().await?;
    let admin = stack.admin().await?;
    fill(&admin).await?;
    let mut random = Random(1);
    let mut ordinary = || {
        let account = 1 + random.below(ACCOUNTS - 1);
        // Every tenth number is the busy account's.
        FIRST_ACCOUNT + account + usize::from(account.is_multiple_of(10))
    };
    let mut table = table(&["query", "account", "time (ms)"]);
    let mut figures = Vec::new();
    for (question, whose, statement) in [
        (
            "the last 100 changes",
            "with 100 changes",
            HISTORY.to_owned(),
        ),
        (
            "the last 100 changes",
            "with a million changes",
            HISTORY.to_owned(),
        ),
        (
            "the balance at half-time",
            "with 100 changes",
            as_of(ROWS / 2),
        ),
        (
            "the balance 1,000 changes ago",
            "with a million changes",
            as_of(ROWS - 10_000),
        ),
        (
            "the balance at half-time",
            "with a million changes",
            as_of(ROWS / 2),
        ),
    ] {
        let statement = admin.prepare(&statement).await?;
        let busy = whose.contains("million");
        let questions = if busy && question.contains("half") {
            LONG_QUESTIONS
        } else {
            QUESTIONS
        };
        let mut times = Vec::new();
        for _ in 0..questions {
            let account = if busy { FIRST_ACCOUNT } else { ordinary() } as i64;
            let clock = Instant::now();
            let rows = admin.query(&statement, &[&account]).await?;
            times.push(clock.elapsed().as_secs_f64() * 1_000.0);
            if rows.is_empty() {
                return Err(format!("{question}: account {account} has no history").into());
            }
        }
        let spread = Spread::of(times.into_iter());
        eprintln!("{question}, account {whose}: {:.2} ms", spread.median);
        match (question, busy) {
            ("the last 100 changes", false) => figures.push(("history", spread)),
            ("the balance at half-time", false) => figures.push(("balance-as-of", spread)),
            _ => {}
        }
        let time = spread.show(|ms| format!("{ms:.2}"));
        table.add_row([question, whose, &time]);
    }
    let spread = find_events(&admin, &mut random).await?;
    let time = spread.show(|ms| format!("{ms:.2}"));
    table.add_row(["an event by its id", "any", &time]);
    figures.push(("find-event", spread));
    admin
        .batch_execute("TRUNCATE ledger.balance_log, ledger.event_identities, ledger.verdicts")
        .await?;
    fill::identities(&admin, KNOWN_IDENTITIES).await?;
    let text = format!(
        "Measured on {}; minimum / median / maximum of {QUESTIONS} queries ({LONG_QUESTIONS} if a query takes more than a second), the first of them cold.\n\n{}\n\n{}",
        machine.date,
        machine.list(),
        right_aligned(table)
    );
    Ok(Measured::of(text, figures))
}

/// Any of the events, each asked for once: one in ten came again, and one in ten is not known.
async fn find_events(admin: &Client, random: &mut Random) -> Result<Spread> {
    let statement = "SELECT kafka_offset, verdict, coalesce(jsonb_array_length(changes), 0) FROM sluice.find_event(NULL, $1)";
    let statement = admin.prepare(statement).await?;
    let mut times = Vec::new();
    for _ in 0..QUESTIONS {
        let number = random.below(ROWS + ROWS / 9);
        let clock = Instant::now();
        let rows = admin
            .query(&statement, &[&format!("event-{number}")])
            .await?;
        times.push(clock.elapsed().as_secs_f64() * 1_000.0);
        let found: Vec<(i64, &str, i32)> = rows
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)))
            .collect();
        let (first, again) = (number as i64, (ROWS + number / 10) as i64);
        let wanted = [(first, "APPLIED", 1), (again, "DUPLICATE", 0)];
        let wanted = match number {
            ROWS.. => &wanted[..0],
            _ if number.is_multiple_of(10) => &wanted[..],
            _ => &wanted[..1],
        };
        if found != wanted {
            return Err(format!("event-{number} is found as {found:?}").into());
        }
    }
    let spread = Spread::of(times.into_iter());
    eprintln!("what became of an event: {:.2} ms", spread.median);
    Ok(spread)
}

const HISTORY: &str = "SELECT * FROM ledger.account_history WHERE account_id = $1 AND currency_code = 'USD' LIMIT 100";

fn as_of(row: usize) -> String {
    format!("SELECT * FROM sluice.balance_as_of($1, 0, 'USD', {BEGIN} + {row} * interval '1 ms')")
}

async fn fill(admin: &Client) -> Result<()> {
    eprintln!("filling the log with {ROWS} rows");
    admin
        .batch_execute(&format!(
            "TRUNCATE ledger.balance_log;
             INSERT INTO ledger.partition_leases (topic, partition) VALUES ('bench.history', 0);
             INSERT INTO ledger.balance_log (
                kafka_offset, account_id, created_at, partition_id, shard_id, change_no, event_id, currency_code,
                available_delta, frozen_delta, available_after, frozen_after,
                previous_offset, previous_partition_id, previous_change_no)
             SELECT n, {FIRST_ACCOUNT} + account, {BEGIN} + n * interval '1 ms', l.partition_id, 0, 0, 'event-' || n, 'USD',
                1, 0, n / step + 1, 0,
                CASE WHEN n >= step THEN n - step END, CASE WHEN n >= step THEN l.partition_id END, CASE WHEN n >= step THEN 0 END
             FROM ledger.partition_leases l, (
                SELECT n, CASE WHEN n % 10 = 0 THEN 0 ELSE n % {ACCOUNTS} END AS account,
                    CASE WHEN n % 10 = 0 THEN 10 ELSE {ACCOUNTS} END AS step
                FROM generate_series(0, {ROWS} - 1) n) s
             WHERE l.topic = 'bench.history';
             INSERT INTO ledger.account_balances (
                account_id, shard_id, currency_code, available, frozen, updated_msec, last_offset, last_partition_id, last_change_no)
             SELECT DISTINCT ON (account_id) account_id, 0, 'USD', available_after, 0, 0, kafka_offset, partition_id, 0
             FROM ledger.balance_log WHERE kafka_offset >= {ROWS} - {ACCOUNTS} ORDER BY account_id, kafka_offset DESC;
             TRUNCATE ledger.event_identities;
             INSERT INTO ledger.event_identities (identity, payload_hash, kafka_offset, partition_id)
             SELECT sluice.event_identity(NULL, event_id) AS identity, gen_random_uuid(), kafka_offset, partition_id
             FROM ledger.balance_log ORDER BY identity;
             INSERT INTO ledger.verdicts (partition_id, kafka_offset, event_id, verdict, created_at)
             SELECT l.partition_id, {ROWS} + n, 'event-' || n * 10, 'DUPLICATE', {BEGIN} + ({ROWS} + n) * interval '1 ms'
             FROM ledger.partition_leases l, generate_series(0, {ROWS} / 10 - 1) n
             WHERE l.topic = 'bench.history'"
        ))
        .await?;
    for table in [
        "ledger.balance_log",
        "ledger.account_balances",
        "ledger.event_identities",
        "ledger.verdicts",
    ] {
        admin
            .batch_execute(&format!("VACUUM (FREEZE, ANALYZE) {table}"))
            .await?;
    }
    Ok(())
}
