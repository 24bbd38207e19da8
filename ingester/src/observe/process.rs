//! What Prometheus' own clients tell of a process, under the names that they give it. Where there is no /proc, nothing.

use std::fmt;

use procfs::WithCurrentSystemInfo;
use procfs::process::{LimitValue, Process};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::observe::scrape::gauge;

/// A counter of seconds.
#[derive(Debug)]
struct Seconds(f64);

impl EncodeMetric for Seconds {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.0)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

pub(super) fn register(registry: &mut Registry) {
    let Ok(process) = Process::myself() else {
        return;
    };
    let Ok(stat) = process.stat() else { return };
    let ticks = procfs::ticks_per_second() as f64;
    registry.register(
        "process_cpu_seconds_total",
        "Processor time that this process has used, user and system",
        Seconds((stat.utime + stat.stime) as f64 / ticks),
    );
    registry.register(
        "process_resident_memory_bytes",
        "Resident memory of this process",
        gauge(stat.rss_bytes().get() as i64),
    );
    registry.register(
        "process_virtual_memory_bytes",
        "Virtual memory of this process",
        gauge(stat.vsize as i64),
    );
    registry.register(
        "process_threads",
        "Threads of this process",
        gauge(stat.num_threads),
    );
    if let Ok(boot_s) = procfs::boot_time_secs() {
        registry.register(
            "process_start_time_seconds",
            "When this process started, in seconds since 1970",
            ConstGauge::new(boot_s as f64 + stat.starttime as f64 / ticks),
        );
    }
    if let Ok(open) = process.fd_count() {
        registry.register(
            "process_open_fds",
            "File descriptors that this process has open",
            gauge(open as i64),
        );
    }
    let most = process
        .limits()
        .map(|limits| limits.max_open_files.soft_limit);
    if let Ok(LimitValue::Value(most)) = most {
        registry.register(
            "process_max_fds",
            "File descriptors that this process may have open",
            gauge(most as i64),
        );
    }
}
