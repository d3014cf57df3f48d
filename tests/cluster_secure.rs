//! NATS servers that ask who a replica is, and that show who they are: real servers,
//! each way of signing in, right and wrong.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use support::nats::Nats;
use support::pki::Pki;
use support::ws::Ws;
use support::*;

const PASSWORD: &str = "a-password-that-is-not-printed";
/// What it reads the log by.
const CONSUMER: &str = "$JS.API.CONSUMER.*.ARCP_LOG_arcpd";
/// For servers that were started again and what is found out of them.
const WITHIN: Duration = Duration::from_secs(60);
const DOCUMENTED: &str = include_str!("../docs/cluster.md");

/// A replica with more under `[cluster]`.
fn replica(dir: &Path, servers: &str, more: &str) -> Command {
    let path = dir.join("arcpd.toml");
    let toml = format!("[cluster]\nservers = '{servers}'\nreplication = 1\n{more}");
    std::fs::write(&path, toml).unwrap();
    let mut command = serve(&dir.join("data"));
    command.arg("--config").arg(path);
    command
}

/// What it says when it does not start.
fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn serves(mut command: Command) -> Runtime {
    let runtime = Runtime::spawn(&mut command);
    let mut client = Ws::connect(&runtime, ALICE).await;
    client.submit("echo", json!(1)).await;
    client.until_terminal().await;
    runtime
}

