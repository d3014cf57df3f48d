//! Which traces are recorded: `OTEL_TRACES_SAMPLER`, decided once, at a job's submit,
//! by the SDK's samplers.
//!
//! The decision is stored with the job, so that all of its spans follow it, also
//! those of another run of the runtime.

use opentelemetry::Context;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceState,
};
use opentelemetry_sdk::trace::{Sampler as Sdk, SamplingDecision, ShouldSample};

use super::{encode, names};
use crate::protocol::TraceContext;

#[derive(Clone, Debug)]
pub struct Sampler(Sdk);

impl Default for Sampler {
    fn default() -> Self {
        Self(Sdk::ParentBased(Box::new(Sdk::AlwaysOn)))
    }
}

impl Sampler {
    /// By the names and the argument of OpenTelemetry's environment.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let (parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let root = match root {
            "always_on" => Sdk::AlwaysOn,
            "always_off" => Sdk::AlwaysOff,
            "traceidratio" => match argument.unwrap_or("1").parse() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Sdk::TraceIdRatioBased(ratio),
                _ => return Err("OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1".into()),
            },
            _ => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER: {name:?} is none of always_on, always_off, traceidratio \
                     and the same after parentbased_"
                ));
            }
        };
        Ok(Self(match parent_based {
            true => Sdk::ParentBased(Box::new(root)),
            false => root,
        }))
    }

    pub fn samples(&self, trace_id: &str, context: &TraceContext) -> bool {
        let trace_id = encode::trace_id(trace_id);
        let parent = context.sampled.map(|sampled| {
            // A caller may have decided and not named its span.
            let span_id = context.span_id.map_or(1, |id| id.0);
            let flags = TraceFlags::NOT_SAMPLED.with_sampled(sampled);
            let of = SpanContext::new(
                trace_id,
                SpanId::from(span_id),
                flags,
                true,
                TraceState::NONE,
            );
            Context::new().with_remote_span_context(of)
        });
        let kind = SpanKind::Server;
        let asked = self
            .0
            .should_sample(parent.as_ref(), trace_id, names::SUBMIT, &kind, &[], &[]);
        asked.decision == SamplingDecision::RecordAndSample
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
