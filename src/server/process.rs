//! The process and its async runtime, as the system has them.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::runtime::RuntimeMetrics;

use crate::protocol::Timestamp;

#[rustfmt::skip]
pub(super) fn register(registry: &mut Registry, runtime: &RuntimeMetrics, started: Timestamp) {
    let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, gauge),
            None => registry.register(name, help, gauge),
        }
    };
    gauge("process_start_time", "When it began, since 1970", Some(Unit::Seconds), started.0 / 1_000);
    gauge("runtime_workers", "Threads of the async runtime", None, runtime.num_workers() as i64);
    gauge("runtime_tasks", "Tasks that are alive", None, runtime.num_alive_tasks() as i64);
    gauge("runtime_queue_depth", "Tasks that wait for a worker", None, runtime.global_queue_depth() as i64);
    // None of these where there is no /proc.
    if let Some(bytes) = resident_bytes() {
        gauge("process_resident_memory", "Resident memory", Some(Unit::Bytes), bytes);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge("process_open_fds", "Open file descriptors", None, open.count() as i64);
    }
    if let Some(seconds) = cpu_seconds() {
        let counter: Counter<f64, AtomicU64> = Counter::default();
        counter.inc_by(seconds);
        registry.register_with_unit("process_cpu", "User and system time", Unit::Seconds, counter);
    }
}

fn resident_bytes() -> Option<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as i64)
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in brackets may have spaces.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = ticks(11)? + ticks(12)?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
