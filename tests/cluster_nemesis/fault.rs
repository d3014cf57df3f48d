//! What can happen to a cell.

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    KillReplica,
    /// Past every lease: it wakes as one that is gone.
    PauseReplica,
    /// For less than it takes to be declared gone.
    PauseReplicaBriefly,
    DrainReplica,
    /// Drained, and started with the other version: the earlier one, or this one again.
    RollReplica,
    KillServer,
    KillLeader,
    PauseServer,
    PauseLeader,
    /// Two of the three, for some seconds.
    PauseServers,
    /// From one replica to one server, or to all.
    CutLink,
    CutReplica,
    FreezeLink,
    FreezeReplica,
    /// Two servers, which both still have the third.
    CutRoute,
    /// A server and both others.
    CutServer,
    FreezeServer,
    /// A server that hears the others, who do not hear it.
    MuteServer,
    /// A server that the others hear, and that does not hear them.
    DeafenServer,
    /// Longer than a command waits for its answer.
    LoseQuorum,
    KillReplicaAndLeader,
    /// Whoever asks the gateway for a key, or to delete one, is refused.
    StopGateway,
    /// It makes keys, and does not say so.
    HangGateway,
}

pub const ALL: [Fault; 23] = [
    Fault::KillReplica,
    Fault::PauseReplica,
    Fault::PauseReplicaBriefly,
    Fault::DrainReplica,
    Fault::RollReplica,
    Fault::KillServer,
    Fault::KillLeader,
    Fault::PauseServer,
    Fault::PauseLeader,
    Fault::PauseServers,
    Fault::CutLink,
    Fault::CutReplica,
    Fault::FreezeLink,
    Fault::FreezeReplica,
    Fault::CutRoute,
    Fault::CutServer,
    Fault::FreezeServer,
    Fault::MuteServer,
    Fault::DeafenServer,
    Fault::LoseQuorum,
    Fault::KillReplicaAndLeader,
    Fault::StopGateway,
    Fault::HangGateway,
];
