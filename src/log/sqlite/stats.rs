//! What the writer measures of itself.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

/// Cheap to clone; the clones are one.
#[derive(Clone)]
pub struct Stats {
    pub commit_seconds: Histogram,
    pub commit_records: Histogram,
    pub commit_failures: Counter,
}

impl Default for Stats {
    fn default() -> Self {
        let seconds = [
            0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5,
        ];
        let records = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0];
        Self {
            commit_seconds: Histogram::new(seconds),
            commit_records: Histogram::new(records),
            commit_failures: Counter::default(),
        }
    }
}
