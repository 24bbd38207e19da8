//! The ingester's memory at its peak while it drains a backlog.

use crate::balances::whole_way;
use crate::balances::workload::{ACCOUNTS, Event, PARTITIONS, Skew, Stream};
use crate::ingester::Ingester;
use crate::kafka::Kafka;
use crate::measure::report::{grouped, right_aligned, table};
use crate::measure::sample::Spread;
use crate::stack::{Result, Stack};
use crate::{Form, Measured, fill};

const BACKLOGS: [(usize, &str); 2] = [(1_000_000, "memory-1m"), (4_000_000, "memory-4m")];
/// Events that this program has in memory at a time.
const PIECE: usize = 100_000;

pub async fn run(stack: &Stack, form: Form) -> Result<Measured> {
    let machine = stack.machine().await?;
    let kafka = Kafka::connect(stack)?;
    let admin = stack.admin().await?;
    let backlogs = match form {
        Form::Short => &BACKLOGS[..1],
        Form::Full => &BACKLOGS[..],
    };
    let mut table = table(&["backlog (events)", "peak memory (MB)", "events/s"]);
    let mut figures = Vec::new();
    for (events, figure) in backlogs {
        fill::anew(&admin, ACCOUNTS, PIECE).await?;
        let topic = format!("bench.{figure}");
        kafka
            .create_topics([topic.as_str()], PARTITIONS as i32)
            .await?;
        let mut stream = Stream::new(Skew::Uniform, (*figure).to_owned(), 1);
        for _ in 0..events / PIECE {
            let piece = stream.take(PIECE);
            tokio::task::block_in_place(|| {
                whole_way::produce(&kafka, &topic, &piece, Event::waiting)
            })?;
        }
        let mut ingester = Ingester::start(stack, &topic, "", None)?;
        let sample = ingester.drain(stack, &[&topic], 0, *events as i64).await?;
        let peak_mb = ingester.peak_memory_mb()?;
        ingester.stop();
        eprintln!("{events} events: {peak_mb:.0} MB, {:.0}/s", sample.rate());
        table.add_row([*events as f64, peak_mb, sample.rate()].map(grouped));
        figures.push((*figure, Spread::once(peak_mb)));
    }
    let text = format!(
        "Measured on {}.\n\n{}\n\n{}",
        machine.date,
        machine.list(),
        right_aligned(table)
    );
    Ok(Measured::of(text, figures))
}
