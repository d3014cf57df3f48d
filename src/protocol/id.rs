//! Identifiers. Sessions, jobs and results are `<prefix>_<ULID>`; envelope ids
//! in a session's numbered stream follow from the session and the number.

use ulid::Ulid;

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

pub fn session_id() -> String {
    format!("sess_{}", Ulid::generate())
}

pub fn job_id() -> String {
    format!("job_{}", Ulid::generate())
}

pub fn result_id() -> String {
    format!("res_{}", Ulid::generate())
}

pub fn credential_id() -> String {
    format!("cred_{}", Ulid::generate())
}

/// An id for a message outside the numbered stream.
pub fn message_id() -> String {
    Ulid::generate().to_string()
}

/// A W3C trace id: 32 lower-case hex digits, never all zero.
pub fn trace_id() -> String {
    format!("{:032x}", rand::random::<u128>() | 1)
}

/// Reads a trace id of 32 hex digits in lower case; anything else counts as absent. §11
/// shows this form and describes a `traceparent`, which is [`super::trace`]'s to read.
pub fn parse_trace_id(hex: &str) -> Option<String> {
    let well_formed = hex.len() == 32
        && hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && hex.bytes().any(|b| b != b'0');
    well_formed.then(|| hex.to_owned())
}

/// The ids of a session's numbered envelopes: a ULID whose first 16 characters
/// are the session's and whose last ten are `event_seq`, so that a replay
/// carries the same ids without storing any.
#[derive(Clone, Copy, Debug)]
pub struct EventIds {
    prefix: [u8; 16],
}

impl EventIds {
    pub fn of_session(session_id: &str) -> Self {
        let ulid = session_id
            .strip_prefix("sess_")
            .unwrap_or(session_id)
            .as_bytes();
        let mut prefix = [b'0'; 16];
        for (to, from) in prefix.iter_mut().zip(ulid) {
            *to = *from;
        }
        Self { prefix }
    }

    pub fn at(&self, event_seq: u64) -> [u8; 26] {
        let mut id = [0; 26];
        id[..16].copy_from_slice(&self.prefix);
        for (place, byte) in id[16..].iter_mut().rev().enumerate() {
            *byte = CROCKFORD[((event_seq >> (5 * place)) & 31) as usize];
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_are_ulids_that_grow_with_the_number() {
        let ids = EventIds::of_session(&session_id());
        let text = |seq| String::from_utf8(ids.at(seq).to_vec()).unwrap();
        assert!(text(1).parse::<Ulid>().is_ok());
        assert!(text(1) < text(2) && text(31) < text(32) && text(1 << 40) > text(1 << 39));
    }

    #[test]
    fn trace_ids_are_read() {
        let id = trace_id();
        assert_eq!(parse_trace_id(&id).as_ref(), Some(&id));
        for bad in ["", "0", &"0".repeat(32), &"G".repeat(32), "00-x-y-z"] {
            assert_eq!(parse_trace_id(bad), None);
        }
    }
}
