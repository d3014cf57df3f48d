//! The verdict over the keys that a gateway made for jobs (pure): none is left, and none
//! went while its job ran. Times are milliseconds of one clock.

use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct Key {
    pub alias: String,
    pub job: String,
    pub made_at: i64,
    /// None while it is good.
    pub deleted_at: Option<i64>,
}

/// Of a job.
#[derive(Clone, Debug)]
pub struct End {
    pub at: i64,
    /// What delegated it.
    pub parent: Option<String>,
}

/// When a job's keys may go: at its end, or before it at the end of the first job above.
/// That one's purse has them all, the gateway takes them with it, and the jobs below hear
/// later that they are over, at other replicas by the log.
fn may_go_at(job: &str, ends: &BTreeMap<String, End>) -> Option<i64> {
    let own = ends.get(job)?;
    let above = |end: &&End| end.parent.as_ref().and_then(|parent| ends.get(parent));
    let first = std::iter::successors(Some(own), above).last()?;
    Some(own.at.min(first.at))
}

/// With the ends of all jobs by id. A key may go before its job where another is there in
/// its place; of a job that never was, at any time.
pub fn keys(keys: &[Key], ends: &BTreeMap<String, End>) -> Result<(), String> {
    for key in keys {
        let Key { alias, job, .. } = key;
        let Some(deleted_at) = key.deleted_at else {
            return Err(format!("{alias} of {job} is good and no job runs"));
        };
        let Some(ended_at) = may_go_at(job, ends) else {
            continue;
        };
        let replaced = keys.iter().any(|other| {
            other.job == *job
                && other.made_at <= deleted_at
                && other.deleted_at.is_none_or(|at| at > deleted_at)
        });
        if deleted_at < ended_at && !replaced {
            return Err(format!(
                "{alias} went at {deleted_at}, before its job {job} ended at {ended_at}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(job: &str, made_at: i64, deleted_at: Option<i64>) -> Key {
        Key {
            alias: format!("key-{made_at}"),
            job: job.into(),
            made_at,
            deleted_at,
        }
    }

    fn ended(at: i64, parent: Option<&str>) -> End {
        let parent = parent.map(str::to_owned);
        End { at, parent }
    }

    #[test]
    fn a_key_that_is_left_or_went_too_early_is_told() {
        let ends = BTreeMap::from([("a".to_owned(), ended(10, None))]);
        let right = [
            key("a", 1, Some(4)),
            key("a", 3, Some(11)),
            key("never made", 2, Some(3)),
        ];
        assert_eq!(keys(&right, &ends), Ok(()));
        let left = key("a", 1, None);
        let early = key("a", 1, Some(9));
        let left_of_none = key("never made", 1, None);
        for wrong in [left, early, left_of_none] {
            assert!(
                keys(std::slice::from_ref(&wrong), &ends).is_err(),
                "{wrong:?}"
            );
        }
        // Between the two the job had none.
        let gap = [key("a", 1, Some(4)), key("a", 5, Some(11))];
        assert!(keys(&gap, &ends).is_err());
    }
    /// A run failed where nothing was wrong: its root was over, with its purse, and the
    /// child's replica had not heard of it yet.
    #[test]
    fn a_key_may_go_with_the_purse_of_the_first_job_above_it_and_no_other_job() {
        let jobs = [
            ("first", 20, None),
            ("parent", 10, Some("first")),
            ("child", 30, Some("parent")),
        ];
        let ends = jobs.map(|(id, at, parent)| (id.to_owned(), ended(at, parent)));
        let ends = BTreeMap::from(ends);
        assert_eq!(keys(&[key("child", 1, Some(20))], &ends), Ok(()));
        assert!(keys(&[key("child", 1, Some(19))], &ends).is_err());
        assert!(keys(&[key("first", 1, Some(19))], &ends).is_err());
    }
}
