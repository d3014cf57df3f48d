//! Hosts that are not here: what waits for one that is to come back, and those that
//! have come to another replica.

use std::sync::Arc;

use super::activation::Activation;
use super::process::Host;
use super::registry::Hosts;
use crate::log::{HostKey, ReplicaNumber};
use crate::protocol::host::AssignmentRef;

/// Hosts at other replicas that are remembered; more, and the time it takes to be lost
/// decides of what they had.
const ELSEWHERE_MAX: usize = 100_000;

impl Hosts {
    /// The host is at another replica now, with what it has.
    pub fn came_elsewhere(self: &Arc<Self>, key: &HostKey, replica: ReplicaNumber) {
        let instance = (key.principal.clone(), key.instance_id.clone());
        let host = {
            let mut state = self.state.lock();
            if state.elsewhere.len() >= ELSEWHERE_MAX {
                state.elsewhere.clear();
            }
            state.elsewhere.insert(key.clone(), replica);
            state.orphans.disown(key);
            let id = state.by_instance.get(&instance);
            id.and_then(|id| state.hosts.get(id).cloned())
        };
        if let Some(host) = host {
            let generation = {
                let own = host.state.lock();
                own.displaced.cancel();
                own.generation
            };
            self.lose(&host, generation, "the host no longer has the job");
        }
    }

    /// A replica is gone: where its hosts are is not known.
    pub fn forget_elsewhere(&self, replica: ReplicaNumber) {
        let mut state = self.state.lock();
        state.elsewhere.retain(|_, at| *at != replica);
    }

    pub(super) fn add_orphan(&self, host: HostKey, activation: Arc<Activation>) {
        let mut state = self.state.lock();
        let instance = (host.principal.clone(), host.instance_id.clone());
        let here = state.by_instance.get(&instance);
        let here = here.and_then(|id| state.hosts.get(id));
        let came_without = here.is_some_and(|host| host.state.lock().arrived)
            || state.elsewhere.contains_key(&host);
        state.orphans.add(host.clone(), activation);
        if came_without {
            state.orphans.disown(&host);
        }
        drop(state);
        self.orphaned.notify_waiters();
    }

    /// Whether the host has dialled here and has yet to say what it has.
    pub(super) fn is_arriving(&self, key: &HostKey) -> bool {
        let state = self.state.lock();
        let instance = (key.principal.clone(), key.instance_id.clone());
        let here = state.by_instance.get(&instance);
        let here = here.and_then(|id| state.hosts.get(id));
        here.is_some_and(|host| host.is_arriving())
    }

    /// Resolves once all of these jobs wait for their hosts.
    pub(super) async fn until_orphans(&self, job_ids: &[String]) {
        loop {
            let more = self.orphaned.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            {
                let state = self.state.lock();
                if job_ids.iter().all(|id| state.orphans.has(id)) {
                    return;
                }
            }
            more.await;
        }
    }

    pub(super) fn drop_orphan(&self, activation: &Arc<Activation>) {
        self.state.lock().orphans.remove(activation);
    }

    pub(super) fn adopt(&self, host: &Host, of: &AssignmentRef) -> Option<Arc<Activation>> {
        self.state.lock().orphans.adopt(&host.principal, of)
    }

    pub(super) fn disown(&self, host: &Host) {
        self.state.lock().orphans.disown(&host.key());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::agent::host::{HostedAgents, Hosts, Options, Rights};
    use crate::drain::Drain;
    use crate::job::{AgentDirectory, Jobs, Limits};
    use crate::log::{Command, Durability, GrantRow, HostedRow, JobRow, Log, OpenOptions, Outcome};

    struct Nobody;

    impl Rights for Nobody {
        fn principal(&self, _: &str) -> Option<String> {
            None
        }

        fn may_host(&self, _: &str, _: &str) -> bool {
            false
        }
    }

    /// The host that came back first was told to drop its job.
    #[tokio::test]
    async fn a_job_that_was_taken_up_waits_for_its_host_already() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            dir: dir.path().into(),
            durability: Durability::Process,
        };
        let log = Log::open(options, tokio::sync::mpsc::channel(1).0).unwrap();
        let job = JobRow {
            id: "job_1".into(),
            stream: 1,
            session_id: String::new(),
            principal: "alice".into(),
            agent: "a@1.0.0".into(),
            input_json: "null".into(),
            trace_id: "t".into(),
            created_at_ms: 0,
            status: "running".into(),
            ended_at_ms: None,
            last_seq: 0,
            end_position: None,
            idempotency_key: None,
            fingerprint: Vec::new(),
            idempotency_expires_at_ms: None,
            grant: GrantRow::default(),
        };
        let hosted = HostedRow {
            stream: 1,
            attempt: 1,
            token_hash: Some(vec![1]),
            ..HostedRow::default()
        };
        let made = log.execute(Command::CreateJob {
            job: Box::new(job),
            op: None,
            hosted: Some(hosted),
            credentials: Vec::new(),
            trace: None,
            owner: None,
        });
        assert_eq!(made.await.unwrap(), Outcome::Done);
        let drain = Drain::new(false);
        let options = Options::default();
        let hosts = Hosts::new(options, Box::new(Nobody), vec![], vec![], drain);
        let mut agents = AgentDirectory::default();
        agents.set_provider(Arc::new(HostedAgents(hosts.clone())));
        let (limits, policy, telemetry) =
            (Limits::default(), Default::default(), Default::default());
        let jobs = Jobs::new(log, agents, limits, policy, None, 1, telemetry);
        assert_eq!(jobs.recover().await.unwrap(), 0);
        assert!(hosts.state.lock().orphans.has("job_1"));
    }
}
