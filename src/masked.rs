//! URLs without what they may have in front of their host.

/// `scheme://user:password@host` as `scheme://***@host`, in each URL of a text, be it
/// one that could be parsed or not.
pub(crate) fn without_user_info(text: &str) -> String {
    let mut parts = text.split("://").peekable();
    let mut shown = Vec::new();
    // In front of the first scheme there is nothing to hide, if there is a scheme.
    if parts.peek().is_some_and(|first| first.len() < text.len()) {
        shown.extend(parts.next().map(String::from));
    }
    // A password may have any sign in it that it should not have.
    shown.extend(parts.map(|part| match part.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => part.into(),
    }));
    shown.join("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_of_a_url_is_not_shown_however_it_is_written() {
        for (text, shown) in [
            ("http://collector:4317/path", "http://collector:4317/path"),
            ("http://user:hunter2@host:1/p", "http://***@host:1/p"),
            ("https://hunter2@host", "https://***@host"),
            ("http://u:hun/ter2,#@x@host", "http://***@host"),
            ("user:hunter2@host:4317", "***@host:4317"),
            ("nats://u:hunter2@a:1,nats://b", "nats://***@a:1,nats://b"),
            ("", ""),
        ] {
            assert_eq!(without_user_info(text), shown);
        }
    }
}
