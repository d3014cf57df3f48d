//! One stream of a host, from its register to its end.
//!
//! It owns nothing that outlives it: what the host holds is the host's, and stays
//! there until the host is back or lost.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::activation::{Activation, Phase};
use super::arrival::{away_max, open};
use super::process::{Host, Turn};
use super::registry::Hosts;
use crate::drain::Stay;
use crate::job::Delegation;
use crate::log::Log;
use crate::protocol::Departure;
use crate::protocol::host::{AssignmentRef, HostRefusal, HostReply, HostRequest, Register, Report};
use crate::wire::Invalid;

/// For what the host said while nobody listened: the process stood still, or had no
/// turn on a busy machine. It is in the socket then, and read before this is over.
const LAST_LOOK_MAX: Duration = Duration::from_secs(1);

pub type Incoming = Pin<Box<dyn Stream<Item = Result<HostRequest, Invalid>> + Send>>;

/// Serves a stream whose peer has shown `token`; returns why it ends.
pub async fn serve(
    hosts: Arc<Hosts>,
    token: String,
    mut inbound: Incoming,
    outbound: mpsc::Sender<HostReply>,
    log: Log,
    stay: Stay,
) -> HostRefusal {
    match open(&hosts, &token, &mut inbound).await {
        Ok((host, turn, register)) => {
            let mut connection = Connection {
                last_heard: Instant::now(),
                hosts,
                host,
                generation: turn.generation,
                token: Mutex::new(token),
                outbound,
                stay,
            };
            connection.run(turn, register, &mut inbound, &log).await
        }
        Err(refusal) => refusal,
    }
}

pub(super) fn taken_over() -> HostRefusal {
    HostRefusal::Unavailable("another connection of this host has taken over".into())
}

pub(super) struct Connection {
    pub hosts: Arc<Hosts>,
    pub host: Arc<Host>,
    generation: u64,
    token: Mutex<String>,
    pub outbound: mpsc::Sender<HostReply>,
    stay: Stay,
    last_heard: Instant,
}

/// Marks the connection as gone, however it goes.
struct Released(CancellationToken);

impl Drop for Released {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Connection {
    async fn run(
        &mut self,
        turn: Turn,
        register: Register,
        inbound: &mut Incoming,
        log: &Log,
    ) -> HostRefusal {
        let Turn {
            displaced,
            released,
            before,
            ..
        } = turn;
        let _released = Released(released);
        before.cancelled().await;
        let end = match self.enter(&register, &displaced, log).await {
            Ok(()) => self.attend(inbound, &displaced).await,
            Err(end) => end,
        };
        self.leave(&displaced, &end);
        end
    }

    /// Until the host has been told what it may keep, and takes jobs.
    async fn enter(
        &self,
        register: &Register,
        displaced: &CancellationToken,
        log: &Log,
    ) -> Result<(), HostRefusal> {
        self.host.outbox.clear();
        self.host.withdraw_offers(&register.resume);
        let dial = tokio::select! {
            noted = self.note(register, log) => noted?,
            () = displaced.cancelled() => return Err(taken_over()),
        };
        self.hosts.set_dial(&self.host, displaced, dial);
        self.hosts.announce(&self.host, register);
        self.is_there(displaced)?;
        if let Some(elsewhere) = self.hosts.elsewhere.get() {
            tokio::select! {
                fetched = self.fetch(elsewhere.as_ref(), register, dial) => fetched?,
                () = displaced.cancelled() => return Err(taken_over()),
            }
            self.is_there(displaced)?;
            self.is_last(dial, log).await?;
            elsewhere.came(self.host.key(), dial).await;
        }
        let registered = self.resume(register);
        if !registered.drop.is_empty() {
            // It may be there where the host has dialled since.
            self.is_last(dial, log).await?;
        }
        // Not through the outbox: what is acked meanwhile would go ahead of it.
        self.say(HostReply::Registered(registered)).await?;
        self.hosts.arrive(&self.host, register);
        tracing::info!(
            host = self.host.name,
            principal = self.host.principal,
            agents = register.agents.len(),
            sdk = register.sdk,
            "a host is connected"
        );
        Ok(())
    }

    /// A host that gave up this dial may have dialled another replica since: nothing is
    /// taken from there for one that does not hear of it.
    fn is_there(&self, displaced: &CancellationToken) -> Result<(), HostRefusal> {
        if displaced.is_cancelled() {
            return Err(taken_over());
        }
        match self.outbound.is_closed() {
            true => Err(HostRefusal::Unavailable("the host has gone".into())),
            false => Ok(()),
        }
    }

