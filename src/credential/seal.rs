//! Values at rest: encrypted with a key the operator provides, or not kept.
//!
//! A sealed value is a nonce of 24 bytes and the ciphertext of XChaCha20-Poly1305.
//! The handle is authenticated with it, so that a value cannot be moved to
//! another job's row.

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use secrecy::{ExposeSecret, SecretString};

const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;

pub struct Sealer(XChaCha20Poly1305);

impl Sealer {
    /// From the text of a key file: 32 bytes in base64 or hex.
    pub fn from_text(text: &SecretString) -> anyhow::Result<Self> {
        let text = text.expose_secret().trim();
        let bytes = match text.len() {
            64 => from_hex(text),
            _ => STANDARD.decode(text).ok(),
        };
        let cipher = bytes
            .filter(|bytes| bytes.len() == KEY_BYTES)
            .and_then(|bytes| XChaCha20Poly1305::new_from_slice(&bytes).ok());
        // The text is not repeated: it is the key.
        cipher
            .map(Self)
            .context("must be 32 bytes in base64 or as 64 hex digits")
    }

    pub fn seal(&self, handle: &str, value: &str) -> Option<Vec<u8>> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let payload = Payload {
            msg: value.as_bytes(),
            aad: handle.as_bytes(),
        };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    /// None for what another key, another handle or nobody sealed.
    pub fn open(&self, handle: &str, sealed: &[u8]) -> Option<SecretString> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload {
            msg: sealed,
            aad: handle.as_bytes(),
        };
        let value = self.0.decrypt(&XNonce::from(*nonce), payload).ok()?;
        String::from_utf8(value).ok().map(SecretString::from)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(text: &str) -> Sealer {
        Sealer::from_text(&text.to_owned().into()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_for_its_handle_and_not_otherwise() {
        let (key, other) = (sealer(&"0f".repeat(32)), sealer(&"1f".repeat(32)));
        let sealed = key.seal("cred_1", "sk-secret").unwrap();
        assert!(!String::from_utf8_lossy(&sealed).contains("sk-secret"));
        assert_ne!(sealed, key.seal("cred_1", "sk-secret").unwrap());
        let open = |key: &Sealer, handle, sealed: &[u8]| {
            let opened = key.open(handle, sealed);
            opened.map(|value| value.expose_secret().to_owned())
        };
        assert_eq!(open(&key, "cred_1", &sealed).as_deref(), Some("sk-secret"));
        assert_eq!(open(&key, "cred_2", &sealed), None);
        assert_eq!(open(&other, "cred_1", &sealed), None);
        for cut in 0..sealed.len() {
            assert_eq!(open(&key, "cred_1", &sealed[..cut]), None);
        }
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(open(&key, "cred_1", &changed), None);
    }

    #[test]
    fn both_forms_of_a_key_are_the_same_key_and_a_bad_one_is_not_repeated() {
        let hex = sealer(&"ff".repeat(32));
        let base64 = sealer(&format!("{}\n", STANDARD.encode([0xff; 32])));
        let sealed = hex.seal("h", "v").unwrap();
        assert!(base64.open("h", &sealed).is_some());
        for bad in [
            "",
            "secret",
            &"zz".repeat(32),
            &"é".repeat(32),
            &STANDARD.encode([1; 31]),
        ] {
            let refused = Sealer::from_text(&bad.to_owned().into()).err().unwrap();
            assert!(!refused.to_string().contains("secret"), "{refused}");
        }
    }
}
