//! `OTEL_*` of the environment, by name; `docs/observability.md` has the table.
//!
//! Read through a function, so that tests need no environment. A value that cannot
//! be used is an error and stops the start: telemetry that silently goes nowhere is
//! found out when it is needed.

use std::time::Duration;

use super::otlp::{Endpoint, Protocol};
use super::pem::PemFile;
use super::sampler::Sampler;
use crate::masked::without_user_info;

/// A delay of less is a thread that never rests.
const DELAY_MS_MIN: u64 = 10;
const INTERVAL_MS_MIN: u64 = 100;
/// Of all times; also what a timeout of 0, no limit, comes to.
const MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// The room for them is taken at the start, some 400 bytes each.
const SPANS_MAX: usize = 100_000;

/// Where and how telemetry goes out; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub traces: Option<Endpoint>,
    pub metrics: Option<Endpoint>,
    pub resource: Vec<(String, String)>,
    pub sampler: Sampler,
    pub batch: Batch,
    pub metric_interval: Duration,
    /// Of one export of metrics.
    pub metric_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub schedule_delay: Duration,
    pub export_timeout: Duration,
    pub queue_max: usize,
    pub batch_max: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            schedule_delay: Duration::from_secs(5),
            export_timeout: Duration::from_secs(30),
            queue_max: 2_048,
            batch_max: 512,
        }
    }
}

type Get<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// `endpoint` is the configuration's own, for when the environment has none.
    pub fn from_env(endpoint: Option<&str>) -> Result<Self, String> {
        Self::read(endpoint, &|name| std::env::var(name).ok())
    }

    pub fn read(endpoint: Option<&str>, get: Get<'_>) -> Result<Self, String> {
        // An empty variable is one that is not set.
        let get: Get<'_> = &|name| get(name).filter(|value| !value.trim().is_empty());
        let resource = resource(get)?;
        if is_disabled(get) {
            return Ok(Self {
                resource,
                ..Self::default()
            });
        }
        let signal = |signal: &str| match is_exported(signal, get)? {
            true => endpoint_of(signal, endpoint, get),
            false => Ok(None),
        };
        let sampler = match get("OTEL_TRACES_SAMPLER") {
            Some(name) => Sampler::parse(&name, get("OTEL_TRACES_SAMPLER_ARG").as_deref())?,
            None => Sampler::default(),
        };
        let batch = Batch::default();
        Ok(Self {
            traces: signal("TRACES")?,
            metrics: signal("METRICS")?,
            resource,
            sampler,
            batch: Batch {
                schedule_delay: millis(
                    get,
                    "OTEL_BSP_SCHEDULE_DELAY",
                    DELAY_MS_MIN,
                    batch.schedule_delay,
                )?,
                export_timeout: timeout(get, "OTEL_BSP_EXPORT_TIMEOUT", batch.export_timeout)?,
                queue_max: spans(get, "OTEL_BSP_MAX_QUEUE_SIZE", batch.queue_max)?,
                batch_max: spans(get, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", batch.batch_max)?,
            },
            metric_interval: millis(
                get,
                "OTEL_METRIC_EXPORT_INTERVAL",
                INTERVAL_MS_MIN,
                Duration::from_secs(60),
            )?,
            metric_timeout: timeout(get, "OTEL_METRIC_EXPORT_TIMEOUT", Duration::from_secs(30))?,
        })
    }
}

/// The specification has one word for it, and all others for its contrary.
fn is_disabled(get: Get<'_>) -> bool {
    let value = get("OTEL_SDK_DISABLED").unwrap_or_default();
    let is = |word: &str| value.trim().eq_ignore_ascii_case(word);
    if !value.is_empty() && !is("true") && !is("false") {
        tracing::warn!(
            value,
            "OTEL_SDK_DISABLED: is neither true nor false, and so false"
        );
    }
    is("true")
}

/// A list of exporters, of which this runtime has one.
fn is_exported(signal: &str, get: Get<'_>) -> Result<bool, String> {
    let name = format!("OTEL_{signal}_EXPORTER");
    let list = get(&name).unwrap_or_else(|| "otlp".into());
    let mut exported = false;
    for exporter in list.split(',').map(str::trim) {
        match exporter {
            "otlp" => exported = true,
            "none" => {}
            // The admin port has them in any case.
            "prometheus" if signal == "METRICS" => {}
            other => return Err(format!("{name}: {other:?} is neither otlp nor none")),
        }
    }
    Ok(exported)
}

fn resource(get: Get<'_>) -> Result<Vec<(String, String)>, String> {
    let mut attributes = vec![
        ("service.name".into(), "arcpd".into()),
        ("service.version".into(), env!("CARGO_PKG_VERSION").into()),
        (
            "service.instance.id".into(),
            ulid::Ulid::generate().to_string(),
        ),
        ("process.pid".into(), std::process::id().to_string()),
        ("telemetry.sdk.name".into(), "arcpd".into()),
        ("telemetry.sdk.language".into(), "rust".into()),
    ];
    let mut set = |key: String, value: String| {
        attributes.retain(|(known, _)| *known != key);
        attributes.push((key, value));
    };
    let name = "OTEL_RESOURCE_ATTRIBUTES";
    for (key, value) in pairs(name, &get(name).unwrap_or_default())? {
        set(key, value);
    }
    if let Some(value) = get("OTEL_SERVICE_NAME") {
        set("service.name".into(), value);
    }
    Ok(attributes)
}

