//! `sluice plan`: what a number of events a day asks of disk, PostgreSQL, Kafka and memory, by what
//! this installation's events have taken until now.

use clap::Args;
use serde_json::Value;

use crate::cli::output::{Format, connect, failed_to_read, print};
use crate::config::database::DatabaseArgs;
use crate::operator::plan::{self, Line, Shown};

#[derive(Args)]
pub struct PlanArgs {
    /// Events a day that are to be planned for
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    events_per_day: u64,
    /// The part of them that are domain events, 0 to 1; default: as it is in this database
    #[arg(long, value_parser = share)]
    domain_share: Option<f64>,
    /// Days after which `sluice prune` removes what is known of a record
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    keep_days: u32,
    /// Events a second in the busiest hour ÷ those of the mean
    #[arg(long, default_value_t = 3.0, value_parser = at_least_one)]
    peak: f64,
    /// Instances of the ingester
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    instances: u32,
    /// Their DB_POOL_SIZE
    #[arg(long, default_value_t = 20)]
    pool_size: u32,
    /// Their BATCH_BYTES
    #[arg(long, default_value_t = 4 << 20)]
    batch_bytes: u32,
    /// Seconds to look at the traffic, for WAL and time of an event; 0: not at all
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    watch: u64,
    #[command(flatten)]
    format: Format,
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "not a number".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    number(text).and_then(|share| match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err("not between 0 and 1".to_owned()),
    })
}

fn at_least_one(text: &str) -> Result<f64, String> {
    number(text).and_then(|factor| match factor >= 1.0 && factor.is_finite() {
        true => Ok(factor),
        false => Err("less than 1".to_owned()),
    })
}

impl PlanArgs {
    fn plan(&self) -> plan::Plan {
        plan::Plan {
            events_per_day: self.events_per_day,
            domain_share: self.domain_share,
            keep_days: self.keep_days,
            peak: self.peak,
            instances: self.instances,
            pool_size: self.pool_size,
            batch_bytes: self.batch_bytes,
            watch: self.watch,
        }
    }
}

/// Prints the plan.
pub async fn plan(database: &DatabaseArgs, arguments: &PlanArgs) -> Result<(), String> {
    let client = connect(database, "sluice plan").await?;
    let shown = Shown::by(&client, arguments.watch).await;
    let shown = shown.map_err(|error| failed_to_read(&error))?;
    if shown.is_nothing() {
        return Err("nothing is committed here, so there is nothing to plan by: docs/capacity.md has figures to begin with".into());
    }
    let lines = plan::lines(&shown, &arguments.plan());
    let lines: Vec<Value> = lines.iter().map(Line::told).collect();
    print(&lines, arguments.format.output, "")
}
