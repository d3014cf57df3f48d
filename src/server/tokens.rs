//! Bearer tokens. Only hashes are kept, and every one is compared, so that the
//! time an answer takes says nothing about which.
//!
//! A line of a tokens file is `principal = token` or `principal = sha256:<hex>`;
//! `#` starts a comment. A file with plain tokens must be its owner's alone. It
//! is read again when it changes; one that cannot be used leaves the tokens before.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::credential::others_can_read;
use crate::session::Authenticator;

/// Shortest plain token; anything shorter can be guessed.
const TOKEN_BYTES_MIN: usize = 16;
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

enum Inner {
    /// Development only: everybody is `anonymous`.
    Anonymous,
    Known(RwLock<Vec<Known>>),
}

struct Known {
    principal: String,
    hash: [u8; 32],
}

impl Tokens {
    pub fn anonymous() -> Self {
        Self(Arc::new(Inner::Anonymous))
    }

    /// Reads `principal=token` pairs separated by commas.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entries = text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty());
        let known = entries
            .map(|pair| entry(pair).map(|(known, _)| known))
            .collect::<Result<Vec<_>, _>>()
            .and_then(distinct)
            .map_err(|why| format!("ARCPD_TOKENS: {why}"))?;
        match known.is_empty() {
            true => Err("ARCPD_TOKENS: there is no token in it".into()),
            false => Ok(Self::known(known)),
        }
    }

    /// All of different tokens, or of one principal.
    fn known(known: Vec<Known>) -> Self {
        Self(Arc::new(Inner::Known(RwLock::new(known))))
    }

    /// Reads a tokens file now and whenever it changes.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        let (known, text) = read(&path)?;
        let tokens = Self::known(known);
        tokio::spawn(tokens.clone().reload(path, text));
        Ok(tokens)
    }

    async fn reload(self, path: PathBuf, mut seen: String) {
        let mut ticks = tokio::time::interval(RELOAD_INTERVAL);
        loop {
            ticks.tick().await;
            match std::fs::read_to_string(&path) {
                Ok(text) if text != seen => seen = text,
                _ => continue,
            }
            match (read(&path), &*self.0) {
                (Ok((known, _)), Inner::Known(current)) => {
                    *current.write() = known;
                    tracing::info!("the tokens file was read again");
                }
                (Err(error), _) => {
                    let error = format!("{error:#}");
                    tracing::error!(
                        error,
                        "the tokens file cannot be used; the tokens before stay"
                    );
                }
                _ => {}
            }
        }
    }
}

fn read(path: &Path) -> anyhow::Result<(Vec<Known>, String)> {
    let at = || format!("tokens_file {}", path.display());
    let text = std::fs::read_to_string(path).with_context(at)?;
    let mut known = Vec::new();
    let mut plain = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The line is not repeated: it may hold a secret.
        let (entry, is_plain) = entry(line)
            .map_err(|why| anyhow::anyhow!("line {number}: {why}"))
            .with_context(at)?;
        known.push(entry);
        plain |= is_plain;
    }
    let known = distinct(known)
        .map_err(anyhow::Error::msg)
        .with_context(at)?;
    ensure!(!known.is_empty(), "{}: there is no token in it", at());
    let metadata = std::fs::metadata(path).with_context(at)?;
    if plain && others_can_read(&metadata) {
        bail!(
            "{}: other users can read its tokens; `chmod 600` it, or use sha256:<hex>",
            at()
        );
    }
    Ok((known, text))
}

/// An entry, and whether its token is there in plain.
fn entry(text: &str) -> Result<(Known, bool), String> {
    let Some((principal, token)) = text.split_once('=') else {
        return Err("must be principal=token".into());
    };
    let (principal, token) = (principal.trim(), token.trim());
    if principal.is_empty() || principal.len() > 128 {
        return Err("principal: must have 1 to 128 bytes".into());
    }
    let (hash, plain) = match token.strip_prefix("sha256:") {
        Some(hex) => (
            from_hex(hex).ok_or("sha256: must have 64 hex digits")?,
            false,
        ),
        None if token.len() < TOKEN_BYTES_MIN => {
            return Err(format!("token: must have {TOKEN_BYTES_MIN} bytes or more"));
        }
        None => (Sha256::digest(token).into(), true),
    };
    let principal = principal.to_owned();
    Ok((Known { principal, hash }, plain))
}

/// Who shows a token is one principal, whatever the order of the entries.
fn distinct(known: Vec<Known>) -> Result<Vec<Known>, String> {
    let mut owners = HashMap::new();
    for Known { principal, hash } in &known {
        let owner = *owners.entry(hash).or_insert(principal);
        if owner != principal {
            return Err(format!("token: {owner} and {principal} have the same"));
        }
    }
    Ok(known)
}

fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

impl Authenticator for Tokens {
    fn lets_anybody_in(&self) -> bool {
        matches!(&*self.0, Inner::Anonymous)
    }

    fn principal(&self, token: &str) -> Option<String> {
        let Inner::Known(known) = &*self.0 else {
            return Some("anonymous".into());
        };
        let hash: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for known in known.read().iter() {
            if bool::from(hash.ct_eq(&known.hash)) {
                found = Some(known.principal.clone());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_known_by_their_hash_and_short_ones_refused() {
        let tokens = Tokens::parse("alice=0123456789abcdef, bob=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855").unwrap();
        assert_eq!(
            tokens.principal("0123456789abcdef").as_deref(),
            Some("alice")
        );
        assert_eq!(tokens.principal("").as_deref(), Some("bob"));
        assert_eq!(tokens.principal("0123456789abcdeg"), None);
        for bad in [
            "alice=short",
            "alice",
            "=0123456789abcdef",
            "a=sha256:12",
            "",
            ",",
        ] {
            let Err(why) = Tokens::parse(bad) else {
                panic!("{bad}")
            };
            assert!(!why.contains("short"), "{why}");
        }
    }

    /// The last of them was everybody's principal.
    #[test]
    fn two_principals_with_one_token_are_refused_and_both_are_named() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, format!("alice = sha256:{hex}\nbob = sha256:{hex}\n")).unwrap();
        let in_file = read(&path).err().map(|why| format!("{why:#}"));
        let token = "0123456789abcdef";
        let in_variable = Tokens::parse(&format!("alice={token},bob={token}")).err();
        for why in [in_file, in_variable] {
            let why = why.expect("a refusal");
            assert!(why.contains("alice and bob have the same"), "{why}");
            assert!(!why.contains(token) && !why.contains(hex), "{why}");
        }
        // A rotation that is written down twice is one.
        assert!(Tokens::parse(&format!("alice={token},alice={token}")).is_ok());
    }
}
