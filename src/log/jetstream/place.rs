//! Where a replica is in its stream: the last entry that it has, and which one that is.
//!
//! A number alone does not tell: a stream that has lost its end, or was made anew, has
//! other entries under the same numbers as soon as it has gone on. Who wrote an entry, its
//! number among that life's, and when the stream took it are one entry's alone.

use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::RECEIVED_KIB;
use super::entry::Entry;
use crate::log::sqlite::{replicas, schema, unavailable};
use crate::log::{Error, Position};

/// An entry as it was read.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub sequence: u64,
    /// When the servers had it, in nanoseconds since 1970.
    pub published_at_ns: i64,
    pub bytes: Bytes,
}

impl Received {
    /// What it takes of the room for what is not applied. One that is larger than that has
    /// all of it.
    pub fn kib(&self) -> u32 {
        (self.bytes.len() / 1024 + 1).min(RECEIVED_KIB) as u32
    }
}

/// What an entry is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub origin: String,
    pub number: u64,
    pub published_at_ns: i64,
}

/// The last entry that was read.
pub(super) struct Place {
    /// 0 before the first.
    pub sequence: u64,
    known: Known,
}

enum Known {
    /// There is none, or an arcpd wrote the file that did not keep it.
    Nothing,
    InTheFile(Mark),
    Read(Received),
}

impl Place {
    pub fn of(read: Received) -> Self {
        Self {
            sequence: read.sequence,
            known: Known::Read(read),
        }
    }

    /// Whether what the stream has there is the same entry.
    pub fn is(&self, found: &Received) -> bool {
        match &self.known {
            Known::Nothing => true,
            Known::InTheFile(mark) => Entry::decode(&found.bytes).is_ok_and(|entry| {
                let (origin, number) = (entry.origin, entry.number);
                let published_at_ns = found.published_at_ns;
                *mark
                    == Mark {
                        origin,
                        number,
                        published_at_ns,
                    }
            }),
            Known::Read(read) => {
                (read.published_at_ns, &read.bytes) == (found.published_at_ns, &found.bytes)
            }
        }
    }
}

/// Whether a data directory is a replica's that has been in a cell. One that has no store,
/// or whatever else, is not: it is looked at again when it is opened.
pub(super) fn is_kept(dir: &Path) -> bool {
    let store = dir.join("arcpd.db");
    let opened = store.is_file().then(|| schema::open_reader(&store));
    matches!(opened, Some(Ok(store)) if replicas::is_replica(&store).unwrap_or(false))
}

/// Where the file is in the stream; a new one is at its beginning.
pub(super) fn load(
    connection: &Connection,
    identity: &str,
    tail: Position,
    dir: &Path,
) -> Result<Place, Error> {
    let known = "SELECT cluster, sequence, origin, number, published_at_ns FROM replicated";
    let known: Option<(String, u64, Option<Mark>)> = connection
        .query_row(known, [], |row| {
            let origin: Option<String> = row.get(2)?;
            let mark = origin.map(|origin| {
                Ok::<_, rusqlite::Error>(Mark {
                    origin,
                    number: row.get::<_, i64>(3)? as u64,
                    published_at_ns: row.get(4)?,
                })
            });
            let sequence = row.get::<_, i64>(1)? as u64;
            Ok((row.get(0)?, sequence, mark.transpose()?))
        })
        .optional()
        .map_err(unavailable)?;
    let foreign = |detail: &str| Error::Foreign {
        path: dir.display().to_string(),
        detail: detail.into(),
    };
    match known {
        Some((cluster, sequence, mark)) if cluster == identity => Ok(Place {
            sequence,
            known: mark.map_or(Known::Nothing, Known::InTheFile),
        }),
        Some(_) => Err(foreign("it is of another cluster's stream")),
        None if tail > 0 => Err(foreign("it was written without --cluster")),
        None => {
            connection
                .execute(
                    "INSERT INTO replicated (cluster, sequence) VALUES (?1, 0)",
                    params![identity],
                )
                .map_err(unavailable)?;
            Ok(Place {
                sequence: 0,
                known: Known::Nothing,
            })
        }
    }
}

/// In the transaction that applies the entry.
pub(super) fn store(connection: &Connection, sequence: u64, mark: &Mark) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE replicated SET sequence = ?1, origin = ?2, number = ?3, published_at_ns = ?4",
        )?
        .execute(params![
            sequence as i64,
            mark.origin,
            mark.number as i64,
            mark.published_at_ns
        ])
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "data";

    fn received(number: u64, published_at_ns: i64) -> Received {
        let entry = Entry {
            origin: "life".into(),
            number,
            commands: Vec::new(),
            blocks: Vec::new(),
        };
        Received {
            sequence: 7,
            published_at_ns,
            bytes: entry.encode().unwrap(),
        }
    }

    fn loaded(store: &Connection) -> Place {
        load(store, "cell", 0, Path::new(DIR)).unwrap()
    }

    #[test]
    fn the_entry_that_a_file_has_last_is_told_from_any_other_with_its_number() {
        let file = Connection::open_in_memory().unwrap();
        schema::bring_up(&file, 0).unwrap();
        assert_eq!(loaded(&file).sequence, 0);
        let mark = Mark {
            origin: "life".into(),
            number: 3,
            published_at_ns: 5,
        };
        store(&file, 7, &mark).unwrap();
        for place in [loaded(&file), Place::of(received(3, 5))] {
            assert_eq!(place.sequence, 7);
            assert!(place.is(&received(3, 5)));
            assert!(!place.is(&received(4, 5)));
            // Sent again, and taken again by a stream that had lost it.
            assert!(!place.is(&received(3, 6)));
        }
        assert!(load(&file, "another", 0, Path::new(DIR)).is_err());
    }

    #[test]
    fn a_file_of_before_that_was_kept_knows_it_from_the_next_entry_on() {
        let file = Connection::open_in_memory().unwrap();
        schema::begin_at(&file, 13).unwrap();
        let before = "INSERT INTO replicated VALUES ('cell', 7)";
        file.execute(before, []).unwrap();
        schema::bring_up(&file, 13).unwrap();
        let place = loaded(&file);
        assert_eq!(place.sequence, 7);
        assert!(place.is(&received(1, 1)) && place.is(&received(2, 2)));
    }
}
