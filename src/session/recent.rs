//! What became of the requests a peer sent last, by envelope id: one sent again
//! is answered again and done once.

use std::collections::{HashMap, VecDeque};

use crate::protocol::Failure;

/// Requests remembered per connection.
const REQUESTS_MAX: usize = 1_024;

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Submitted { job_id: String },
    Done,
    Refused { failure: Failure },
}

#[derive(Default)]
pub(super) struct Recent {
    order: VecDeque<String>,
    answers: HashMap<String, Answer>,
}

impl Recent {
    pub fn get(&self, id: &str) -> Option<&Answer> {
        self.answers.get(id)
    }

    pub fn insert(&mut self, id: String, answer: Answer) {
        if self.answers.insert(id.clone(), answer).is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REQUESTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_nothing_grows_without_bound() {
        let mut recent = Recent::default();
        for n in 0..REQUESTS_MAX * 2 {
            recent.insert(n.to_string(), Answer::Done);
            recent.insert(n.to_string(), Answer::Done);
        }
        assert_eq!(recent.answers.len(), REQUESTS_MAX);
        assert!(recent.get("0").is_none() && recent.get("2047").is_some());
    }
}
