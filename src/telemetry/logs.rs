//! The log on stderr: one line for each thing an operator can act on, none for each
//! message. Which lines is the filter's to say, and can be changed while it runs.

use std::str::FromStr;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::LevelFilter;
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

/// The lines of decisions; a filter that does not name it leaves it at `info`.
pub const AUDIT: &str = "arcpd::audit";
/// What is logged has changed: a line that no filter silences.
const CHANGED: &str = "arcpd::log_filter";
const DEFAULT: &str = "info";

/// Changes what is logged; cheap to clone.
#[derive(Clone)]
pub struct Filter {
    handle: reload::Handle<EnvFilter, Registry>,
    /// As it was asked for.
    directives: Arc<Mutex<String>>,
}

/// Starts logging with the filter of `RUST_LOG`, or `info`. What is no filter is
/// refused: lines that are missing are missed when they are needed.
pub fn start(format: Format) -> Result<Filter, String> {
    let directives = std::env::var("RUST_LOG").unwrap_or_default();
    let directives = match directives.trim() {
        "" => DEFAULT,
        set => set,
    };
    let filter = parse(directives).map_err(|why| format!("RUST_LOG: {why}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(is_free_of_secrets));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        Format::Json => registry.with(lines.json()).init(),
        Format::Text => registry.with(lines.with_ansi(false)).init(),
    }
    Ok(Filter {
        handle,
        directives: Arc::new(Mutex::new(directives.into())),
    })
}

/// Directives as [`EnvFilter`] has them, each with a level: a word alone would be the
/// name of a target that nothing has, and all else silent.
fn parse(directives: &str) -> Result<EnvFilter, String> {
    for directive in directives.split(',').map(str::trim) {
        let has_level = directive.contains(['=', '[']);
        // The library takes nothing for `error`.
        if directive.is_empty() || !has_level && LevelFilter::from_str(directive).is_err() {
            return Err(format!(
                "{directive:?} is no level; must be off, error, warn, info, debug or trace, \
                 or TARGET=LEVEL, separated by commas"
            ));
        }
    }
    let mut all = String::from(directives);
    if !directives.contains(AUDIT) {
        all.push_str(&format!(",{AUDIT}=info"));
    }
    all.push_str(&format!(",{CHANGED}=info"));
    let parsed = EnvFilter::builder().parse(all);
    parsed.map_err(|error| error.to_string())
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
        let filter = parse(directives)?;
        let mut current = self.directives.lock();
        let reloaded = self.handle.reload(filter);
        reloaded.map_err(|error| error.to_string())?;
        *current = directives.into();
        tracing::warn!(
            target: CHANGED,
            filter = directives,
            "what is logged has changed"
        );
        Ok(())
    }

    pub fn get(&self) -> String {
        self.directives.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_not_a_target() {
        for good in [
            "info",
            "OFF",
            "warn,h2=trace",
            "info,[span{a=1}]=debug",
            "arcpd[x]",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "warning",
            "verbose",
            "info,",
            "arcpd=verbose",
            "info,[[[",
            "h2",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_audit_goes_on_unless_it_is_named() {
        for (directives, audit) in [
            ("off", "arcpd::audit=info"),
            ("error", "arcpd::audit=info"),
            ("info,arcpd::audit=off", "arcpd::audit=off"),
        ] {
            let shown = parse(directives).unwrap().to_string();
            assert!(shown.contains(audit), "{shown}");
        }
    }
}
