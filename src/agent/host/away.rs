//! Hosts that are not here: what waits for one that is to come back, and those that
//! have come to another replica.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::activation::Activation;
use super::process::Host;
use super::registry::{Arrival, Hosts};
use crate::log::{HostKey, ReplicaNumber};
use crate::protocol::host::AssignmentRef;

/// Hosts at other replicas that are remembered; more, and the time it takes to be lost
/// decides of what they had.
const ELSEWHERE_MAX: usize = 100_000;

impl Hosts {
    /// The host is at another replica, with what it has, unless it has dialled here since.
    pub fn came_elsewhere(self: &Arc<Self>, key: &HostKey, at: Arrival) {
        let is_after = |known: u64| at.dial > 0 && known > at.dial;
        let instance = (key.principal.clone(), key.instance_id.clone());
        let mut state = self.state.lock();
        let host = state.by_instance.get(&instance);
        let host = host.and_then(|id| state.hosts.get(id).cloned());
        let mut generation = 0;
        if let Some(host) = &host {
            let mut own = host.state.lock();
            match own.dial {
                None if at.dial > 0 && !own.away => {
                    let known = own.also_at;
                    own.also_at = known.filter(|known| is_after(known.dial)).or(Some(at));
                    return;
                }
                Some(here) if is_after(here) => return,
                _ => own.displaced.cancel(),
            }
            generation = own.generation;
        }
        let known = state.elsewhere.get(key);
        if known.is_some_and(|known| is_after(known.dial)) {
            return;
        }
        if state.elsewhere.len() >= ELSEWHERE_MAX {
            state.elsewhere.clear();
        }
        state.elsewhere.insert(key.clone(), at);
        state.orphans.disown(key);
        drop(state);
        if let Some(host) = host {
            self.lose(&host, generation, "the host no longer has the job");
        }
    }

    /// The number of the connection's dial is known, and with it which of two dials is the
    /// later one.
    pub(super) fn set_dial(
        self: &Arc<Self>,
        host: &Host,
        displaced: &CancellationToken,
        dial: u64,
    ) {
        let also_at = {
            let mut own = host.state.lock();
            if displaced.is_cancelled() {
                return;
            }
            own.dial = Some(dial);
            own.also_at.take()
        };
        if let Some(at) = also_at.filter(|_| dial > 0) {
            self.came_elsewhere(&host.key(), at);
        }
    }

    /// A replica is gone: where its hosts are is not known.
    pub fn forget_elsewhere(&self, replica: ReplicaNumber) {
        let mut state = self.state.lock();
        state.elsewhere.retain(|_, at| at.replica != replica);
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

    use super::Arrival;
    use crate::agent::host::{HostedAgents, Hosts, Options, Rights};
    use crate::drain::Drain;
    use crate::job::{AgentDirectory, Jobs, Limits};
    use crate::log::{Command, Durability, GrantRow, HostedRow, JobRow, Log, OpenOptions, Outcome};
    use crate::protocol::host::{HostedAgent, LossPolicy, Register};

    struct Nobody;

    impl Rights for Nobody {
        fn principal(&self, _: &str) -> Option<String> {
            None
        }

        fn may_host(&self, _: &str, _: &str) -> bool {
            false
        }
    }

    fn hosts() -> Arc<Hosts> {
        let drain = Drain::new(false);
        Hosts::new(Options::default(), Box::new(Nobody), vec![], vec![], drain)
    }

    fn register() -> Register {
        Register {
            host_name: "h".into(),
            instance_id: "h".into(),
            agents: Vec::new(),
            max_in_flight: 1,
            labels: Vec::new(),
            resume: Vec::new(),
            sdk: String::new(),
        }
    }

    fn at_another(dial: u64) -> Arrival {
        Arrival { replica: 2, dial }
    }

    /// It had come to another replica before, which was heard of when it was here: it was
    /// told that another connection had taken over, and there was none.
    #[test]
    fn late_word_of_an_earlier_dial_does_not_close_the_last_one() {
        let hosts = hosts();
        let (host, turn) = hosts.host_of("workers", &register());
        let key = host.key();
        // Which is the later one is not known yet.
        hosts.came_elsewhere(&key, at_another(6));
        hosts.came_elsewhere(&key, at_another(5));
        assert!(!turn.displaced.is_cancelled());
        hosts.set_dial(&host, &turn.displaced, 7);
        hosts.came_elsewhere(&key, at_another(6));
        assert!(!turn.displaced.is_cancelled() && hosts.count() == 1);
        hosts.came_elsewhere(&key, at_another(8));
        assert!(turn.displaced.is_cancelled() && hosts.count() == 0);
    }

    #[test]
    fn a_dial_that_was_not_the_last_one_gives_way_once_that_is_known() {
        let hosts = hosts();
        let (host, turn) = hosts.host_of("workers", &register());
        hosts.came_elsewhere(&host.key(), at_another(6));
        hosts.set_dial(&host, &turn.displaced, 5);
        assert!(turn.displaced.is_cancelled() && hosts.count() == 0);
        // It is not forgotten by one that ends before it has a number.
        let (host, turn) = hosts.host_of("workers", &register());
        hosts.lose(&host, turn.generation, "it has gone");
        let (host, turn) = hosts.host_of("workers", &register());
        hosts.set_dial(&host, &turn.displaced, 4);
        assert!(turn.displaced.is_cancelled());
    }

    /// Its agents were listed, and its places counted, for as long as the process ran.
    #[test]
    fn a_host_that_goes_elsewhere_while_it_arrives_is_not_listed_here() {
        let hosts = hosts();
        let offers = Register {
            agents: vec![HostedAgent {
                name: "a".into(),
                version: "1.0.0".into(),
                max_in_flight: 0,
                loss_policy: LossPolicy::Fail,
                description: String::new(),
                input_schema_json: String::new(),
            }],
            ..register()
        };
        let (host, turn) = hosts.host_of("workers", &offers);
        hosts.set_dial(&host, &turn.displaced, 5);
        hosts.came_elsewhere(&host.key(), at_another(6));
        hosts.announce(&host, &offers);
        hosts.arrive(&host, &offers);
        assert_eq!((hosts.free().len(), hosts.places()), (0, (0, 0)));
    }

    /// With replicas that do not know of numbers: whoever speaks last.
    #[test]
    fn a_dial_without_a_number_counts_as_the_last_one() {
        let hosts = hosts();
        let (host, turn) = hosts.host_of("workers", &register());
        hosts.set_dial(&host, &turn.displaced, 0);
        hosts.came_elsewhere(&host.key(), at_another(0));
        assert!(turn.displaced.is_cancelled());
        let (host, turn) = hosts.host_of("workers", &register());
        hosts.set_dial(&host, &turn.displaced, 3);
        assert!(!turn.displaced.is_cancelled());
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
        let hosts = hosts();
        let mut agents = AgentDirectory::default();
        agents.set_provider(Arc::new(HostedAgents(hosts.clone())));
        let (limits, policy, telemetry) =
            (Limits::default(), Default::default(), Default::default());
        let jobs = Jobs::new(log, agents, limits, policy, None, 1, telemetry);
        assert_eq!(jobs.recover().await.unwrap(), 0);
        assert!(hosts.state.lock().orphans.has("job_1"));
    }
}
