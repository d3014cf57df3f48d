//! The command line. `serve` and `demo` run a runtime; the rest are clients of one.
//!
//! Exit status: 0 success, 1 the job failed, 2 wrong usage, 3 cancelled,
//! 4 timed out, 5 the runtime could not be reached or refused.

mod agents;
mod cancel;
mod credentials;
mod demo;
mod follow;
mod healthcheck;
mod jobs;
mod operator;
mod print;
mod screen;
mod serve;
mod stdio;
mod submit;
mod target;
mod top;
mod transfer;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the runtime: gRPC and WebSocket on one port, admin on another.
    Serve(serve::Serve),
    /// Show all of it in ten seconds: a runtime, a job, a cut connection, a resume.
    Demo(demo::Demo),
    /// Submit a job and follow it; the result alone goes to stdout.
    Submit(submit::Submit),
    /// Follow a job of this principal: what came before, then what comes.
    Watch(watch::Watch),
    /// List this principal's jobs; with --live, those of all that are not over.
    Jobs(jobs::Jobs),
    /// Ask a job to stop.
    Cancel(cancel::Cancel),
    /// List the agents the runtime offers.
    Agents(agents::Agents),
    /// List the sessions that have a connection; for operators.
    Sessions(operator::Sessions),
    /// List the jobs that a session watches; for operators.
    Subscriptions(operator::Subscriptions),
    /// List the agent hosts; for operators.
    Hosts(operator::Hosts),
    /// Look on: sessions, jobs, hosts, lags and limits, again and again; for operators.
    Top(top::Top),
    /// List the credentials that upstreams have made for jobs; for the operator.
    Credentials(credentials::Credentials),
    /// Write all that a runtime that is stopped, or a cell, has to one file.
    Export(transfer::Export),
    /// Bring such a file into an empty data directory, or an empty cell.
    Import(transfer::Import),
    /// Ask a runtime whether it serves; for probes. Needs no token.
    Healthcheck(healthcheck::Healthcheck),
    /// ARCP JSON, one message a line, between stdin, stdout and a runtime.
    Stdio(stdio::Stdio),
    /// Measure the runtime beside the raw libraries doing the same work.
    Bench(crate::bench::Bench),
    #[command(hide = true)]
    BenchFloor(crate::bench::Floor),
    /// Print a completion script for a shell.
    Completions { shell: clap_complete::Shell },
}

/// How a command ended, as an exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Success = 0,
    JobFailed = 1,
    Usage = 2,
    Cancelled = 3,
    TimedOut = 4,
    Unavailable = 5,
}

/// An argument that cannot be used; the message names it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        ExitCode::from(status as u8)
    }
}

/// Runs the command the process was started with.
pub async fn run() -> ExitCode {
    let command = Cli::parse().command;
    let ran = match command {
        Command::Serve(serve) => serve.run().await.map(|()| Status::Success),
        Command::Demo(demo) => demo.run().await,
        Command::Submit(submit) => submit.run().await,
        Command::Watch(watch) => watch.run().await,
        Command::Jobs(jobs) => jobs.run().await,
        Command::Cancel(cancel) => cancel.run().await,
        Command::Agents(agents) => agents.run().await,
        Command::Credentials(credentials) => credentials.run().await,
        Command::Sessions(sessions) => sessions.run().await,
        Command::Subscriptions(subscriptions) => subscriptions.run().await,
        Command::Hosts(hosts) => hosts.run().await,
        Command::Top(top) => top.run().await,
        Command::Export(export) => export.run().await.map(|()| Status::Success),
        Command::Import(import) => import.run().await.map(|()| Status::Success),
        Command::Healthcheck(healthcheck) => healthcheck.run().await,
        Command::Stdio(stdio) => stdio.run().await,
        Command::Bench(bench) => bench.run().await.map(|()| Status::Success),
        Command::BenchFloor(floor) => floor.run().await.map(|()| Status::Success),
        Command::Completions { shell } => {
            let (mut command, mut out) = (Cli::command(), Vec::new());
            clap_complete::generate(shell, &mut command, "arcpd", &mut out);
            print::exactly(&String::from_utf8_lossy(&out)).map(|()| Status::Success)
        }
    };
    ran.map(ExitCode::from).unwrap_or_else(|error| {
        if error.is::<print::Closed>() {
            return Status::Success.into();
        }
        // It may quote the other side.
        eprintln!("arcpd: {}", print::plain_lines(&format!("{error:#}")));
        if error.is::<crate::client::Error>() {
            return Status::Unavailable.into();
        }
        match error.is::<Usage>() {
            true => Status::Usage.into(),
            false => Status::JobFailed.into(),
        }
    })
}