fn endpoint_of(signal: &str, own: Option<&str>, get: Get<'_>) -> Result<Option<Endpoint>, String> {
    // A signal's own variable goes before the one for all.
    let of = |name: &str| {
        let specific = format!("OTEL_EXPORTER_OTLP_{signal}_{name}");
        let general = format!("OTEL_EXPORTER_OTLP_{name}");
        match get(&specific) {
            Some(value) => Some((specific, value)),
            None => get(&general).map(|value| (general, value)),
        }
    };
    let (name, url) = match (of("ENDPOINT"), own) {
        (Some(set), _) => set,
        (None, Some(url)) => ("telemetry.otlp_endpoint".into(), url.to_owned()),
        (None, None) => return Ok(None),
    };
    let as_it_is = name.contains(signal);
    let uri = uri(&url).map_err(|why| format!("{name}: {:?} {why}", without_user_info(&url)))?;
    let protocol = match of("PROTOCOL") {
        Some((name, value)) => {
            Protocol::parse(&value).map_err(|error| format!("{name}: {error}"))?
        }
        // The registered port of one of the two.
        None if uri.port_u16() == Some(4317) => Protocol::Grpc,
        None => Protocol::HttpProtobuf,
    };
    let gzip = match of("COMPRESSION") {
        None => false,
        Some((_, value)) if value == "none" => false,
        Some((_, value)) if value == "gzip" => true,
        Some((name, value)) => return Err(format!("{name}: {value:?} is neither gzip nor none")),
    };
    let headers = match of("HEADERS") {
        Some((name, value)) => {
            let headers = pairs(&name, &value)?;
            let bad = |(key, value): &(String, String)| {
                http::HeaderName::try_from(key).is_err()
                    || http::HeaderValue::try_from(value).is_err()
            };
            match headers.iter().any(bad) {
                true => return Err(format!("{name}: has what cannot be a header")),
                false => headers,
            }
        }
        None => Vec::new(),
    };
    let timeout = match of("TIMEOUT") {
        Some((name, _)) => timeout(get, &name, Duration::ZERO)?,
        None => Duration::from_secs(10),
    };
    let pem = |name: &str| {
        of(name).map(|(variable, path)| PemFile {
            variable,
            path: path.into(),
        })
    };
    let (client_cert, client_key) = (pem("CLIENT_CERTIFICATE"), pem("CLIENT_KEY"));
    if let (Some(file), None) | (None, Some(file)) = (&client_cert, &client_key) {
        return Err(format!(
            "{}: a client certificate and its key need each other; give both or none",
            file.variable
        ));
    }
    Ok(Some(Endpoint {
        uri,
        as_it_is,
        protocol,
        gzip,
        headers,
        timeout,
        ca: pem("CERTIFICATE"),
        client_cert,
        client_key,
    }))
}

fn uri(url: &str) -> Result<http::Uri, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("is no URL: {error}"))?;
    match matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() {
        true => Ok(uri),
        false => Err("must be http:// or https:// and a host".into()),
    }
}

/// `key=value,key=value`, values percent-encoded.
fn pairs(name: &str, text: &str) -> Result<Vec<(String, String)>, String> {
    text.split(',')
        .filter(|pair| !pair.trim().is_empty())
        .map(|pair| {
            let (key, value) = pair
                .split_once('=')
                // The text may be a secret.
                .ok_or_else(|| format!("{name}: must be key=value,key=value"))?;
            let value = percent_encoding::percent_decode_str(value.trim());
            Ok((key.trim().into(), value.decode_utf8_lossy().into_owned()))
        })
        .collect()
}

fn millis(get: Get<'_>, name: &str, min: u64, default: Duration) -> Result<Duration, String> {
    let Some(value) = get(name) else {
        return Ok(default);
    };
    let ms = value.trim().parse().ok();
    let ms = ms.filter(|ms| (min..=MS_MAX).contains(ms));
    ms.map(Duration::from_millis)
        .ok_or_else(|| format!("{name}: must be milliseconds, {min} to {MS_MAX}"))
}

/// 0 is no limit, as the specification has it.
fn timeout(get: Get<'_>, name: &str, default: Duration) -> Result<Duration, String> {
    let limit = millis(get, name, 0, default)?;
    Ok(match limit.is_zero() {
        true => Duration::from_millis(MS_MAX),
        false => limit,
    })
}

fn spans(get: Get<'_>, name: &str, default: usize) -> Result<usize, String> {
    let Some(value) = get(name) else {
        return Ok(default);
    };
    let count = value.trim().parse().ok();
    count
        .filter(|count| (1..=SPANS_MAX).contains(count))
        .ok_or_else(|| format!("{name}: must be a number of spans, 1 to {SPANS_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let refused =
                read(&[at, wrong].map(|pair| if pair.0 == wrong.0 { wrong } else { pair }));
            let refused = refused.unwrap_err();
            assert!(refused.starts_with(wrong.0), "{refused}");
        }
    }
}
