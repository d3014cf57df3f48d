//! How spans leave: every `OTEL_*` variable of `docs/observability.md`.

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use arcpd::wire::proto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use support::collector::{Answer, Collector, Seen};
use support::jobs::{connect, of};
use support::*;

const BOTH: [&str; 2] = ["grpc", "http/protobuf"];
const DROPPED: &str = "arcpd_telemetry_spans_dropped_total";
const EXPORT_TIMEOUT: &str = "OTEL_BSP_EXPORT_TIMEOUT";

type Set<'a> = &'a [(&'a str, &'a str)];

/// A runtime with these variables and no others of their kind.
fn with(dir: &Path, set: Set<'_>) -> Runtime {
    Runtime::spawn(serve(dir).envs(set.iter().copied()))
}

/// Runs a job of a caller that samples or not, and all of the runtime to its end.
async fn one_job(runtime: Runtime, flags: &str) -> proto::Job {
    let mut jobs = connect(&runtime, ALICE).await;
    let mut request = tonic::Request::new(of("echo", json!(1)));
    if !flags.is_empty() {
        let trace = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        request
            .metadata_mut()
            .insert("traceparent", trace.parse().unwrap());
    }
    let job = jobs
        .submit_job(request)
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap();
    ended(&mut jobs, &job.job_id).await;
    drop(jobs);
    assert!(runtime.terminate().await.success());
    job
}

async fn ended(jobs: &mut support::jobs::Jobs, job_id: &str) {
    let watch = proto::WatchJobRequest {
        job_id: job_id.into(),
        ..Default::default()
    };
    let mut watch = jobs.watch_job(watch).await.unwrap().into_inner();
    while watch.message().await.unwrap().is_some() {}
}

/// What a collector got of one job under some variables.
async fn exported(protocol: &str, set: Set<'_>, flags: &str) -> (Collector, Vec<Seen>) {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let mut command = serve(dir.path());
    command
        .envs(collector.env(protocol))
        .envs(set.iter().copied());
    one_job(Runtime::spawn(&mut command), flags).await;
    let spans = collector.spans();
    (collector, spans)
}

#[tokio::test]
async fn the_exporter_and_the_whole_can_be_switched_off() {
    for (name, value) in [
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_SDK_DISABLED", "true"),
    ] {
        let (collector, spans) = exported("grpc", &[(name, value)], "01").await;
        assert!(spans.is_empty() && collector.batches().is_empty(), "{name}");
    }
    let (_, spans) = exported("grpc", &[("OTEL_TRACES_EXPORTER", "otlp")], "01").await;
    assert_eq!(spans.len(), 2);
}

#[tokio::test]
async fn a_signals_own_endpoint_is_used_as_it_is_and_the_configurations_for_want_of_one() {
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let own = format!("{}/own/path", collector.url);
    let runtime = with(
        dir.path(),
        &[
            // Nobody is there.
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &own),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ],
    );
    one_job(runtime, "").await;
    assert_eq!(collector.spans().len(), 2);

    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let toml = format!("[telemetry]\notlp_endpoint = \"{}\"\n", collector.url);
    one_job(Runtime::start_with(dir.path(), &toml), "").await;
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn headers_and_compression_are_as_said_over_both_protocols() {
    for (protocol, encoding) in [
        ("grpc", "grpc-encoding"),
        ("http/protobuf", "content-encoding"),
    ] {
        let set = [
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-for=all"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-key=k%201,x-other=2"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ];
        let (collector, spans) = exported(protocol, &set, "").await;
        assert_eq!(spans.len(), 2);
        for headers in collector.headers() {
            assert_eq!(headers["x-key"], "k 1");
            assert_eq!(headers["x-other"], "2");
            assert!(!headers.contains_key("x-for"), "the signal's own go before");
            assert_eq!(headers[encoding], "gzip");
        }
        let (collector, _) = exported(protocol, &[], "").await;
        assert!(!collector.headers()[0].contains_key(encoding));
    }
}

