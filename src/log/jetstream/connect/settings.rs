//! Whether a stream keeps what a log has to keep: an operator may have made it beforehand,
//! or changed it since.

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

use super::PAYLOAD_MIN;

/// What is wrong with it, and what to do about that. Of the number of copies the caller
/// decides.
pub(super) fn amiss(config: &Config, subject: &str) -> Option<String> {
    let again = "it cannot be changed: remove the stream if nothing is in it, and it is made again";
    let edit = |option: &str| format!("say `nats stream edit {} {option}`", config.name);
    if config.storage != StorageType::File {
        return Some(format!("its storage is memory, not file; {again}"));
    }
    if config.retention != RetentionPolicy::Limits {
        let has = config.retention;
        return Some(format!(
            "its retention is {has:?}, which removes what is read, not limits; {again}"
        ));
    }
    if config.subjects != [subject] {
        let has = config.subjects.join(", ");
        let edit = edit(&format!("--subjects={subject}"));
        return Some(format!(
            "its subjects are {has}, not {subject} alone; {edit}"
        ));
    }
    // -1 and 0 are no bound.
    let removes = [
        ("max_msgs", config.max_messages, "--max-msgs=-1"),
        (
            "max_msgs_per_subject",
            config.max_messages_per_subject,
            "--max-msgs-per-subject=-1",
        ),
    ];
    if let Some((name, has, option)) = removes.into_iter().find(|(_, has, _)| *has > 0) {
        let edit = edit(option);
        return Some(format!(
            "its {name} is {has}, which removes what replicas have yet to read; {edit}"
        ));
    }
    if !config.max_age.is_zero() {
        let (has, edit) = (config.max_age, edit("--max-age=-1"));
        return Some(format!(
            "its max_age is {has:?}, which removes what replicas have yet to read; {edit}"
        ));
    }
    if config.max_bytes > 0 && config.discard != DiscardPolicy::New {
        let edit = edit("--discard=new");
        return Some(format!(
            "its discard is old with a max_bytes of {}, which removes what replicas have yet to \
             read; {edit}",
            config.max_bytes
        ));
    }
    let largest = config.max_message_size;
    if largest > 0 && (largest as usize) < PAYLOAD_MIN {
        let edit = edit("--max-msg-size=-1");
        return Some(format!(
            "its max_msg_size is {largest}, and entries have up to {PAYLOAD_MIN} bytes; {edit}"
        ));
    }
    if config.no_ack {
        return Some(format!(
            "it acknowledges nothing (no_ack); {}",
            edit("--ack")
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SUBJECT: &str = "arcp.c.log";

    type Spoil = fn(&mut Config);

    fn well() -> Config {
        Config {
            name: "ARCP_LOG_c".into(),
            subjects: vec![SUBJECT.into()],
            max_messages: -1,
            max_messages_per_subject: -1,
            max_bytes: 1 << 30,
            discard: DiscardPolicy::New,
            ..Config::default()
        }
    }

    /// A cell went on with a stream that kept five messages, and one in memory was taken.
    #[test]
    fn a_stream_that_does_not_keep_what_it_has_is_told_by_its_field() {
        assert_eq!(amiss(&well(), SUBJECT), None);
        let spoilt: [(&str, Spoil); 9] = [
            ("storage", |c| c.storage = StorageType::Memory),
            ("retention", |c| c.retention = RetentionPolicy::WorkQueue),
            ("subjects", |c| c.subjects.push("other".into())),
            ("max_msgs", |c| c.max_messages = 5),
            ("max_msgs_per_subject", |c| c.max_messages_per_subject = 1),
            ("max_age", |c| c.max_age = Duration::from_millis(500)),
            ("discard", |c| c.discard = DiscardPolicy::Old),
            ("max_msg_size", |c| c.max_message_size = 2_000),
            ("no_ack", |c| c.no_ack = true),
        ];
        for (field, spoil) in spoilt {
            let mut config = well();
            spoil(&mut config);
            let why = amiss(&config, SUBJECT).expect(field);
            assert!(why.contains(field) && why.contains("; "), "{why}");
        }
    }
}
