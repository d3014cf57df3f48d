//! Processor time: what a step costs, however long a busy machine makes it wait.

use std::time::Duration;

/// Used so far, of a process by its id or of `thread-self`.
pub fn cpu_time(of: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).expect("a live process");
    // The name before may have blanks in it. In user mode and in the kernel's.
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}
