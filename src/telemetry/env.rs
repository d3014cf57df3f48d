//! `OTEL_*` of the environment, by name; `docs/observability.md` has the table.
//!
//! Read through a function, so that tests need no environment. A value that cannot
//! be used is an error and stops the start: telemetry that silently goes nowhere is
//! found out when it is needed.

use std::path::PathBuf;
use std::time::Duration;

use super::otlp::{Endpoint, Protocol};
use super::sampler::Sampler;

/// Where and how telemetry goes out; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub traces: Option<Endpoint>,
    pub metrics: Option<Endpoint>,
    pub resource: Vec<(String, String)>,
    pub sampler: Sampler,
    pub batch: Batch,
    pub metric_interval: Duration,
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
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(Self {
                resource,
                ..Self::default()
            });
        }
        let signal = |signal: &str| match get(&format!("OTEL_{signal}_EXPORTER")).as_deref() {
            None | Some("otlp") => endpoint_of(signal, endpoint, get),
            Some("none") => Ok(None),
            // The admin port has them in any case.
            Some("prometheus") if signal == "METRICS" => Ok(None),
            Some(other) => Err(format!(
                "OTEL_{signal}_EXPORTER: {other:?} is neither otlp nor none"
            )),
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
                schedule_delay: millis(get, "OTEL_BSP_SCHEDULE_DELAY", batch.schedule_delay)?,
                export_timeout: millis(get, "OTEL_BSP_EXPORT_TIMEOUT", batch.export_timeout)?,
                queue_max: count(get, "OTEL_BSP_MAX_QUEUE_SIZE", batch.queue_max)?,
                batch_max: count(get, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", batch.batch_max)?,
            },
            metric_interval: millis(get, "OTEL_METRIC_EXPORT_INTERVAL", Duration::from_secs(60))?,
        })
    }
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
    let (url, as_it_is) = match (of("ENDPOINT"), own) {
        (Some((name, url)), _) => (url, name.contains(signal)),
        (None, Some(url)) => (url.to_owned(), false),
        (None, None) => return Ok(None),
    };
    let uri: http::Uri = url
        .parse()
        .map_err(|error| format!("OTEL_EXPORTER_OTLP_ENDPOINT: {url:?}: {error}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err(format!(
            "OTEL_EXPORTER_OTLP_ENDPOINT: {url:?} must be http:// or https:// and a host"
        ));
    }
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
        Some((name, _)) => millis(get, &name, Duration::ZERO)?,
        None => Duration::from_secs(10),
    };
    let path = |name: &str| of(name).map(|(_, value)| PathBuf::from(value));
    Ok(Some(Endpoint {
        uri,
        as_it_is,
        protocol,
        gzip,
        headers,
        timeout,
        ca: path("CERTIFICATE"),
        client_cert: path("CLIENT_CERTIFICATE"),
        client_key: path("CLIENT_KEY"),
    }))
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

fn millis(get: Get<'_>, name: &str, default: Duration) -> Result<Duration, String> {
    let Some(value) = get(name) else {
        return Ok(default);
    };
    let ms = value
        .trim()
        .parse()
        .map_err(|_| format!("{name}: must be milliseconds"))?;
    Ok(Duration::from_millis(ms))
}

fn count(get: Get<'_>, name: &str, default: usize) -> Result<usize, String> {
    match get(name).map(|value| value.trim().parse()) {
        None => Ok(default),
        Some(Ok(count)) if count > 0 => Ok(count),
        Some(_) => Err(format!("{name}: must be a number above 0")),
    }
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
        ] {
            let refused =
                read(&[at, wrong].map(|pair| if pair.0 == wrong.0 { wrong } else { pair }));
            let refused = refused.unwrap_err();
            assert!(refused.starts_with(wrong.0), "{refused}");
        }
    }
}
