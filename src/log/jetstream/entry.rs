//! A group as the stream carries it: the format's number, then MessagePack with named
//! fields, so that a field that is added has a default where it is missing.

use bytes::Bytes;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::log::sqlite::apply::{Applied, apply};
use crate::log::sqlite::ownership::Origin;
use crate::log::sqlite::replicas::{Verdict, receive};
use crate::log::sqlite::schema;
use crate::log::{Command, PendingBlock, Position};

/// A reader knows the formats up to its own.
const FORMAT: u8 = 1;
/// There will be none above: what begins so is not an entry.
const FORMAT_MAX: u8 = 31;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The life of the replica that wrote it.
    pub origin: String,
    /// From 1, without a gap.
    pub number: u64,
    #[serde(default)]
    pub commands: Vec<Command>,
    #[serde(default)]
    pub blocks: Vec<PendingBlock>,
}

/// What an entry of any version says.
#[derive(Deserialize)]
struct Head {
    origin: String,
    #[serde(rename = "number")]
    _number: u64,
}

impl Entry {
    /// Stands for a message of nobody's: nothing is done for it.
    fn of_nobody() -> Self {
        Self {
            origin: String::new(),
            number: 0,
            commands: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// What somebody has sent to the log by hand: it is passed over, by every replica.
    pub fn is_of_nobody(&self) -> bool {
        self.origin.is_empty()
    }

    pub fn encode(&self) -> Result<Bytes, String> {
        let mut bytes = vec![FORMAT];
        let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
        self.serialize(&mut serializer)
            .map_err(|error| format!("an entry cannot be written: {error}"))?;
        Ok(bytes.into())
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some((format @ 1..=FORMAT_MAX, rest)) = bytes.split_first() else {
            return Ok(Self::of_nobody());
        };
        if *format > FORMAT {
            return Err(format!(
                "it has format {format} and this arcpd reads up to {FORMAT}; upgrade this replica"
            ));
        }
        let entry: Self = match rmp_serde::from_slice(rest) {
            Ok(entry) => entry,
            Err(_) if !is_of_a_replica(rest) => return Ok(Self::of_nobody()),
            Err(error) => {
                return Err(format!(
                    "{error}; a newer arcpd may have written it: upgrade this replica"
                ));
            }
        };
        match entry.commands.iter().find_map(newer_store) {
            Some(store) => Err(format!(
                "it brings in a store of format {store} and this arcpd has {}; upgrade this replica",
                schema::FORMAT
            )),
            None => Ok(entry),
        }
    }
}

/// Whether it is at all what replicas write, of whatever version.
fn is_of_a_replica(rest: &[u8]) -> bool {
    rmp_serde::from_slice::<Head>(rest).is_ok_and(|head| !head.origin.is_empty())
}

/// The version of an import's tables, when this arcpd has not got that far.
fn newer_store(command: &Command) -> Option<i64> {
    match command {
        Command::ImportEnd { store, .. } if *store > schema::FORMAT => Some(*store),
        _ => None,
    }
}

impl Entry {
    /// What it does, with this sequence in the stream, to a store in which all before it has
    /// been applied: the same in each.
    pub fn apply(
        &self,
        connection: &Connection,
        tail: Position,
        sequence: u64,
    ) -> rusqlite::Result<(Verdict, Applied)> {
        let verdict = receive(connection, &self.origin, self.number, &self.commands)?;
        let applied = match verdict {
            Verdict::Apply(replica) => {
                let origin = Some(Origin { replica, sequence });
                apply(connection, origin, &self.commands, &self.blocks, tail)?
            }
            Verdict::Again | Verdict::Gap | Verdict::Fenced => Applied::default(),
        };
        Ok((verdict, applied))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{HostedAgentRow, JobEnd, ReportMark};

    #[test]
    fn an_entry_is_read_as_it_was_written_and_one_of_a_later_format_is_refused() {
        let block = PendingBlock {
            stream: 1 << 40,
            first_seq: 3,
            count: 1,
            data: Bytes::from_static(b"\x01x"),
            terminal: Some(JobEnd {
                status: "success".into(),
                ended_at_ms: 9,
            }),
            mark: Some(ReportMark {
                seq: 4,
                checkpoint: Some(Bytes::from_static(b"c")),
                ..ReportMark::default()
            }),
            spent_json: None,
            traced: true,
            epoch: 0,
        };
        let agent = HostedAgentRow {
            name: "a".into(),
            version: "1.0.0".into(),
            principal: "p".into(),
            seen_at_ms: 1,
            instance_id: "h".into(),
        };
        let entry = Entry {
            origin: "r".into(),
            number: 7,
            commands: vec![Command::KeepAgents(vec![agent]), Command::Leave],
            blocks: vec![block],
        };
        let mut bytes = entry.encode().unwrap().to_vec();
        let read = Entry::decode(&bytes).unwrap();
        assert_eq!(format!("{read:?}"), format!("{entry:?}"));
        bytes[0] = FORMAT + 1;
        assert!(Entry::decode(&bytes).unwrap_err().contains("upgrade"));
        let newer = Entry {
            commands: vec![Command::ImportEnd {
                import: "i".into(),
                parts: 1,
                store: schema::FORMAT + 1,
            }],
            blocks: Vec::new(),
            ..entry
        };
        let refused = Entry::decode(&newer.encode().unwrap()).unwrap_err();
        assert!(refused.contains("upgrade"), "{refused}");
    }

    /// Somebody tried the subject with `nats pub`: every replica stopped, and there was
    /// no way to go on.
    #[test]
    fn what_no_replica_has_written_is_passed_over() {
        let number = rmp_serde::to_vec(&7).unwrap();
        let nameless = rmp_serde::to_vec(&("", 1)).unwrap();
        let with_format = |rest: &[u8]| [&[FORMAT], rest].concat();
        let messages = [
            b"".to_vec(),
            b"hello".to_vec(),
            vec![0],
            vec![FORMAT],
            with_format(b"hello"),
            with_format(&number),
            with_format(&nameless),
        ];
        for message in messages {
            let read = Entry::decode(&message).unwrap();
            assert!(read.is_of_nobody(), "{message:?}");
            let store = Connection::open_in_memory().unwrap();
            schema::bring_up(&store, 0).unwrap();
            let (verdict, _) = read.apply(&store, 0, 1).unwrap();
            assert_eq!(verdict, Verdict::Gap);
        }
        // A later version's, with a command that is not known here.
        let commands = [std::collections::BTreeMap::from([("Later", 1)])];
        let later = serde_json::json!({ "origin": "r", "number": 1, "commands": commands });
        let later = with_format(&rmp_serde::to_vec_named(&later).unwrap());
        assert!(Entry::decode(&later).unwrap_err().contains("upgrade"));
    }
}
