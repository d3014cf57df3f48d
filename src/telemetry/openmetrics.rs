//! The admin port's text as OTLP: what Prometheus reads is what a collector gets.
//!
//! A metric's name is Prometheus's, `_total` included, so that a dashboard finds it
//! under one name whichever way it came. The SDK's metrics are not used: its exporters
//! take what only its own instruments can make, and then each would be counted twice.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
    number_data_point::Value as Number,
};

type Labels = Vec<(String, String)>;

#[derive(Default)]
struct FamilyOf {
    kind: String,
    help: String,
    unit: String,
    /// In the order of the text.
    samples: Vec<Sample>,
}

struct Sample {
    /// What the name has behind the family's.
    suffix: String,
    labels: Labels,
    value: f64,
}

/// `since_ns` is when the counting began.
pub(super) fn metrics(text: &str, since_ns: u64, now_ns: u64) -> Vec<Metric> {
    let mut order = Vec::new();
    let mut families: BTreeMap<String, FamilyOf> = BTreeMap::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            if let (Some(what), Some(name), rest) = (words.next(), words.next(), words.next()) {
                let family = families.entry(name.into()).or_insert_with(|| {
                    order.push(name.to_owned());
                    FamilyOf::default()
                });
                let rest = rest.unwrap_or("").to_owned();
                match what {
                    "TYPE" => family.kind = rest,
                    "HELP" => family.help = rest,
                    "UNIT" => family.unit = rest,
                    _ => {}
                }
            }
        } else if let Some((name, labels, value)) = sample(line)
            // The lines of a family follow its head.
            && let Some(of) = order.last().filter(|of| name.starts_with(&***of))
            && let Some(family) = families.get_mut(of)
        {
            let suffix = name[of.len()..].to_owned();
            family.samples.push(Sample {
                suffix,
                labels,
                value,
            });
        }
    }
    let times = (since_ns, now_ns);
    let metric = |name: String| families.remove(&name).and_then(|of| one(name, of, times));
    order.into_iter().filter_map(metric).collect()
}

/// `name{label="value"} 1`.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let end = closing(after)?;
            labels.push((key.into(), unescaped(&after[..end])));
            rest = &after[end + 1..];
        }
        rest = &rest[1..];
    }
    let value = rest.trim().split(' ').next()?.parse().ok()?;
    Some((name, labels, value))
}

fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        end
    })
}

fn unescaped(text: &str) -> String {
    text.replace("\\\"", "\"")
        .replace("\\n", "\n")
        .replace("\\\\", "\\")
}

fn one(name: String, family: FamilyOf, times: (u64, u64)) -> Option<Metric> {
    let unit = match &*family.unit {
        "seconds" => "s",
        "bytes" => "By",
        other => other,
    };
    let cumulative = AggregationTemporality::Cumulative.into();
    let (name, data) = match &*family.kind {
        "counter" => {
            let sum = Sum {
                data_points: numbers(&family.samples, times),
                aggregation_temporality: cumulative,
                is_monotonic: true,
            };
            (format!("{name}_total"), Data::Sum(sum))
        }
        "gauge" => {
            let data_points = numbers(&family.samples, times);
            (name, Data::Gauge(Gauge { data_points }))
        }
        "info" => {
            let data_points = numbers(&family.samples, times);
            (format!("{name}_info"), Data::Gauge(Gauge { data_points }))
        }
        "histogram" => {
            let histogram = Histogram {
                data_points: histograms(&family.samples, times),
                aggregation_temporality: cumulative,
            };
            (name, Data::Histogram(histogram))
        }
        _ => return None,
    };
    Some(Metric {
        name,
        description: family.help.trim_end_matches('.').into(),
        unit: unit.into(),
        data: Some(data),
        ..Metric::default()
    })
}

