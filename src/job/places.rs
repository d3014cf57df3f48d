//! How many jobs of each principal run: what `running_jobs_per_principal_max` bounds.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts by principal; one for all jobs.
#[derive(Default)]
pub(super) struct Places {
    taken: Mutex<HashMap<String, usize>>,
}

/// One running job among those of its principal, until it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    principal: String,
}

impl Places {
    pub fn take(self: &Arc<Self>, principal: &str) -> Place {
        let mut taken = self.taken.lock();
        match taken.get_mut(principal) {
            Some(count) => *count += 1,
            None => drop(taken.insert(principal.to_owned(), 1)),
        }
        Place {
            places: self.clone(),
            principal: principal.to_owned(),
        }
    }

    pub fn taken_by(&self, principal: &str) -> usize {
        self.taken.lock().get(principal).copied().unwrap_or(0)
    }

    /// The principal with most jobs, and how many.
    pub fn most(&self) -> Option<(String, usize)> {
        let taken = self.taken.lock();
        let most = taken.iter().max_by_key(|(_, count)| **count);
        most.map(|(principal, count)| (principal.clone(), *count))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        if let Some(count) = taken.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_once_it_is_dropped() {
        let places = Arc::new(Places::default());
        let (first, second) = (places.take("alice"), places.take("alice"));
        let other = places.take("bob");
        assert_eq!(places.taken_by("alice"), 2);
        assert_eq!(places.most(), Some(("alice".into(), 2)));
        drop((first, other));
        assert_eq!((places.taken_by("alice"), places.taken_by("bob")), (1, 0));
        drop(second);
        assert_eq!(places.most(), None);
    }
}
