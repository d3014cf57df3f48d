//! The examples in every language: each client runs against each agent, once with
//! the client's connection cut in the middle of the job and twice with the agent's.
//!
//! What runs is what an example's README says: the first block of shell in it is
//! three lines, to build, to run the agent and to run the client. They are built in
//! copies below the target folder, and again only when a source has changed.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use arcpd::wire::proto::{self, envelope::Payload, job_event::Body};
use support::proxy::Proxy;
use support::*;

/// What a build by hand leaves in a folder, beside what begins with a dot.
const BUILT: [&str; 7] = [
    "node_modules",
    "target",
    "gen",
    "bin",
    "dist",
    "__pycache__",
    "examples/python/arcp",
];
/// (a folder of `examples`, a program its commands need, what to install)
const TOOLS: [(&str, &str, &str); 7] = [
    ("go", "go", "Go 1.26 or later"),
    ("java", "javac", "a JDK 17 or later"),
    ("java", "java", "a JDK 17 or later"),
    ("java", "mvn", "Maven 3.8 or later"),
    ("python", "python3", "Python 3.10 or later, with venv"),
    ("typescript", "node", "Node 20 or later"),
    ("typescript", "npm", "Node 20 or later, with npm"),
];

/// A built example.
struct Example {
    language: String,
    folder: PathBuf,
    agent: String,
    client: String,
}

/// Files of a folder or file below the root, sorted, with what is in them.
fn sources(part: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(part);
    if path.is_file() {
        return found.push((part.to_owned(), std::fs::read(&path).unwrap()));
    }
    let entries = std::fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let part = part.join(&name);
        let built = BUILT.iter().any(|built| part.ends_with(built));
        if !built && !name.as_encoded_bytes().starts_with(b".") {
            sources(&part, found);
        }
    }
}