fn numbers(samples: &[Sample], (since_ns, now_ns): (u64, u64)) -> Vec<NumberDataPoint> {
    samples
        .iter()
        .map(|sample| NumberDataPoint {
            attributes: attributes(&sample.labels),
            start_time_unix_nano: since_ns,
            time_unix_nano: now_ns,
            value: Some(Number::AsDouble(sample.value)),
            ..NumberDataPoint::default()
        })
        .collect()
}

fn attributes(labels: &[(String, String)]) -> Vec<KeyValue> {
    let labels = labels.iter().filter(|(key, _)| key != "le");
    labels.map(|(key, value)| attribute(key, value)).collect()
}

pub(super) fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(any_value::Value::StringValue(value.into()));
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value }),
        ..KeyValue::default()
    }
}

fn histograms(samples: &[Sample], (since_ns, now_ns): (u64, u64)) -> Vec<HistogramDataPoint> {
    let mut points: Vec<HistogramDataPoint> = Vec::new();
    let mut below = 0.0;
    for sample in samples {
        let attributes = attributes(&sample.labels);
        if points
            .last()
            .is_none_or(|point| point.attributes != attributes)
        {
            below = 0.0;
            points.push(HistogramDataPoint {
                attributes,
                start_time_unix_nano: since_ns,
                time_unix_nano: now_ns,
                ..HistogramDataPoint::default()
            });
        }
        let Some(point) = points.last_mut() else {
            continue;
        };
        match &*sample.suffix {
            "_sum" => point.sum = Some(sample.value),
            "_count" => point.count = sample.value as u64,
            "_bucket" => {
                // Prometheus counts all below a bound, OTLP those between two.
                point.bucket_counts.push((sample.value - below) as u64);
                below = sample.value;
                let bound = sample.labels.iter().find(|(key, _)| key == "le");
                let bound = bound.and_then(|(_, le)| le.parse::<f64>().ok());
                point
                    .explicit_bounds
                    .extend(bound.filter(|bound| bound.is_finite()));
            }
            _ => {}
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_gauges_and_histograms_keep_their_names_labels_and_values() {
        let text = "# HELP arcpd_jobs_ended Jobs ended.\n# TYPE arcpd_jobs_ended counter\n\
            arcpd_jobs_ended_total{agent=\"a\\\"b@1\",status=\"error\"} 3\n\
            # HELP arcpd_hosts Hosts.\n# TYPE arcpd_hosts gauge\narcpd_hosts 2\n\
            # HELP arcpd_commit_seconds Of one.\n# TYPE arcpd_commit_seconds histogram\n\
            # UNIT arcpd_commit_seconds seconds\narcpd_commit_seconds_sum 1.5\n\
            arcpd_commit_seconds_count 4\narcpd_commit_seconds_bucket{le=\"0.5\"} 1\n\
            arcpd_commit_seconds_bucket{le=\"1.0\"} 3\narcpd_commit_seconds_bucket{le=\"+Inf\"} 4\n# EOF\n";
        let metrics = metrics(text, 1, 2);
        let names: Vec<_> = metrics
            .iter()
            .map(|metric| (&*metric.name, &*metric.unit))
            .collect();
        assert_eq!(
            names,
            [
                ("arcpd_jobs_ended_total", ""),
                ("arcpd_hosts", ""),
                ("arcpd_commit_seconds", "s")
            ]
        );
        let Some(Data::Sum(sum)) = &metrics[0].data else {
            panic!("{:?}", metrics[0])
        };
        assert_eq!(sum.data_points[0].value, Some(Number::AsDouble(3.0)));
        assert_eq!(sum.data_points[0].attributes.len(), 2);
        let Some(Data::Histogram(histogram)) = &metrics[2].data else {
            panic!("{:?}", metrics[2])
        };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (4, Some(1.5)));
        assert_eq!(
            (&*point.bucket_counts, &*point.explicit_bounds),
            (&[1, 2, 1][..], &[0.5, 1.0][..])
        );
    }
}
