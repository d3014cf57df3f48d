//! The log on stderr: one line for each thing an operator can act on, none for each
//! message. Which lines is the filter's to say, and can be changed while it runs.

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// How lines look.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For machines.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Changes what is logged; cheap to clone.
#[derive(Clone)]
pub struct Filter {
    handle: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging with the filter of `RUST_LOG`, or `info`.
pub fn start(format: Format) -> Filter {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(is_free_of_secrets));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        Format::Json => registry.with(lines.json()).init(),
        Format::Text => registry.with(lines.with_ansi(false)).init(),
    }
    Filter { handle }
}

/// Below `info` the WebSocket library writes the frames themselves, tokens and
/// credentials included. That is not the filter's to allow.
fn is_free_of_secrets(metadata: &Metadata<'_>) -> bool {
    let library = metadata.target().split("::").next();
    !matches!(library, Some("tungstenite" | "tokio_tungstenite"))
        || *metadata.level() <= Level::INFO
}

impl Filter {
    /// As `RUST_LOG` has it: `info,arcpd::session=debug`.
    pub fn set(&self, directives: &str) -> Result<(), String> {
        let filter = EnvFilter::builder()
            .parse(directives)
            .map_err(|error| error.to_string())?;
        self.handle
            .reload(filter)
            .map_err(|error| error.to_string())?;
        tracing::info!(filter = directives, "what is logged has changed");
        Ok(())
    }

    pub fn get(&self) -> String {
        let shown = self.handle.with_current(ToString::to_string);
        shown.unwrap_or_default()
    }
}
