//! Hosts of URLs in the one form in which they are compared.
//!
//! Names: lower case, IDNA to ASCII, no trailing dot. Addresses: only as they are
//! printed, since `0177.0.0.1` and `0x7f.1` are one host to one client and another
//! to the next. Nothing encoded with `%`: only some clients decode it.

use url::Host;

const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Letters and joiners that the two IDNA standards send to different hosts.
const AMBIGUOUS: [char; 5] = ['ß', 'ẞ', 'ς', '\u{200c}', '\u{200d}'];

#[derive(Debug)]
pub enum Canonical {
    Name(String),
    /// IPv6 in brackets.
    Address(String),
}

pub fn canonical(text: &str) -> Result<Canonical, String> {
    if text.is_empty() {
        return Err("the host is empty".into());
    }
    if let Some(c) = text.chars().find(|c| AMBIGUOUS.contains(c)) {
        return Err(format!(
            "the host has {:?}, which names different hosts to different clients; write it as xn--",
            c.escape_unicode().to_string()
        ));
    }
    let bracketed = text.starts_with('[');
    let plain =
        |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !bracketed && !text.chars().all(plain) {
        return Err("the host has a character that no host name has".into());
    }
    match Host::parse(text).map_err(|error| format!("the host is not valid: {error}"))? {
        Host::Domain(name) => check_name(name).map(Canonical::Name),
        address @ Host::Ipv6(_) => Ok(Canonical::Address(address.to_string())),
        Host::Ipv4(address) => {
            let printed = address.to_string();
            match text.strip_suffix('.').unwrap_or(text) == printed {
                true => Ok(Canonical::Address(printed)),
                false => Err(format!(
                    "the host is an address in an odd form: write {printed}"
                )),
            }
        }
    }
}

/// What IDNA lets through is wider than what may be compared.
fn check_name(name: String) -> Result<String, String> {
    let name = name.strip_suffix('.').unwrap_or(&name);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES_MAX
            && label.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
            })
    };
    match name.len() <= NAME_BYTES_MAX && name.split('.').all(label) {
        true => Ok(name.to_owned()),
        false => Err("the host has an empty, overlong or malformed label".into()),
    }
}
