//! Debian's packages that tests need.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use super::buf::run;

/// Installs a package if its program is not there and this user may.
pub fn install(package: &str, program: &str) {
    // One at a time, and who waited finds it there.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _alone = INSTALLING
        .lock()
        .unwrap_or_else(|failed| failed.into_inner());
    if Path::new(program).exists() {
        return;
    }
    let apt = format!("apt-get update && apt-get install -y --no-install-recommends {package}");
    let root = rustix::process::geteuid().is_root();
    assert!(root, "{program} is missing; as root: {apt}");
    let mut sh = Command::new("sh");
    run(sh
        .args(["-c", &apt])
        .env("DEBIAN_FRONTEND", "noninteractive"));
}
