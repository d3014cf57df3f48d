//! Away with the exports that newer ones have taken the place of.

use std::fs::File;
use std::io::BufReader;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::format::{Header, Reader};
use super::{Error, io};

/// What an export that was killed has left, once nobody can still be writing it.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Of the exports in the folder of one that are of the same cell, or like it of none, and
/// whose names end like its own, keeps so many of the newest, that one among them, and
/// returns what it has removed. What is no export stays, whatever it is called.
pub fn prune(newest: &Path, keep: NonZeroUsize) -> Result<Vec<PathBuf>, Error> {
    let folder = match newest.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let cell = header(newest).and_then(|header| header.cell);
    let mut exports = Vec::new();
    let mut removed = Vec::new();
    for entry in folder.read_dir().map_err(io(folder))? {
        let path = entry.map_err(io(folder))?.path();
        if path.extension() == newest.extension() && path.file_name() != newest.file_name() {
            let other = header(&path).filter(|other| other.cell == cell);
            let at = other.and_then(|other| other.exported_at.parse::<jiff::Timestamp>().ok());
            exports.extend(at.map(|at| (at, path)));
        } else if is_left_over(&path, newest) {
            removed.push(path);
        }
    }
    exports.sort();
    let superseded = exports.len().saturating_sub(keep.get() - 1);
    removed.extend(exports.drain(..superseded).map(|(_, path)| path));
    for path in &removed {
        std::fs::remove_file(path).map_err(io(path))?;
    }
    Ok(removed)
}

/// None of what is no export, or cannot be read.
fn header(path: &Path) -> Option<Header> {
    let file = File::open(path).ok()?;
    Reader::new(BufReader::new(file)).header().ok()?
}

fn is_left_over(path: &Path, newest: &Path) -> bool {
    let of = path.extension().is_some_and(|end| end == "partial");
    let of =
        of && Path::new(path.file_stem().unwrap_or_default()).extension() == newest.extension();
    let modified = || path.metadata().and_then(|about| about.modified()).ok();
    let age = |at| SystemTime::now().duration_since(at).unwrap_or_default();
    of && modified().is_some_and(|at| age(at) > PARTIAL_AGE)
}
