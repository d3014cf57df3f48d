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

/// With the ends of all jobs by id. A key may go before its job where another is there in
/// its place; of a job that never was, at any time.
pub fn keys(keys: &[Key], ends: &BTreeMap<String, i64>) -> Result<(), String> {
    for key in keys {
        let Key { alias, job, .. } = key;
        let Some(deleted_at) = key.deleted_at else {
            return Err(format!("{alias} of {job} is good and no job runs"));
        };
        let Some(ended_at) = ends.get(job) else {
            continue;
        };
        let replaced = keys.iter().any(|other| {
            other.job == *job
                && other.made_at <= deleted_at
                && other.deleted_at.is_none_or(|at| at > deleted_at)
        });
        if deleted_at < *ended_at && !replaced {
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

    #[test]
    fn a_key_that_is_left_or_went_too_early_is_told() {
        let ends = BTreeMap::from([("a".to_owned(), 10)]);
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
}
