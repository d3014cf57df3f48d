//! Files with one secret in them.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, ensure};
use secrecy::{ExposeSecret, SecretString};

/// Reads a secret from a file that nobody but its owner can read. `key` is the
/// setting that named it.
pub fn read_secret(key: &str, path: &Path) -> anyhow::Result<SecretString> {
    let at = || format!("{key} {}", path.display());
    let metadata = std::fs::metadata(path).with_context(at)?;
    ensure!(
        !others_can_read(&metadata),
        "{}: other users can read it; `chmod 600` it",
        at()
    );
    let text = SecretString::from(std::fs::read_to_string(path).with_context(at)?);
    let secret = SecretString::from(text.expose_secret().trim().to_owned());
    ensure!(!secret.expose_secret().is_empty(), "{}: is empty", at());
    Ok(secret)
}

/// A file of somebody else's that this process reads by its group is as its owner
/// wants it: so Kubernetes mounts a Secret for a process that is not root.
pub fn others_can_read(metadata: &Metadata) -> bool {
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    let others = if own { 0o077 } else { 0o037 };
    metadata.mode() & others != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Every Secret that Kubernetes mounts for a user other than root was refused.
    #[test]
    fn a_file_of_another_owner_may_be_read_by_its_group() {
        if !rustix::process::geteuid().is_root() {
            // Nobody else can give a file away.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "sk").unwrap();
        let mut refused = Vec::new();
        for owner in [0, 65_532] {
            std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
            for mode in [0o440, 0o444, 0o460] {
                std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
                refused.push(others_can_read(&std::fs::metadata(&path).unwrap()));
            }
        }
        assert_eq!(refused, [true, true, true, false, true, true]);
    }

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