fn secret(dir: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn tls_url(nats: &Nats) -> String {
    nats.url().replace("nats://", "tls://")
}

/// The `authorization` block that the documentation gives.
fn documented() -> String {
    let block = DOCUMENTED
        .split_once("```text\nauthorization")
        .expect("it")
        .1;
    let block = block.split_once("```").expect("its end").0;
    format!("authorization{block}").replace("$NATS_PASSWORD", PASSWORD)
}

/// What the documentation lets a replica do is all it needs.
#[tokio::test]
async fn a_password_lets_a_replica_in_and_a_wrong_one_is_named_by_its_setting() {
    let (nats, dir) = (
        Nats::single_with(&documented()),
        tempfile::tempdir().unwrap(),
    );
    let dir = dir.path();
    let why = refused(replica(dir, &nats.url(), ""));
    assert!(why.contains("cluster.credentials_file"), "{why}");
    let wrong = secret(dir, "wrong", "not-the-password");
    let more = format!("user = 'arcpd'\npassword_file = '{wrong}'\n");
    let why = refused(replica(dir, &nats.url(), &more));
    assert!(why.contains("cluster.password_file"), "{why}");
    assert!(!why.contains("not-the-password"), "{why}");

    let right = secret(dir, "right", &format!("{PASSWORD}\n"));
    let more = format!("user = 'arcpd'\npassword_file = '{right}'\n");
    let mut command = replica(dir, &nats.url(), &more);
    let runtime = serves({
        command.env("RUST_LOG", "debug");
        command
    })
    .await;
    assert!(!runtime.log().contains(PASSWORD));
}

/// It heard nobody, gave up those that were well each 3 s, and was ready all the while.
#[tokio::test]
async fn a_replica_that_may_not_hear_of_others_says_so_and_gives_nobody_up() {
    let user = format!(
        "users: [{{ user: deaf, password: '{PASSWORD}', permissions: {{ publish: '>', \
         subscribe: {{ deny: ['arcp.arcpd.presence'] }} }} }}, {{"
    );
    let authorization = documented().replace("users: [{", &user);
    assert!(authorization.contains("deaf"));
    let nats = Nats::single_with(&authorization);
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [hears, deaf] = [("arcpd", &dirs[0]), ("deaf", &dirs[1])].map(|(user, dir)| {
        let file = secret(dir.path(), "password", PASSWORD);
        let more = format!("user = '{user}'\npassword_file = '{file}'\n");
        Runtime::spawn(&mut replica(dir.path(), &nats.url(), &more))
    });
    deaf.until_logged("does not come back").await;
    for runtime in [&hears, &deaf] {
        let mut client = Ws::connect(runtime, ALICE).await;
        client.submit("echo", json!(1)).await;
        client.until_terminal().await;
    }
    assert_eq!(deaf.metric("arcpd_cluster_takeovers_total"), 0);
}

/// What is documented, without one of its lines.
fn documented_without(permission: &str) -> String {
    let block = documented();
    let line = format!("\"{permission}\"\n");
    let (before, after) = block.split_once(&line).expect("the line");
    format!("{before}{after}")
}

/// Waits until `/readyz` answers so.
async fn until_ready_says(runtime: &Runtime, wanted: impl Fn(u16, &str) -> bool) {
    let since = Instant::now();
    loop {
        let (status, why) = runtime.admin_get("/readyz");
        if wanted(status, &why) {
            return;
        }
        assert!(since.elapsed() < WITHIN, "{status} {why}");
        look_again().await;
    }
}

/// The right was taken from its user while it ran. It was not ready and did not say for
/// what, but in lines of the client library at each attempt.
#[tokio::test]
async fn a_right_that_a_replica_has_lost_is_named_where_it_says_that_it_is_not_ready() {
    let mut nats = Nats::single_with(&documented());
    let dir = tempfile::tempdir().unwrap();
    let file = secret(dir.path(), "password", PASSWORD);
    let more = format!("user = 'arcpd'\npassword_file = '{file}'\n");
    let runtime = serves(replica(dir.path(), &nats.url(), &more)).await;
    nats.kill9();
    nats.reconfigure(&documented_without(CONSUMER));
    nats.restart();
    let named = "publish to $JS.API.CONSUMER.CREATE.ARCP_LOG_arcpd";
    until_ready_says(&runtime, |status, why| status == 503 && why.contains(named)).await;
    // Asked for again and again, and said once.
    let refusals = |log: &str| log.matches("Permissions Violation").count();
    let since = Instant::now();
    while refusals(&runtime.log()) < 5 {
        assert!(since.elapsed() < WITHIN, "{}", runtime.log());
        look_again().await;
    }
    let log = runtime.log();
    let warned = log
        .lines()
        .filter(|line| line.contains("WARN") && line.contains(named));
    assert_eq!(warned.count(), 1, "{log}");
    nats.kill9();
    nats.reconfigure(&documented());
    nats.restart();
    until_ready_says(&runtime, |status, _| status == 200).await;
}

#[tokio::test]
async fn a_right_that_a_replica_has_not_is_named_where_it_does_not_start() {
    for (without, named) in [
        (
            "$JS.API.STREAM.INFO.ARCP_LOG_arcpd",
            "publish to $JS.API.STREAM.INFO.ARCP_LOG_arcpd",
        ),
        (
            "$JS.API.CONSUMER.MSG.NEXT.ARCP_LOG_arcpd.>",
            "publish to $JS.API.CONSUMER.MSG.NEXT.ARCP_LOG_arcpd.>",
        ),
        ("arcp.arcpd.>", "publish to arcp.arcpd.log"),
    ] {
        let nats = Nats::single_with(&documented_without(without));
        let dir = tempfile::tempdir().unwrap();
        let file = secret(dir.path(), "password", PASSWORD);
        let more = format!("user = 'arcpd'\npassword_file = '{file}'\n");
        let why = refused(replica(dir.path(), &nats.url(), &more));
        let reason = why.lines().find(|line| line.starts_with("arcpd: "));
        assert!(reason.is_some_and(|reason| reason.contains(named)), "{why}");
    }
}

#[tokio::test]
async fn a_token_lets_a_replica_in_and_a_wrong_one_is_named_by_its_setting() {
    let nats = Nats::single_with(&format!("authorization {{ token: '{PASSWORD}' }}\n"));
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let wrong = secret(dir, "wrong", "not-the-token");
    let why = refused(replica(
        dir,
        &nats.url(),
        &format!("token_file = '{wrong}'\n"),
    ));
    assert!(why.contains("cluster.token_file"), "{why}");
    let right = secret(dir, "right", PASSWORD);
    serves(replica(
        dir,
        &nats.url(),
        &format!("token_file = '{right}'\n"),
    ))
    .await;
}

/// Signed as `nsc` does.
fn jwt(by: &KeyPair, of: &KeyPair, nats: Value) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let claims = part(json!({
        "jti": of.public_key(), "iat": 1, "iss": by.public_key(), "sub": of.public_key(),
        "name": "tests", "nats": nats,
    }));
    let signed = format!("{head}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(by.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// As `nsc` writes it.
fn creds(account: &KeyPair) -> String {
    let user = KeyPair::new_user();
    let rights = json!({
        "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}, "type": "user", "version": 2,
    });
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt(account, &user, rights),
        user.seed().unwrap()
    )
}

#[tokio::test]
async fn a_credentials_file_lets_a_replica_in_and_one_of_another_account_does_not() {
    let operator = KeyPair::new_operator();
    let (system, account) = (KeyPair::new_account(), KeyPair::new_account());
    let all = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let signed = |of: &KeyPair, limits: Value| {
        let of_account = json!({ "limits": limits, "type": "account", "version": 2 });
        format!("{}: '{}'", of.public_key(), jwt(&operator, of, of_account))
    };
    // Without limits there is no JetStream, which the system's account may not have.
    let nats = Nats::single_with(&format!(
        "operator: '{}'\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}, {} }}\n",
        jwt(
            &operator,
            &operator,
            json!({ "type": "operator", "version": 2 })
        ),
        system.public_key(),
        signed(
            &system,
            json!({ "subs": -1, "data": -1, "payload": -1, "conn": -1 })
        ),
        signed(&account, all),
    ));
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (text, said) in [
        (
            creds(&KeyPair::new_account()),
            "check cluster.credentials_file",
        ),
        ("no JWT at all".into(), "cluster.credentials_file"),
    ] {
        let wrong = secret(dir, "wrong.creds", &text);
        let more = format!("credentials_file = '{wrong}'\n");
        let why = refused(replica(dir, &nats.url(), &more));
        assert!(why.contains(said), "{why}");
    }
    let right = secret(dir, "right.creds", &creds(&account));
    serves(replica(
        dir,
        &nats.url(),
        &format!("credentials_file = '{right}'\n"),
    ))
    .await;
}

#[tokio::test]
async fn servers_of_another_authority_are_refused_and_those_that_ask_for_a_certificate_get_it() {
    let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
    let (cert, key, ca) = pki.write(dir.path());
    let of_server = |verify| {
        let (cert, key, ca) = (cert.display(), key.display(), ca.display());
        format!(
            "tls {{ cert_file: '{cert}', key_file: '{key}', ca_file: '{ca}', verify: {verify} }}\n"
        )
    };
    let other = tempfile::tempdir().unwrap();
    let (other_cert, other_key, other_ca) = Pki::new().write(other.path());
    let trusts = |ca: &Path| format!("tls_ca_file = '{}'\n", ca.display());
    let shows = |cert: &Path, key: &Path| {
        let (cert, key) = (cert.display(), key.display());
        format!("tls_cert_file = '{cert}'\ntls_key_file = '{key}'\n")
    };

    let nats = Nats::single_with(&of_server(false));
    let why = refused(replica(dir.path(), &tls_url(&nats), &trusts(&other_ca)));
    assert!(why.contains("cluster.tls_ca_file"), "{why}");
    drop(serves(replica(dir.path(), &tls_url(&nats), &trusts(&ca))).await);

    let nats = Nats::single_with(&of_server(true));
    let at = tempfile::tempdir().unwrap();
    for more in [trusts(&ca), trusts(&ca) + &shows(&other_cert, &other_key)] {
        let why = refused(replica(at.path(), &tls_url(&nats), &more));
        assert!(why.contains("cluster.tls_cert_file"), "{why}");
    }
    let why = refused(replica(
        at.path(),
        &tls_url(&nats),
        &shows(&cert, &other_key),
    ));
    assert!(why.contains("do not go together"), "{why}");
    serves(replica(
        at.path(),
        &tls_url(&nats),
        &(trusts(&ca) + &shows(&cert, &key)),
    ))
    .await;
}

/// A server that speaks no TLS, in its place or in between, is not talked to.
#[tokio::test]
async fn a_tls_url_never_falls_back_to_plain_text() {
    let (nats, dir) = (Nats::single(), tempfile::tempdir().unwrap());
    let why = refused(replica(dir.path(), &tls_url(&nats), ""));
    assert!(why.contains("cannot reach tls://"), "{why}");
}
