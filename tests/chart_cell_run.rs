//! What the chart renders of a cell, run: replicas with its configuration on real servers
//! of NATS, and the commands of its jobs.

mod support;

use serde_json::json;
use support::buf::said;
use support::helm::*;
use support::mounted::Mounted;
use support::nats::Nats;
use support::pki::Pki;
use support::*;

/// A release of three replicas, and no more said than is needed.
const THREE: &str =
    "replicas=3,cluster.nats.url=nats://nats:4222,cluster.nats.existingSecret=arcpd-nats";
const NATS_VALUES: &str = include_str!("../helm/arcpd/examples/nats-values.yaml");
const PASSWORD: &str = "p0123456789";

/// The configuration that NATS' chart makes of the example's values: JSON, but for what
/// is between `<<` and `>>`.
fn nats_configuration() -> String {
    let values = objects(NATS_VALUES).remove(0);
    let merged = values["config"]["merge"].as_object().unwrap();
    let lines = merged
        .iter()
        .map(|(key, value)| format!("{key}: {value}\n"));
    let text: String = lines.collect();
    let variable = format!("'{PASSWORD}'");
    text.replace("\"<< $ARCPD_NATS_PASSWORD >>\"", &variable)
        .replace("\"<< ", "")
        .replace(" >>\"", "")
}

/// The two files of the documentation that go together, and a real server in between.
#[tokio::test]
async fn a_cell_runs_on_the_nats_of_the_example_and_takes_the_job_of_helm_test() {
    let nats = Nats::single_with(&nats_configuration());
    let url = format!("cluster.nats.url={}", nats.url());
    let own = "cluster.replication=1,config.demo_agents=true";
    let args = ["--set", THREE, "--set", &url, "--set", own];
    let cell = Mounted::new(&args, &[("nats-login", "password", PASSWORD)]);
    let replicas = cell.two().await;
    let pod = &object(&cell.objects, "Pod", "arcpd-test")["spec"];
    for replica in &replicas {
        let services = [
            ("arcpd-admin.agents.svc:7778", &*replica.admin),
            ("arcpd.agents.svc:7777", &replica.address),
        ];
        let ready = contained(&pod["initContainers"][0], &services, ALICE);
        assert!(ready.status.success(), "{}", said(&ready));
        let submitted = contained(&pod["containers"][0], &services, ALICE);
        assert!(submitted.status.success(), "{}", said(&submitted));
        assert_eq!(submitted.stdout, b"\"a job from helm test\"\n");
    }
}

#[tokio::test]
async fn replicas_show_a_token_and_a_certificate_to_servers_that_they_check() {
    let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
    let (cert, key, ca) = pki.write(dir.path());
    let (cert, key, ca) = (cert.display(), key.display(), ca.display());
    let nats = Nats::single_with(&format!(
        "authorization {{ token: '{PASSWORD}' }}\n\
         tls {{ cert_file: '{cert}', key_file: '{key}', ca_file: '{ca}', verify: true }}\n"
    ));
    let url = nats.url().replace("nats://", "tls://");
    let values = format!(
        "{THREE},cluster.nats.url={url},cluster.replication=1,cluster.nats.login=token,\
         cluster.nats.tls.ca.existingSecret=a,cluster.nats.tls.clientCertificate.existingSecret=b"
    );
    let cell = Mounted::new(
        &["--set", &values],
        &[
            ("nats-login", "token", PASSWORD),
            ("nats-ca", "ca.crt", &pki.ca_pem),
            ("nats-client", "tls.crt", &pki.cert_pem),
            ("nats-client", "tls.key", &pki.key_pem),
        ],
    );
    cell.two().await;
}

/// That such a file signs in is seen in `cluster_secure.rs`.
#[test]
fn a_credentials_file_is_read_where_it_is_mounted() {
    let nats = Nats::single();
    let values = format!(
        "{THREE},cluster.nats.url={},cluster.nats.login=credentials",
        nats.url()
    );
    let cell = Mounted::new(
        &["--set", &values],
        &[("nats-login", "credentials", "no JWT at all")],
    );
    let output = cell.replica("arcpd-0").output().unwrap();
    assert!(!output.status.success());
    let why = said(&output);
    assert!(
        why.contains("cluster.credentials_file: has no JWT"),
        "{why}"
    );
}

