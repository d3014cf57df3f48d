//! A file as a store beside the one it is to be, once all of it has been read.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::format::{FORMAT, Reader};
use super::{Counts, Error, io};
use crate::log::sqlite::tables::{Rows, clear_beginnings};
use crate::log::sqlite::{create_file, unavailable};
use crate::log::sqlite::{credential, schema};

/// A store of this arcpd's format; its file goes with it unless it was given its name.
pub(super) struct Staged {
    pub connection: Connection,
    pub counts: Counts,
    path: Removed,
}

pub(super) fn staged_at(dir: &Path) -> PathBuf {
    dir.join("arcpd.db.import")
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // It may have its name, or never have been made.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Staged {
    /// Reads a file to its end.
    pub fn load(file: &Path, dir: &Path) -> Result<Self, Error> {
        let path = staged_at(dir);
        let _ = std::fs::remove_file(&path);
        create_file(&path).map_err(io(&path))?;
        let path = Removed(path);
        let mut connection = Connection::open(&path.0).map_err(unavailable)?;
        // Without a journal: an import that is cut off begins again.
        connection
            .pragma_update(None, "journal_mode", "OFF")
            .and_then(|()| connection.pragma_update(None, "synchronous", "OFF"))
            .map_err(unavailable)?;
        let counts = fill(&mut connection, file)?;
        Ok(Self {
            connection,
            counts,
            path,
        })
    }

    /// Makes it the store of a directory that has none.
    pub fn settle(self, store: &Path) -> Result<Counts, Error> {
        let Self {
            connection,
            counts,
            path,
        } = self;
        credential::keep_all(&connection, 0).map_err(unavailable)?;
        connection
            .close()
            .map_err(|(_, error)| unavailable(error))?;
        let staged = &path.0;
        File::open(staged)
            .and_then(|file| file.sync_all())
            .map_err(io(staged))?;
        std::fs::rename(staged, store).map_err(io(store))?;
        super::export::sync_dir(store)?;
        Ok(counts)
    }
}

fn fill(connection: &mut Connection, file: &Path) -> Result<Counts, Error> {
    let damaged = |why: String| Error::Damaged {
        path: file.display().to_string(),
        why,
    };
    let foreign = |why: &str| Error::Foreign {
        path: file.display().to_string(),
        why: why.into(),
    };
    let from = File::open(file).map_err(io(file))?;
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, from));
    let header = reader.header().map_err(io(file))?;
    let header = header.ok_or_else(|| foreign("it does not begin as one"))?;
    for (what, found, known) in [
        ("export format", header.arcpd_export, FORMAT),
        ("store format", header.store, schema::FORMAT),
    ] {
        if found > known {
            return Err(Error::Newer {
                path: file.display().to_string(),
                what,
                found,
                known,
            });
        }
        if found < 1 {
            return Err(foreign(&format!("it has {what} {found}")));
        }
    }
    schema::begin_at(connection, header.store).map_err(unavailable)?;
    let transaction = connection.transaction().map_err(unavailable)?;
    clear_beginnings(&transaction).map_err(unavailable)?;
    let mut counts = Counts::new();
    while let Some(bytes) = reader.frame().map_err(damaged)? {
        let rows = Rows::decode(&bytes).map_err(damaged)?;
        rows.check(&transaction)
            .map_err(unavailable)?
            .map_err(damaged)?;
        // Two rows with one key, or one with a column less than it needs.
        rows.insert(&transaction)
            .map_err(|error| damaged(error.to_string()))?;
        *counts.entry(rows.table).or_default() += rows.rows.len() as u64;
    }
    if counts.get("high_water") != Some(&1) {
        return Err(damaged("it has no high_water".into()));
    }
    transaction.commit().map_err(unavailable)?;
    schema::bring_up(connection, header.store).map_err(unavailable)?;
    Ok(counts)
}
