//! Each job's events come in the order in which its agent counted them, from 0.

use std::collections::HashMap;

use anyhow::ensure;

/// Where each job is. Events come in runs of one job, so the last one's place is
/// at hand: looking it up for each event would be measured with the rest.
#[derive(Default)]
pub struct Order {
    job_id: String,
    next: u64,
    others: HashMap<String, u64>,
}

impl Order {
    pub fn check(&mut self, job_id: &str, count: u64) -> anyhow::Result<()> {
        if self.job_id != job_id {
            let next = self.others.remove(job_id).unwrap_or(0);
            let before = std::mem::replace(&mut self.job_id, job_id.into());
            let place = std::mem::replace(&mut self.next, next);
            self.others.insert(before, place);
        }
        ensure!(
            count == self.next,
            "event {count} of {job_id} where {} was due",
            self.next
        );
        self.next += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_jobs_are_each_in_order_or_refused() {
        let mut order = Order::default();
        for (job, count) in [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("c", 0), ("b", 2)] {
            order.check(job, count).unwrap();
        }
        // A double, a gap and a late start.
        assert!(order.check("a", 1).is_err());
        assert!(order.check("b", 4).is_err());
        assert!(order.check("d", 1).is_err());
    }
}
