//! Who uses the processors: `/proc`, in ticks.

use std::collections::BTreeMap;

use crate::stack::Result;

/// Per second, on every Linux of today.
pub const TICKS: f64 = 100.0;

const SESSIONS: &str = "PostgreSQL, sessions";
const SERVERS: &str = "PostgreSQL, WAL writer, checkpointer and the like";
const KAFKA: &str = "Kafka";
const SLUICE: &str = "sluice run";
const THIS: &str = "this program (measuring)";
const OTHERS: &str = "Linux and everything else";
const PROCESSES: [&str; 6] = [SESSIONS, SERVERS, KAFKA, SLUICE, THIS, OTHERS];

/// User and system time of all processes, by what they are.
pub fn processor_time() -> Result<BTreeMap<&'static str, u64>> {
    let mut times: BTreeMap<&str, u64> = PROCESSES.map(|process| (process, 0)).into();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let (Ok(stat), Ok(title)) = (
            std::fs::read_to_string(path.join("stat")),
            std::fs::read_to_string(path.join("cmdline")),
        ) else {
            continue;
        };
        // The name may hold spaces and parentheses; what follows it does not.
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else {
            continue;
        };
        let fields: Vec<&str> = stat[close + 1..].split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        let is_session = ["wal", "checkpointer", "background", "autovacuum", "logical"]
            .iter()
            .all(|name| !title.contains(name));
        let process = match &stat[open + 1..close] {
            "postgres" if is_session => SESSIONS,
            "postgres" => SERVERS,
            "java" => KAFKA,
            "sluice" => SLUICE,
            _ if path.ends_with(std::process::id().to_string()) => THIS,
            _ => OTHERS,
        };
        *times.entry(process).or_default() += ticks;
    }
    times.insert("interrupts", interrupts()?);
    Ok(times)
}

/// Time that the cores were not idle.
pub fn busy() -> Result<u64> {
    // user, nice, system, idle, iowait, irq, softirq
    spent([0, 1, 2, 5, 6])
}

/// Of it, what counts for no process.
fn interrupts() -> Result<u64> {
    spent([5, 6])
}

fn spent<const N: usize>(columns: [usize; N]) -> Result<u64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    Ok(columns.iter().filter_map(|at| ticks.get(*at)).sum())
}

/// All that the machine's processors did, and did not, up to one moment.
pub struct Processors {
    by_process: BTreeMap<&'static str, u64>,
    idle: u64,
    /// Given to other guests of the host.
    stolen: u64,
    all: u64,
}

impl Processors {
    pub fn now() -> Result<Self> {
        Ok(Self {
            by_process: processor_time()?,
            idle: spent([3, 4])?,
            stolen: spent([7])?,
            all: spent([0, 1, 2, 3, 4, 5, 6, 7])?,
        })
    }

    /// Percent of all processors since then, the same names each time.
    pub fn shares_since(&self, before: &Self) -> Vec<(&'static str, f64)> {
        let all = (self.all - before.all).max(1) as f64;
        let share = |now: u64, before: u64| now.saturating_sub(before) as f64 * 100.0 / all;
        let by_process = self.by_process.iter().map(|(process, ticks)| {
            let before = before.by_process.get(process).copied();
            (*process, share(*ticks, before.unwrap_or_default()))
        });
        let rest = [
            ("idle", share(self.idle, before.idle)),
            ("stolen", share(self.stolen, before.stolen)),
        ];
        by_process.chain(rest).collect()
    }
}