impl Example {
    fn build(language: &str) -> Self {
        for (_, program, what) in TOOLS.iter().filter(|(of, ..)| *of == language) {
            let mut asked = Command::new(program);
            asked.stdout(Stdio::null()).stderr(Stdio::null());
            let there = asked.arg(if language == "go" {
                "version"
            } else {
                "--version"
            });
            assert!(
                there.status().is_ok(),
                "examples/{language} needs `{program}`: install {what}"
            );
        }
        let base = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join("examples")
            .join(language);
        let folder = base.join("examples").join(language);
        let mut files = Vec::new();
        sources(&Path::new("examples").join(language), &mut files);
        sources(Path::new("buf.yaml"), &mut files);
        sources(Path::new("proto"), &mut files);
        if language == "python" {
            // The agents' helper.
            sources(Path::new("python"), &mut files);
        }
        let readme = files.iter().find(|(path, _)| path.ends_with("README.md"));
        let readme = String::from_utf8(readme.expect("a README").1.clone()).unwrap();
        let block = readme
            .split("```sh\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        let lines: Vec<&str> = block.expect("a block of shell").trim().lines().collect();
        let [build, agent, client] = lines[..] else {
            panic!("{language}: the README's first block of shell is three lines, not {lines:?}");
        };
        let stamp = base.join("sources");
        let wanted: Vec<u8> = format!("{files:?}").into();
        if std::fs::read(&stamp).ok().as_ref() != Some(&wanted) {
            let _ = std::fs::remove_dir_all(&base);
            for (path, text) in &files {
                let path = base.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            let path = std::env::var("PATH").unwrap();
            buf::run(
                Command::new("sh")
                    .args(["-c", build])
                    .current_dir(&folder)
                    .env("PATH", format!("{}:{path}", buf::bin().display())),
            );
            std::fs::write(&stamp, wanted).unwrap();
        }
        let client = client.strip_suffix(" word-count README.md");
        Self {
            language: language.into(),
            folder,
            agent: agent.into(),
            client: client.expect("the client's arguments come last").into(),
        }
    }

    /// One of its commands, killed when dropped.
    fn command(&self, line: String, server: &str, token: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("sh");
        command
            .args(["-c", &format!("exec {line}")])
            .current_dir(&self.folder)
            .env("ARCPD_SERVER", server)
            .env("ARCPD_TOKEN", token)
            .env("ARCP_AGENT", self.hosted())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// The name its agent is given.
    fn hosted(&self) -> String {
        format!("word-count-{}", self.language)
    }
}

/// All that `examples` holds, side by side: most of a first build is waiting.
fn build_all() -> Vec<Example> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut languages: Vec<_> = folders
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    languages.sort();
    assert_eq!(languages, ["go", "java", "python", "typescript"]);
    std::thread::scope(|scope| {
        let builds: Vec<_> = languages
            .iter()
            .map(|language| scope.spawn(|| Example::build(language)))
            .collect();
        builds
            .into_iter()
            .map(|build| build.join().unwrap())
            .collect()
    })
}

/// What is cut in the middle.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// What the client is told.
    Client,
    /// What the agent reports.
    Reports,
    /// What the agent is told to do.
    Assignment,
}

impl Cut {
    /// Bytes behind which it comes, for a text of 60 lines: after the first words and
    /// before the last, whatever the language frames them in.
    fn places(self) -> (usize, usize) {
        match self {
            Cut::Client => (300, 2_700),
            Cut::Reports => (200, 1_700),
            Cut::Assignment => (10, 1_000),
        }
    }
}

/// Waits until so many hosts have registered.
async fn until_hosted(runtime: &Runtime, hosts: usize) {
    let started = std::time::Instant::now();
    while runtime.log().matches("a host is connected").count() < hosts {
        let waited = started.elapsed().as_secs();
        assert!(waited < 60, "not {hosts} hosts\n{}", runtime.log());
        tokio::task::yield_now().await;
    }
}

async fn jobs_of(observer: &mut Peer, agent: &str) -> Vec<String> {
    let list = proto::SessionListJobs {
        agent: agent.into(),
        ..Default::default()
    };
    observer.send("", Payload::SessionListJobs(list)).await;
    loop {
        if let Some(Payload::SessionJobs(list)) = observer.next().await.payload {
            return list.jobs.into_iter().map(|job| job.job_id).collect();
        }
    }
}

/// What another session of the principal saw of a job: its progress and its result.
fn seen(envelopes: &[proto::Envelope]) -> (Vec<String>, String) {
    assert_eq!(
        seqs(envelopes),
        (1..=envelopes.len() as u64).collect::<Vec<_>>()
    );
    let (mut progress, mut calls, mut results, mut chunks) = (vec![], vec![], vec![], vec![]);
    let (terminal, events) = envelopes.split_last().unwrap();
    for envelope in events {
        let Some(Payload::JobEvent(event)) = &envelope.payload else {
            panic!("{envelope:?} before the terminal");
        };
        match event.body.clone().unwrap() {
            Body::Progress(now) => progress.push((now.current, now.total.unwrap())),
            Body::ToolCall(call) => calls.push(call.call_id),
            Body::ToolResult(result) => results.push(result.call_id),
            Body::ResultChunk(chunk) => chunks.push(chunk),
            Body::Log(_) | Body::Status(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(progress.is_sorted_by(|a, b| a.0 < b.0), "{progress:?}");
    assert_eq!(
        progress.last().map(|last| last.0),
        progress.last().map(|last| last.1)
    );
    assert!(
        calls.len() == 1 && calls == results,
        "{calls:?} {results:?}"
    );
    assert!(
        chunks
            .iter()
            .map(|chunk| chunk.chunk_seq)
            .eq(0..chunks.len() as u64)
    );
    assert!(
        matches!(terminal.payload, Some(Payload::JobResult(_))),
        "{terminal:?}"
    );
    let progress = progress
        .iter()
        .map(|(now, total)| format!("progress {now}/{total}"));
    (
        progress.collect(),
        chunks.into_iter().map(|chunk| chunk.data).collect(),
    )
}

/// One client against one agent, a connection cut after so many bytes.
async fn play(
    client: &Example,
    agent: &Example,
    agents_proxy: &Proxy,
    address: &str,
    (what, bytes): (Cut, usize),
    text: &Path,
) {
    let name = agent.hosted();
    let about = format!(
        "{} against {name}, {what:?} cut after {bytes}",
        client.language
    );
    let mut observer = Peer::connect(address, ALICE).await;
    let before = jobs_of(&mut observer, &name).await;
    let clients_proxy = Proxy::start(address).await;
    let cut = match what {
        Cut::Client => clients_proxy.cut_after_answers(bytes),
        Cut::Reports => agents_proxy.cut_after_requests(bytes),
        Cut::Assignment => agents_proxy.cut_after_answers(bytes),
    };
    let line = format!("{} {name} '{}' 10", client.client, text.display());
    let mut command = client.command(line, &clients_proxy.address, ALICE);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    clients_proxy.dialled().await;
    let job = loop {
        let jobs = jobs_of(&mut observer, &name).await;
        if let Some(job) = jobs.into_iter().find(|job| !before.contains(job)) {
            break job;
        }
        tokio::task::yield_now().await;
    };
    let all = proto::JobSubscribe {
        history: true,
        ..Default::default()
    };
    observer.send(&job, Payload::JobSubscribe(all)).await;
    let (progress, result) = seen(&observer.until_terminal().await);

    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("{about}: no end"))
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{about}\n{said}");
    assert!(cut.is_done(), "{about}: the stream was over before\n{said}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        result.clone() + "\n",
        "{about}"
    );
    let result: serde_json::Value = serde_json::from_str(&result).unwrap();
    let wanted = serde_json::json!({ "lines": 60, "words": 180, "bytes": 1020 });
    assert_eq!(result, wanted, "{about}");
    // Nothing is missed and nothing is seen twice by the client either.
    let printed = said
        .lines()
        .filter_map(|line| line.find("progress ").map(|at| &line[at..]));
    assert!(printed.eq(progress), "{about}\n{said}");
    // And no job ran twice.
    assert_eq!(
        jobs_of(&mut observer, &name).await.len(),
        before.len() + 1,
        "{about}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_works_with_every_agent_through_a_cut_connection() {
    let examples = build_all();
    let dir = tempfile::tempdir().unwrap();
    let toml = "[[hosting]]\nprincipal = \"bob\"\nagents = [\"word-count-*\"]\n";
    let runtime = Runtime::start_with(dir.path(), toml);
    let text = dir.path().join("text");
    std::fs::write(&text, "three words more\n".repeat(60)).unwrap();
    let mut hosts = Vec::new();
    for example in &examples {
        let proxy = Proxy::start(&runtime.address).await;
        let mut command = example.command(example.agent.clone(), &proxy.address, BOB);
        let log = std::fs::File::create(dir.path().join(example.hosted())).unwrap();
        hosts.push((example, proxy, command.stderr(log).spawn().unwrap()));
    }
    until_hosted(&runtime, hosts.len()).await;

    // Each pair is cut somewhere else, at the same places in every run: for each client
    // and for each agent from the beginning to the end.
    let of = examples.len();
    let of_agents = hosts.iter().enumerate().map(|(index, (agent, proxy, _))| {
        let (examples, address, text) = (&examples, &runtime.address, &text);
        async move {
            for (turn, client) in examples.iter().enumerate() {
                for what in [Cut::Client, Cut::Reports, Cut::Assignment] {
                    let nth = match what {
                        Cut::Client => index * of + turn,
                        Cut::Reports | Cut::Assignment => turn * of + index,
                    };
                    let (first, last) = what.places();
                    let place = first + (last - first) * nth / (of * of);
                    play(client, agent, proxy, address, (what, place), text).await;
                }
            }
        }
    });
    futures_util::future::join_all(of_agents).await;
}
