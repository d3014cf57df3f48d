//! What a host asks in the name of a job: whether it may do something, and for
//! another job.

use std::sync::Arc;

use super::activation::Activation;
use super::connection::Connection;
use crate::job::Delegation;
use crate::protocol::host::{HostRefusal, HostReply};

impl Connection {
    /// Reports that were sent before are counted: they are read in turn.
    pub(super) async fn authorize(
        &self,
        activation: &Activation,
        call_id: String,
        capability: &str,
        target: &str,
    ) -> Result<(), HostRefusal> {
        let job = &activation.job;
        let decided = job.authorize(&call_id, capability, target).await;
        self.say(HostReply::AuthorizeResult {
            of: activation.reference(),
            call_id,
            refused: decided.err(),
        })
        .await
    }

    /// Answered when it is done: a gateway that a credential is had from may take its
    /// time, and the host's other jobs have no part in that. Of one job only so many
    /// are under way; who asks for more, or does not read the answers, is not read.
    pub(super) async fn delegate(&self, activation: Arc<Activation>, asked: Delegation) {
        let permit = activation.delegation().await;
        // An answer does not keep the stream of a host that has gone.
        let (outbound, outbox) = (self.outbound.downgrade(), self.host.outbox.clone());
        tokio::spawn(async move {
            let delegate_id = asked.delegate_id.clone();
            let made = activation.job.delegate(asked).await;
            let answer = HostReply::DelegateResult {
                of: activation.reference(),
                delegate_id: delegate_id.clone(),
                made: made
                    .as_ref()
                    .map(|child| child.job_id.clone())
                    .map_err(Clone::clone),
            };
            let sent = match outbound.upgrade() {
                Some(outbound) => outbound.send(answer).await.is_ok(),
                None => false,
            };
            // A host that was not told asks again.
            if let (true, Ok(child)) = (sent, made) {
                activation.tell_end_of(child, delegate_id, &outbox);
            }
            drop(permit);
        });
    }
}
