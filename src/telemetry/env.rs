//! `OTEL_*` of the environment, by name; `docs/observability.md` has the table.
//!
//! Read through a function, so that tests need no environment. A value that cannot
//! be used is an error and stops the start: telemetry that silently goes nowhere is
//! found out when it is needed.

mod endpoint;

use std::time::Duration;

use super::otlp::Endpoint;
use super::sampler::Sampler;

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
            true => endpoint::of(signal, endpoint, get),
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
mod tests;
