//! Records on their way into a job's buffer, checked and encoded, with what they cost.

use bytes::BytesMut;

use super::{JobContext, now};
use crate::authority::Amounts;
use crate::protocol::{Event, EventBody, Failure};
use crate::wire;

#[derive(Default)]
pub(crate) struct Batch {
    pub(super) data: BytesMut,
    pub(super) records: u32,
    /// There is something in it that a trace shows.
    pub(super) traced: bool,
    /// One sum a currency: counting it holds up the whole tree of the job.
    pub(super) costs: Amounts,
}

impl Batch {
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// An event of an agent: it has to keep the rules of its kind and the limits.
    pub fn add(&mut self, job: &JobContext, event: Event) -> Result<(), Failure> {
        let cost = job.cost(&event.body)?;
        let traced = wire::is_traced(&event.body);
        let record = job.checked(event)?;
        self.data.extend_from_slice(&record);
        self.records += 1;
        self.traced |= traced;
        if let Some((currency, amount)) = cost {
            let sum = self.costs.entry(currency).or_default();
            *sum = sum.saturating_add(amount);
        }
        Ok(())
    }

    /// An event of the runtime's own.
    pub fn add_own(&mut self, body: EventBody) {
        self.traced |= wire::is_traced(&body);
        wire::encode_event(Event { ts: now(), body }, &mut self.data);
        self.records += 1;
    }
}