#[tokio::test]
async fn a_service_and_its_resource_are_named() {
    let attributes = "deployment.environment.name=test%2Fa,service.name=no";
    let set = [
        ("OTEL_RESOURCE_ATTRIBUTES", attributes),
        ("OTEL_SERVICE_NAME", "agents"),
    ];
    let (collector, spans) = exported("http/protobuf", &set, "").await;
    assert!(spans.iter().all(|span| span.service == "agents"));
    let raw = collector.raw();
    assert!(raw.contains("deployment.environment.name") && raw.contains("test/a"));
}

#[tokio::test]
async fn each_sampler_decides_as_its_name_says() {
    // By the sampler, its argument and the caller's flags: whether there are spans.
    for (sampler, argument, flags, recorded) in [
        ("always_on", "", "00", true),
        ("always_off", "", "01", false),
        ("traceidratio", "1", "00", true),
        ("traceidratio", "0", "01", false),
        ("parentbased_always_on", "", "00", false),
        ("parentbased_always_on", "", "", true),
        ("parentbased_always_off", "", "01", true),
        ("parentbased_always_off", "", "", false),
        ("parentbased_traceidratio", "0", "", false),
        ("parentbased_traceidratio", "1", "", true),
    ] {
        let set = [
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_TRACES_SAMPLER_ARG", argument),
        ];
        let (_, spans) = exported("http/protobuf", &set, flags).await;
        assert_eq!(
            !spans.is_empty(),
            recorded,
            "{sampler} {argument} {flags:?}"
        );
    }
}

#[tokio::test]
async fn batches_are_no_larger_than_said_and_wait_no_longer() {
    let set = [
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
    ];
    let (collector, spans) = exported("grpc", &set, "").await;
    assert_eq!((collector.batches(), spans.len()), (vec![1, 1], 2));
    // Of the two only the submit is urgent; the run comes when the delay is over.
    let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
    let mut command = serve(dir.path());
    command.envs(collector.env("grpc"));
    let runtime = Runtime::spawn(command.env("OTEL_BSP_SCHEDULE_DELAY", "100"));
    let mut jobs = connect(&runtime, ALICE).await;
    let job = jobs.submit_job(of("echo", json!(1))).await.unwrap();
    collector
        .run_of(&job.into_inner().job.unwrap().job_id)
        .await;
}

#[tokio::test]
async fn one_try_is_as_long_as_said_and_another_follows() {
    for protocol in BOTH {
        let (collector, dir) = (Collector::start().await, tempfile::tempdir().unwrap());
        collector.set(Answer::Hangs);
        let mut command = serve(dir.path());
        command
            .envs(collector.env(protocol))
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", "50")
            .env(EXPORT_TIMEOUT, "60000");
        let runtime = Runtime::spawn(&mut command);
        let mut jobs = connect(&runtime, ALICE).await;
        let job = jobs.submit_job(of("echo", json!(1))).await.unwrap();
        let job_id = job.into_inner().job.unwrap().job_id;
        collector
            .until(|seen| (seen.batches().len() >= 3).then_some(()))
            .await;
        // It was slow, and nothing is lost.
        collector.set(Answer::Takes);
        collector.run_of(&job_id).await;
        assert_eq!(runtime.metric(DROPPED), 0, "{protocol}");
    }
}

/// A collector with a certificate, that wants one of its clients; the files for those.
async fn secure(dir: &Path) -> (Collector, [PathBuf; 3]) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    let address = "127.0.0.1".parse().unwrap();
    params.subject_alt_names = vec![SanType::IpAddress(address)];
    let cert = params.signed_by(&key, &issuer).unwrap();
    let files = ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.join(name));
    for (path, text) in files
        .iter()
        .zip([ca.pem(), cert.pem(), key.serialize_pem()])
    {
        std::fs::write(path, text).unwrap();
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let chain = vec![CertificateDer::from_pem_file(&files[1]).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&files[2]).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (Collector::secure(Arc::new(config).into()).await, files)
}

