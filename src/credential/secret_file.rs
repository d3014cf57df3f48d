//! Files with one secret in them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, ensure};
use secrecy::{ExposeSecret, SecretString};

/// Reads a secret from a file that nobody but its owner can read. `key` is the
/// setting that named it.
pub fn read_secret(key: &str, path: &Path) -> anyhow::Result<SecretString> {
    let at = || format!("{key} {}", path.display());
    let mode = std::fs::metadata(path).with_context(at)?.permissions();
    ensure!(
        mode.mode() & 0o077 == 0,
        "{}: other users can read it; `chmod 600` it",
        at()
    );
    let text = SecretString::from(std::fs::read_to_string(path).with_context(at)?);
    let secret = SecretString::from(text.expose_secret().trim().to_owned());
    ensure!(!secret.expose_secret().is_empty(), "{}: is empty", at());
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "  sk-master\n").unwrap();
        let set = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).unwrap();
        };
        for mode in [0o644, 0o640, 0o604] {
            set(mode);
            let why = read_secret("credentials.master_key_file", &path).unwrap_err();
            assert!(why.to_string().contains("chmod 600"), "{why}");
            assert!(!format!("{why:#}").contains("sk-master"));
        }
        set(0o600);
        let secret = read_secret("credentials.master_key_file", &path).unwrap();
        assert_eq!(secret.expose_secret(), "sk-master");
    }
}
