//! A group as the stream carries it: the format's number, then MessagePack with named
//! fields, so that a field that is added has a default where it is missing.

use bytes::Bytes;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::log::sqlite::apply::{Applied, apply};
use crate::log::sqlite::ownership::{Origin, Verdict, receive};
use crate::log::sqlite::schema;
use crate::log::{Command, PendingBlock, Position};

/// A reader knows the formats up to its own.
const FORMAT: u8 = 1;

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

impl Entry {
    pub fn encode(&self) -> Result<Bytes, String> {
        let mut bytes = vec![FORMAT];
        let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
        self.serialize(&mut serializer)
            .map_err(|error| format!("an entry cannot be written: {error}"))?;
        Ok(bytes.into())
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (format, rest) = bytes.split_first().ok_or("it is empty")?;
        if *format > FORMAT {
            return Err(format!(
                "it has format {format} and this arcpd reads up to {FORMAT}; upgrade this replica"
            ));
        }
        let entry: Self = rmp_serde::from_slice(rest).map_err(|error| {
            format!("{error}; a newer arcpd may have written it: upgrade this replica")
        })?;
        match entry.commands.iter().find_map(newer_store) {
            Some(store) => Err(format!(
                "it brings in a store of format {store} and this arcpd has {}; upgrade this replica",
                schema::FORMAT
            )),
            None => Ok(entry),
        }
    }
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
        assert!(Entry::decode(&[]).is_err());
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
}