#[tokio::test]
async fn certificates_are_those_of_the_files_over_both_protocols() {
    for protocol in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let (collector, [ca, cert, key]) = secure(dir.path()).await;
        let mut command = serve(dir.path());
        command
            .envs(collector.env(protocol))
            .env("OTEL_METRICS_EXPORTER", "none")
            .env("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca)
            .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &cert)
            .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key);
        one_job(Runtime::spawn(&mut command), "").await;
        assert_eq!(collector.spans().len(), 2, "{protocol}");

        // Without one of its own it is not let in, and without the CA it does not ask.
        let own = [
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        ];
        for missing in [&own[..], &["OTEL_EXPORTER_OTLP_CERTIFICATE"]] {
            let dir = tempfile::tempdir().unwrap();
            command = serve(dir.path());
            command
                .envs(collector.env(protocol))
                .env("OTEL_METRICS_EXPORTER", "none")
                .env("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca)
                .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &cert)
                .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key)
                .env(EXPORT_TIMEOUT, "1000")
                .env(EXPORT_TIMEOUT, "1000");
            for name in missing {
                command.env_remove(name);
            }
            one_job(Runtime::spawn(&mut command), "").await;
            assert_eq!(collector.spans().len(), 2, "{protocol} without {missing:?}");
        }
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_used_stops_the_start_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret-without-a-key"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a%20b c=secret"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_TRACES_EXPORTER", "jaeger"),
        ("OTEL_TRACES_SAMPLER", "mostly"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "-1"),
    ] {
        let mut command = serve(dir.path());
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
        let command = command.env(name, value).stderr(Stdio::piped());
        let out = command.output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(
            !out.status.success() && said.contains(name),
            "{name}={value}: {said}"
        );
        assert!(!said.contains("secret"), "{said}");
    }
}

/// What was no certificate was taken for one, and what could not be read was told
/// without the variable that names it.
#[tokio::test]
async fn a_file_without_a_certificate_was_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let (_, [_, cert, key]) = secure(dir.path()).await;
    let text = dir.path().join("text");
    std::fs::write(&text, "no certificate").unwrap();
    let (ca, of_client, its_key) = (
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    );
    for protocol in BOTH {
        for (wrong, file) in [
            (ca, &*text),
            (ca, Path::new("/nope")),
            (of_client, &text),
            (its_key, &text),
            (its_key, &cert),
        ] {
            let mut command = serve(dir.path());
            command
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")
                .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
                .env(of_client, &cert)
                .env(its_key, &key)
                .env(wrong, file);
            let out = command.stderr(Stdio::piped()).output().unwrap();
            let said = String::from_utf8(out.stderr).unwrap();
            assert!(
                !out.status.success() && said.contains(&format!("arcpd: {wrong}: ")),
                "{protocol} {wrong} {file:?}: {said}"
            );
        }
    }
}

#[tokio::test]
async fn a_runtime_that_is_neither_disabled_nor_enabled_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = with(dir.path(), &[("OTEL_SDK_DISABLED", "yes")]);
    runtime.until_logged("OTEL_SDK_DISABLED: is neither").await;
}

/// So many jobs, one after the other, as a client sees them.
/// A variable that is documented and that no test names is one that nobody tried.
#[test]
fn every_variable_of_the_table_is_tried() {
    let table = include_str!("../docs/observability.md");
    let tests = [
        include_str!("traces_collector.rs"),
        include_str!("traces_export.rs"),
        include_str!("metrics.rs"),
        include_str!("../src/telemetry/env/tests.rs"),
        include_str!("support/collector.rs"),
    ]
    .concat();
    let rows = table.lines().filter(|line| line.starts_with("| `OTEL_"));
    let names = rows.flat_map(|row| row.split('`').filter(|part| part.starts_with("OTEL_")));
    let mut count = 0;
    for name in names {
        assert!(tests.contains(&format!("\"{name}\"")), "{name}");
        count += 1;
    }
    assert_eq!(count, 21);
}
