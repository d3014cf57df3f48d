//! Which traces are recorded: `OTEL_TRACES_SAMPLER`, decided once, at a job's submit.
//!
//! The decision is stored with the job, so that all of its spans follow it, also
//! those of another run of the runtime.

use crate::protocol::TraceContext;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether the caller's decision stands, where it has made one.
    pub parent_based: bool,
    /// Of the traces whose caller has not decided; 0 to 1.
    pub ratio: f64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            parent_based: true,
            ratio: 1.0,
        }
    }
}

impl Sampler {
    /// By the names and the argument of OpenTelemetry's environment.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let (parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let ratio = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => argument.unwrap_or("1").parse().unwrap_or(f64::NAN),
            _ => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER: {name:?} is none of always_on, always_off, traceidratio \
                     and the same after parentbased_"
                ));
            }
        };
        match (0.0..=1.0).contains(&ratio) {
            true => Ok(Self {
                parent_based,
                ratio,
            }),
            false => Err("OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1".into()),
        }
    }

    pub fn samples(&self, trace_id: &str, context: &TraceContext) -> bool {
        match context.sampled {
            Some(sampled) if self.parent_based => sampled,
            _ => self.by_ratio(trace_id),
        }
    }

    /// By the last 56 bits, which W3C has random: every service that does so
    /// decides alike.
    fn by_ratio(&self, trace_id: &str) -> bool {
        const BITS: u64 = 1 << 56;
        let low = trace_id
            .get(18..)
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let place = low.unwrap_or(0) & (BITS - 1);
        (place as f64) < self.ratio * BITS as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id;

    fn context(sampled: Option<bool>) -> TraceContext {
        TraceContext {
            sampled,
            ..TraceContext::default()
        }
    }

    #[test]
    fn a_ratio_takes_its_share_and_always_the_same_traces() {
        let quarter = Sampler::parse("traceidratio", Some("0.25")).unwrap();
        let ids: Vec<_> = (0..4_000).map(|_| id::trace_id()).collect();
        let none = context(None);
        let taken = ids.iter().filter(|id| quarter.samples(id, &none)).count();
        assert!((800..1_200).contains(&taken), "{taken} of 4,000");
        let half = Sampler::parse("traceidratio", Some("0.5")).unwrap();
        // Who takes more takes all that others take.
        assert!(
            ids.iter()
                .all(|id| !quarter.samples(id, &none) || half.samples(id, &none))
        );
    }

    #[test]
    fn the_callers_decision_stands_where_the_sampler_says_so() {
        let id = id::trace_id();
        let off = Sampler::parse("parentbased_always_off", None).unwrap();
        assert!(off.samples(&id, &context(Some(true))) && !off.samples(&id, &context(None)));
        let on = Sampler::parse("always_on", None).unwrap();
        assert!(on.samples(&id, &context(Some(false))));
        assert!(Sampler::parse("jaeger_remote", None).is_err());
        assert!(Sampler::parse("traceidratio", Some("2")).is_err());
    }
}