/// And removes what is more than is to be kept.
#[tokio::test]
async fn the_job_of_the_backup_example_writes_what_a_running_cell_has() {
    let nats = Nats::single();
    let url = format!("cluster.nats.url={}", nats.url());
    let own = "cluster.replication=1,config.demo_agents=true,backup.keep=1";
    let example = format!("{CHART}/examples/backup.yaml");
    let args = ["--values", &example, "--set", &url, "--set", own];
    let cell = Mounted::new(&args, &[("nats-login", "password", PASSWORD)]);
    let [replica, _other] = cell.two().await;
    let mut peer = Peer::connect(&replica.address, ALICE).await;
    for night in ["monday", "tuesday"] {
        peer.submit("echo", json!(1)).await;
        peer.until_terminal().await;
        let job = object(&cell.objects, "CronJob", "arcpd-backup");
        let container = &pod(job).unwrap()["containers"][0];
        let exported = cell.run(container, night);
        assert!(exported.status.success(), "{}", said(&exported));
        let jobs = if night == "monday" {
            "1 jobs"
        } else {
            "2 jobs"
        };
        assert!(said(&exported).contains(jobs), "{}", said(&exported));
        assert!(cell.path(&format!("backup/{night}.arcpd")).exists());
    }
    assert!(!cell.path("backup/monday.arcpd").exists());
}

#[tokio::test]
async fn the_job_of_the_move_example_takes_a_session_from_one_pod_into_a_cell() {
    let nats = Nats::single();
    let url = format!("cluster.nats.url={}", nats.url());
    let own = "cluster.replication=1,config.demo_agents=true";
    let example = format!("{CHART}/examples/move.yaml");
    let args = ["--values", &example, "--set", &url, "--set", own];
    let cell = Mounted::new(&args, &[("nats-login", "password", PASSWORD)]);

    let one = Runtime::start(&cell.path("old/store"));
    let mut peer = Peer::connect(&one.address, ALICE).await;
    peer.submit("echo", json!(1)).await;
    let last = peer.until_terminal().await.last().unwrap().event_seq;
    let (session, mut token) = (peer.session_id.clone(), peer.resume_token.clone());
    drop(peer);
    assert!(one.terminate().await.success());

    let job = pod(object(&cell.objects, "Job", "arcpd-move")).unwrap();
    for container in [&job["initContainers"][0], &job["containers"][0]] {
        let done = cell.run(container, "move");
        assert!(done.status.success(), "{}", said(&done));
    }
    let replicas = cell.two().await;
    for replica in &replicas {
        let resumed = Peer::resume(&replica.address, ALICE, &session, &token, last).await;
        let mut peer = resumed.welcomed().await;
        peer.submit("echo", json!(2)).await;
        peer.until_terminal().await;
        token = peer.resume_token.clone();
    }
}

#[tokio::test]
async fn the_job_of_the_restore_example_makes_a_new_cell_of_a_backup() {
    let nats = Nats::single();
    let url = format!("cluster.nats.url={}", nats.url());
    let own = "cluster.replication=1,config.demo_agents=true";
    let login = [("nats-login", "password", PASSWORD)];
    let of = |example: &str| {
        let example = format!("{CHART}/examples/{example}.yaml");
        Mounted::new(&["--values", &example, "--set", &url, "--set", own], &login)
    };
    let lost = of("backup");
    let [replica, other] = lost.two().await;
    let mut peer = Peer::connect(&replica.address, ALICE).await;
    peer.submit("echo", json!(1)).await;
    let last = peer.until_terminal().await.last().unwrap().event_seq;
    let (session, token) = (peer.session_id.clone(), peer.resume_token.clone());
    let job = object(&lost.objects, "CronJob", "arcpd-backup");
    let exported = lost.run(&pod(job).unwrap()["containers"][0], "1");
    assert!(exported.status.success(), "{}", said(&exported));
    drop((peer, replica, other));

    let cell = of("restore");
    std::fs::copy(lost.path("backup/1.arcpd"), cell.path("backup/1.arcpd")).unwrap();
    let job = pod(object(&cell.objects, "Job", "arcpd-restore")).unwrap();
    let done = cell.run(&job["containers"][0], "restore");
    assert!(done.status.success(), "{}", said(&done));
    let [replica, _other] = cell.two().await;
    let resumed = Peer::resume(&replica.address, ALICE, &session, &token, last).await;
    let mut peer = resumed.welcomed().await;
    peer.submit("echo", json!(2)).await;
    peer.until_terminal().await;
}
