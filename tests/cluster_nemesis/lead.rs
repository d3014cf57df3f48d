//! The children of a job that delegates, as its host knows them: it asks for one after the
//! other, waits for their ends, and then asks for as much as is left of its budget.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arcpd::wire::proto::{AssignmentRef, DelegateJob, DelegateResult};
use serde_json::{Value, json};

use crate::work::{BUDGET, HOSTED, spending};

pub struct Lead {
    plan: Vec<Ask>,
    /// The first in the plan that is not answered.
    next: usize,
    /// To hear once more how they end.
    again: VecDeque<Ask>,
    /// By name.
    children: BTreeMap<String, String>,
    over: BTreeSet<String>,
}

#[derive(Clone)]
struct Ask {
    name: String,
    agent: String,
    input: Value,
    lease: Value,
    /// One of those that are for what is left, of which one is enough.
    is_rest: bool,
}

impl Ask {
    fn part(number: usize, part: &Value) -> Self {
        let budget = part["budget"].as_i64().unwrap_or_default();
        Self {
            name: format!("part-{number}-{budget}"),
            agent: part["agent"].as_str().unwrap_or_default().into(),
            input: json!({ "steps": part["steps"], "per_step": 0.1 }),
            lease: spending(budget),
            is_rest: false,
        }
    }

    /// Of nobody else's budget but this job's own.
    fn shared() -> Self {
        Self {
            name: "shared".into(),
            agent: HOSTED[0].into(),
            input: json!({ "steps": 1, "per_step": 0.1 }),
            lease: json!({ "tool.call": ["spend"] }),
            is_rest: false,
        }
    }

    fn rest(budget: i64) -> Self {
        Self {
            name: format!("rest-{budget}"),
            agent: HOSTED[0].into(),
            input: json!({ "steps": 1, "per_step": 0.1 }),
            lease: spending(budget),
            is_rest: true,
        }
    }
}

impl Lead {
    pub fn new(input: &Value, lease: &Value, attempt: u32) -> Self {
        let parts = input["parts"].as_array().into_iter().flatten();
        let parts = parts
            .enumerate()
            .map(|(number, part)| Ask::part(number, part));
        let mut plan: Vec<_> = parts.collect();
        // A child has a key of its own where its parent has one and it asks for it.
        if let (Some(first), Some(models)) = (plan.first_mut(), lease.get("model.use")) {
            first.lease["model.use"] = models.clone();
        }
        if input["shares"] == true {
            plan.push(Ask::shared());
        }
        // A later attempt does not know whether what an earlier one has asked for is over.
        if attempt == 1 {
            plan.extend((1..=BUDGET / 100).rev().map(|n| Ask::rest(n * 100)));
        }
        Self {
            plan,
            next: 0,
            again: VecDeque::new(),
            children: BTreeMap::new(),
            over: BTreeSet::new(),
        }
    }

    /// Nobody tells on this connection of what ended before it, unless it is asked for again.
    pub fn connected(&mut self) {
        let open =
            |ask: &&Ask| self.children.contains_key(&ask.name) && !self.over.contains(&ask.name);
        self.again = self.plan.iter().filter(open).cloned().collect();
    }

    /// What it asks for now, if it does not wait for an end.
    pub fn ask(&self, of: &AssignmentRef) -> Option<DelegateJob> {
        let next = self.plan.get(self.next);
        let next = next.filter(|ask| !ask.is_rest || self.all_over());
        let ask = self.again.front().or(next)?;
        Some(DelegateJob {
            r#ref: Some(of.clone()),
            delegate_id: ask.name.clone(),
            agent: ask.agent.clone(),
            input_json: ask.input.to_string(),
            lease_request_json: ask.lease.to_string(),
            ..Default::default()
        })
    }

    pub fn is_over(&self) -> bool {
        self.next == self.plan.len() && self.again.is_empty() && self.all_over()
    }

    fn all_over(&self) -> bool {
        self.children.keys().all(|name| self.over.contains(name))
    }

    /// Takes note of an answer, which may be wrong.
    pub fn answered(&mut self, answer: &DelegateResult) -> Result<(), String> {
        let (name, child) = (&answer.delegate_id, &answer.child_job_id);
        let again = self.again.front().is_some_and(|ask| ask.name == *name);
        match &*answer.code {
            "" => {
                let first = self
                    .children
                    .entry(name.clone())
                    .or_insert_with(|| child.clone());
                if first != child {
                    return Err(format!("{name} was {first} and is {child}"));
                }
            }
            // To be asked for once more.
            "INTERNAL_ERROR" => return Ok(()),
            // It was cancelled, and that comes after the answer.
            "INVALID_REQUEST" if answer.message == "event: the job has ended" => return Ok(()),
            // Its budget may be spent, or it is to stop.
            "LEASE_SUBSET_VIOLATION" | "BUDGET_EXHAUSTED" | "CANCELLED" if !again => {}
            _ => return Err(format!("a delegation was refused: {answer:?}")),
        }
        if again {
            self.again.pop_front();
            return Ok(());
        }
        self.next += 1;
        let enough = answer.code.is_empty() && self.plan[self.next - 1].is_rest;
        if enough {
            self.next = self.plan.len();
        }
        Ok(())
    }

    pub fn ended(&mut self, name: &str) {
        self.over.insert(name.to_owned());
    }
}
