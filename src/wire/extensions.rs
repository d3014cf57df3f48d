//! What the runtime looks at in an envelope's `extensions`.

use serde::Deserialize;
use serde_json::Value;

use crate::protocol::TraceContext;
use crate::protocol::trace::{EXTENSION, Extension};

#[derive(Default)]
pub(super) struct Extensions {
    /// An unknown message may be dropped.
    pub optional: bool,
    tracecontext: Option<Value>,
}

impl Extensions {
    /// Reads JSON text. What is not an object has no members: an extension is
    /// never a reason to refuse what it comes with, but for what it says wrongly.
    pub fn read(json: &str) -> Self {
        if json.is_empty() {
            return Self::default();
        }
        let Ok(Value::Object(mut members)) = serde_json::from_str(json) else {
            return Self::default();
        };
        Self {
            optional: members.get("optional") == Some(&Value::Bool(true)),
            tracecontext: members.remove(EXTENSION).filter(|value| !value.is_null()),
        }
    }

    pub fn trace(&self, trace_id: Option<&str>) -> Result<TraceContext, String> {
        let extension = self.tracecontext.as_ref().map(Extension::deserialize);
        let extension = extension
            .transpose()
            .map_err(|error| format!("extensions.{EXTENSION}: {error}"))?;
        TraceContext::from_envelope(trace_id, extension)
    }
}
