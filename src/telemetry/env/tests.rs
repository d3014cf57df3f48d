use std::time::Duration;

use super::Config;
use crate::telemetry::otlp::Protocol;

fn read(set: &[(&str, &str)]) -> Result<Config, String> {
    Config::read(None, &|name| {
        let found = set.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn nothing_goes_out_unless_somebody_says_where_to() {
    let config = read(&[]).unwrap();
    assert!(config.traces.is_none() && config.metrics.is_none());
    let both = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")]).unwrap();
    assert_eq!(both.traces.unwrap().protocol, Protocol::Grpc);
    assert_eq!(both.metrics.unwrap().protocol, Protocol::Grpc);
    let own = Config::read(Some("http://127.0.0.1:4318"), &|_| None).unwrap();
    assert_eq!(own.traces.unwrap().protocol, Protocol::HttpProtobuf);
    let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    assert!(
        read(&[at, ("OTEL_SDK_DISABLED", "true")])
            .unwrap()
            .traces
            .is_none()
    );
    let none = read(&[at, ("OTEL_TRACES_EXPORTER", "none")]).unwrap();
    assert!(none.traces.is_none() && none.metrics.is_some());
    let pull = read(&[at, ("OTEL_METRICS_EXPORTER", "prometheus")]).unwrap();
    assert!(pull.traces.is_some() && pull.metrics.is_none());
}

#[test]
fn an_exporter_may_be_one_of_a_list() {
    let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    let metrics = |list| {
        read(&[at, ("OTEL_METRICS_EXPORTER", list)])
            .unwrap()
            .metrics
    };
    assert!(metrics("otlp,prometheus").is_some());
    assert!(metrics("prometheus, none").is_none());
}

/// It was half a second of a CPU for nothing, or every span dropped.
#[test]
fn a_timeout_of_zero_is_none_and_a_delay_of_zero_is_refused() {
    let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    let config = read(&[
        at,
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "0"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "0"),
    ])
    .unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(config.traces.unwrap().timeout, day);
    assert_eq!(
        (config.batch.export_timeout, config.metric_timeout),
        (day, day)
    );
}

/// The start was refused with the password, under another variable's name.
#[test]
fn a_refused_endpoint_is_told_by_its_name_without_its_password() {
    for name in [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ] {
        for url in [
            "ftp://u:hunter2@host",
            "u:hunter2@host",
            "http://u:hunter2@ho st",
        ] {
            let refused = read(&[(name, url)]).unwrap_err();
            assert!(refused.starts_with(&format!("{name}: ")), "{refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }
    let own = Config::read(Some("ftp://u:hunter2@host"), &|_| None).unwrap_err();
    assert!(own.starts_with("telemetry.otlp_endpoint: "), "{own}");
    assert!(!own.contains("hunter2"), "{own}");
}

#[test]
fn a_signals_own_variable_goes_before_the_one_for_all() {
    let config = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "https://traces/ingest",
        ),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=y"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "only=this"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
    ])
    .unwrap();
    let (traces, metrics) = (config.traces.unwrap(), config.metrics.unwrap());
    assert_eq!(traces.headers, [("only".into(), "this".into())]);
    assert_eq!(
        metrics.headers,
        [("api-key".into(), "a b".into()), ("x".into(), "y".into())]
    );
    assert!(traces.as_it_is && !metrics.as_it_is && traces.gzip && metrics.gzip);
    assert_eq!(metrics.timeout, Duration::from_millis(2_500));
    assert!(
        !format!("{metrics:?}").contains("a b"),
        "a header is a secret"
    );
}

#[test]
fn the_service_is_named_by_its_variable_first() {
    let attributes = "service.name=other,deployment.environment.name=test%2Fa";
    let config = read(&[
        ("OTEL_RESOURCE_ATTRIBUTES", attributes),
        ("OTEL_SERVICE_NAME", "agents"),
    ]);
    let resource = config.unwrap().resource;
    let of = |key: &str| {
        let found: Vec<_> = resource.iter().filter(|(known, _)| known == key).collect();
        assert_eq!(found.len(), 1, "{key}");
        found[0].1.clone()
    };
    assert_eq!(of("service.name"), "agents");
    assert_eq!(of("deployment.environment.name"), "test/a");
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    for wrong in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "no-value"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "soon"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        // The room for them is taken at once.
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1000000000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000000000000"),
        ("OTEL_METRICS_EXPORTER", "otlp,zipkin"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/a/certificate"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/a/key"),
    ] {
        let refused = read(&[at, wrong].map(|pair| if pair.0 == wrong.0 { wrong } else { pair }));
        let refused = refused.unwrap_err();
        assert!(refused.starts_with(wrong.0), "{refused}");
    }
}