    async fn attend(
        &mut self,
        inbound: &mut Incoming,
        displaced: &CancellationToken,
    ) -> HostRefusal {
        let unavailable = |text: &str| HostRefusal::Unavailable(text.into());
        let away_max = away_max(&self.hosts);
        let stay = self.stay.clone();
        let host = self.host.clone();
        // Also of a host that never beats.
        let interval = self.hosts.options.heartbeat_interval;
        // What is waited for all the time is made once: a host that asks before each
        // operation waits for an answer.
        let (displaced, turn) = (displaced.cancelled(), stay.turn(away_max));
        let lost_after = self.hosts.options.lost_after;
        let silence = tokio::time::sleep_until(self.last_heard + lost_after);
        let token_due = tokio::time::sleep(interval);
        tokio::pin!(displaced, turn, silence, token_due);
        // Set once the host was silent for too long: it is lost then, unless it is heard first.
        let mut give_up_at = None;
        loop {
            if host.outbox.has_moved() {
                return taken_over();
            }
            tokio::select! {
                () = &mut displaced => return taken_over(),
                departure = &mut turn => return self.say_away(departure).await,
                permit = self.outbound.reserve(), if !host.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(reply) = host.outbox.pop() {
                            permit.send(reply);
                        }
                    }
                    Err(_) => return unavailable("the host has gone"),
                },
                () = host.outbox.filled() => {}
                request = inbound.next() => {
                    self.last_heard = Instant::now();
                    give_up_at = None;
                    let Some(request) = request else {
                        return unavailable("the host has gone");
                    };
                    let applied = tokio::select! {
                        applied = self.receive(request) => applied,
                        () = &mut displaced => return taken_over(),
                    };
                    if let Err(refusal) = applied {
                        return refusal;
                    }
                    // Time in which nothing was read is not silence.
                    self.last_heard = Instant::now();
                }
                () = &mut silence => {
                    let lost_at = self.last_heard + lost_after;
                    let next = if Instant::now() < lost_at {
                        lost_at
                    } else if give_up_at.is_some() {
                        return self.lost().await;
                    } else {
                        let last_look = LAST_LOOK_MAX.min(lost_after / 4);
                        *give_up_at.insert(Instant::now() + last_look)
                    };
                    silence.as_mut().reset(next);
                }
                () = &mut token_due => {
                    if let Err(refusal) = self.authentic() {
                        return refusal;
                    }
                    token_due.as_mut().reset(Instant::now() + interval);
                }
            }
        }
    }

    fn authentic(&self) -> Result<(), HostRefusal> {
        let token = self.token.lock().clone();
        if self.hosts.rights.principal(&token).as_ref() == Some(&self.host.principal) {
            return Ok(());
        }
        let text = "authorization: the token is no longer valid; dial with a new one";
        Err(HostRefusal::Unauthenticated(text.into()))
    }

    async fn receive(&self, request: Result<HostRequest, Invalid>) -> Result<(), HostRefusal> {
        let request = match request {
            Ok(request) => request,
            Err(invalid) => return self.rejected(None, invalid.message).await,
        };
        match request {
            HostRequest::Register(_) => {
                let text = "register: this stream has a host already";
                self.rejected(None, text.into()).await
            }
            HostRequest::Heartbeat { nonce } => {
                self.authentic()?;
                self.say(HostReply::HeartbeatAck { nonce }).await
            }
            HostRequest::Accept(of) => match self.host.find(&of) {
                Some(activation) => {
                    activation.move_to(Phase::Running);
                    Ok(())
                }
                None => self.revoked(of).await,
            },
            HostRequest::Decline { of, reason } => match self.host.find(&of) {
                Some(activation) => {
                    activation.move_to(Phase::Lost(format!("it gave the job back: {reason}")));
                    self.host.drop_activation(&activation, None);
                    Ok(())
                }
                None => self.revoked(of).await,
            },
            HostRequest::Reports { of, reports } => self.reports(of, reports).await,
            HostRequest::Authorize {
                of,
                call_id,
                capability,
                target,
            } => match self.started(&of) {
                Some(activation) => {
                    self.authorize(&activation, call_id, &capability, &target)
                        .await
                }
                None => self.revoked(of).await,
            },
            HostRequest::Delegate {
                of,
                delegate_id,
                agent,
                input_json,
                lease_request_json,
                expires_at,
            } => match self.started(&of) {
                Some(activation) => {
                    let asked = Delegation {
                        delegate_id,
                        agent,
                        input_json,
                        lease_request_json,
                        expires_at,
                    };
                    self.delegate(activation, asked).await;
                    Ok(())
                }
                None => self.revoked(of).await,
            },
            HostRequest::Capacity { max_in_flight } => {
                self.hosts.set_capacity(&self.host, max_in_flight);
                Ok(())
            }
            HostRequest::Draining { deadline } => {
                self.host_drains(deadline);
                Ok(())
            }
            HostRequest::RefreshAuth { bearer_token } => self.refresh(bearer_token).await,
        }
    }

    /// The activation that a message is about, which says that its job has begun.
    fn started(&self, of: &AssignmentRef) -> Option<Arc<Activation>> {
        let activation = self.host.find(of)?;
        activation.move_to(Phase::Running);
        Some(activation)
    }

    async fn reports(&self, of: AssignmentRef, reports: Vec<Report>) -> Result<(), HostRefusal> {
        let Some(activation) = self.started(&of) else {
            return self.revoked(of).await;
        };
        for answer in activation.apply(reports).await {
            self.say(answer).await?;
        }
        Ok(())
    }

    async fn refresh(&self, token: String) -> Result<(), HostRefusal> {
        if self.hosts.rights.principal(&token).as_ref() != Some(&self.host.principal) {
            let text = "refresh_auth.bearer_token: is not a valid token of this principal";
            return self.rejected(None, text.into()).await;
        }
        *self.token.lock() = token;
        self.say(HostReply::AuthRefreshed).await
    }

    /// No new jobs; what is held at the deadline is lost.
    fn host_drains(&self, deadline: Duration) {
        self.hosts.set_accepting(&self.host, false);
        let (host, released) = (self.host.clone(), self.host.state.lock().released.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(deadline) => {
                    host.take_away("the host's drain deadline is over");
                }
                // Who is back says it again, if it still holds.
                () = released.cancelled() => {}
            }
        });
    }

    pub(super) async fn say(&self, reply: HostReply) -> Result<(), HostRefusal> {
        // Who does not read is not read, and must not seem alive by that.
        let limit = self.hosts.options.lost_after;
        let gone = |text: &str| HostRefusal::Unavailable(text.into());
        match tokio::time::timeout(limit, self.outbound.send(reply)).await {
            Ok(sent) => sent.map_err(|_| gone("the host has gone")),
            Err(_) => Err(gone("the host does not read what it is told")),
        }
    }

    async fn rejected(
        &self,
        of: Option<AssignmentRef>,
        message: String,
    ) -> Result<(), HostRefusal> {
        self.say(HostReply::Rejected {
            of,
            seq: 0,
            message,
        })
        .await
    }

    async fn revoked(&self, of: AssignmentRef) -> Result<(), HostRefusal> {
        if self.host.outbox.has_moved() {
            // It is, where the host has dialled.
            return Err(taken_over());
        }
        let reason = "it is not (or no longer) this host's".into();
        self.say(HostReply::Revoked { of, reason }).await
    }

    /// Says when to dial again; acks that are due go first.
    async fn say_away(&self, departure: Departure) -> HostRefusal {
        self.host.outbox.push(HostReply::Drain {
            reconnect_after: departure.reconnect_after,
            reason: departure.cause.as_str().into(),
        });
        while let Some(reply) = self.host.outbox.pop() {
            if self.say(reply).await.is_err() {
                break;
            }
        }
        HostRefusal::Away(departure)
    }

    /// Silent for too long. Should it wake, it reads what it has lost.
    async fn lost(&self) -> HostRefusal {
        for activation in self.host.held() {
            if activation.is_completed() {
                continue;
            }
            let of = activation.reference();
            let reason = "the host was not heard for too long".into();
            // Where the host does not read, nobody waits.
            let _ = self.outbound.try_send(HostReply::Revoked { of, reason });
        }
        let reason = "it was not heard for too long";
        self.hosts.lose(&self.host, self.generation, reason);
        HostRefusal::Unavailable("the host was not heard for too long; dial again".into())
    }

    /// The host may be back within the time it takes to be lost.
    fn leave(&self, displaced: &CancellationToken, end: &HostRefusal) {
        if !self.host.leave(displaced) {
            return;
        }
        tracing::info!(host = self.host.name, reason = ?end, "a host is gone");
        self.hosts.set_accepting(&self.host, false);
        self.host.withdraw_offers(&[]);
        if self.host.held().is_empty() {
            return self.hosts.lose(&self.host, self.generation, "it has gone");
        }
        let (hosts, host) = (self.hosts.clone(), self.host.clone());
        let generation = self.generation;
        let drain = hosts.drain.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(hosts.options.lost_after) => {}
                // The process ends; the next one waits for the host.
                () = drain.begun() => return,
            }
            if host.state.lock().generation == generation {
                tracing::warn!(host = host.name, "a host did not come back");
                hosts.lose(&host, generation, "it did not come back");
            }
        });
    }
}
