//! URLs of `net.fetch` as sequences of segments.
//!
//! ```text
//!  https://api.example.com/v1/items?q=1
//!  [ https:443, com, example, api, /, v1, items ]   query: q=1
//! ```
//! Labels run from the root so that a host's wildcard, which may only stand for
//! whole labels on its left, comes after what is literal. The `/` between host and
//! path is in every URL once, so no wildcard reaches from one into the other.
//!
//! http and https only. A user name is refused, a fragment dropped, a default port
//! left out. Percent-encoding is brought to one form first (unreserved characters
//! decoded, hex in upper case); what could become another path behind a proxy is
//! refused: an encoded `/`, `\` or control character, an encoding of an encoding,
//! `..` in any spelling, an empty segment. `.` and a trailing slash are dropped.

use super::Segment;
use super::host::{self, Canonical};

/// The `/` between the host's labels and the path.
const ROOT: &str = "/";

#[derive(Debug)]
pub struct Url {
    pub segments: Vec<String>,
    pub query: Option<String>,
    pub text: String,
}

pub fn target(text: &str) -> Result<Url, String> {
    let parts = Parts::split(text)?;
    let (labels, host) = labels(parts.host)?;
    let path: Vec<String> = path_segments(parts.path)?
        .into_iter()
        .filter(|segment| segment != ".")
        .collect();
    // An empty query asks for the same as none.
    let query = match parts.query {
        None | Some("") => None,
        Some(query) => Some(normalise(query, &mut |_| Ok(()))?),
    };
    Ok(parts.assemble(&host, labels, path, query))
}

/// A pattern's URL: as a target, with wildcards in the path and on the left of the
/// host. Its query, if it has one, is compared whole; one that is empty asks for
/// none.
pub fn pattern(text: &str) -> Result<(Url, Vec<Segment>), String> {
    if text.contains('#') {
        return Err("a fragment never reaches a server".into());
    }
    let parts = Parts::split(text)?;
    if parts.query.is_some_and(|query| query.contains('*')) {
        return Err(
            "a query must not contain a wildcard: it would reach over other parameters".into(),
        );
    }
    let (wildcard, rest) = match parts.host.split_once('.') {
        Some((wildcard @ ("*" | "**"), rest)) => (Some(wildcard), rest),
        _ => (None, parts.host),
    };
    if rest.contains('*') {
        return Err("a wildcard in a host must be its whole first label: *.example.com".into());
    }
    let (mut labels, mut host) = labels(rest)?;
    if let Some(wildcard) = wildcard {
        // An address is one label here, so this refuses wildcards in addresses too.
        if labels.len() < 2 {
            return Err("a wildcard in a host must leave at least two labels".into());
        }
        labels.push(wildcard.into());
        host = format!("{wildcard}.{host}");
    }
    let path = path_segments(parts.path)?;
    if parts.path.len() > 1 && parts.path.ends_with('/')
        || path.iter().any(|segment| segment == ".")
    {
        return Err("a pattern must not have empty or `.` segments".into());
    }
    let query = parts
        .query
        .map(|query| normalise(query, &mut |_| Ok(())))
        .transpose()?;
    let url = parts.assemble(&host, labels, path, query);
    let segments = url
        .segments
        .iter()
        .map(|text| Segment::parse(text))
        .collect::<Result<_, _>>()?;
    Ok((url, segments))
}

struct Parts<'a> {
    scheme: &'static str,
    host: &'a str,
    port: u16,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, String> {
        // A lenient parser drops tabs and newlines and reads `\` as `/`.
        if text
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == '\\')
        {
            return Err("a URL must not contain spaces, control characters or a backslash".into());
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("a URL must have a scheme and ://")?;
        let (scheme, default_port) = match &*scheme.to_ascii_lowercase() {
            "https" => ("https", 443),
            "http" => ("http", 80),
            _ => return Err("the scheme must be http or https".into()),
        };
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (before, query) = match rest.split_once('?') {
            Some((before, query)) => (before, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = before.split_at(before.find('/').unwrap_or(before.len()));
        if authority.contains('@') {
            return Err("a URL must not contain a user name".into());
        }
        // The colons of an IPv6 address are inside its brackets.
        let end = authority.find(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[end..].find(':') {
            Some(at) => authority.split_at(end + at),
            None => (authority, ""),
        };
        let port = match port.strip_prefix(':') {
            None => default_port,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("the port must be 1 to 65535")?,
            Some(_) => return Err("the port must be a number".into()),
        };
        Ok(Self {
            scheme,
            host,
            port,
            path,
            query,
        })
    }

    fn assemble(
        &self,
        host: &str,
        labels: Vec<String>,
        path: Vec<String>,
        query: Option<String>,
    ) -> Url {
        let mut text = format!("{}://{host}", self.scheme);
        if !matches!((self.scheme, self.port), ("https", 443) | ("http", 80)) {
            text += &format!(":{}", self.port);
        }
        text += "/";
        text += &path.join("/");
        if let Some(query) = &query {
            text += "?";
            text += query;
        }
        let mut segments = vec![format!("{}:{}", self.scheme, self.port)];
        segments.extend(labels);
        segments.push(ROOT.into());
        segments.extend(path);
        Url {
            segments,
            query,
            text,
        }
    }
}

/// The host's labels from the root, and the host as written.
fn labels(host: &str) -> Result<(Vec<String>, String), String> {
    Ok(match host::canonical(host)? {
        Canonical::Name(name) => (name.rsplit('.').map(Into::into).collect(), name),
        Canonical::Address(address) => (vec![address.clone()], address),
    })
}

/// The path's segments in normal form; `.` is left to the caller.
fn path_segments(path: &str) -> Result<Vec<String>, String> {
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return match path.len() {
            0 | 1 => Ok(Vec::new()),
            _ => Err("a URL must not have an empty segment".into()),
        };
    }
    inner.split('/').map(segment).collect()
}

fn segment(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a URL must not have an empty segment".into());
    }
    let text = normalise(text, &mut |byte| match byte {
        b'/' | b'\\' => Err("a URL must not contain an encoded / or \\".into()),
        _ if byte.is_ascii_control() => {
            Err("a URL must not contain an encoded control character".into())
        }
        _ => Ok(()),
    })?;
    if percent_encoding::percent_decode_str(&text)
        .decode_utf8()
        .is_err()
    {
        // To an old decoder an overlong form is the dot or the slash that it stands for.
        return Err("a URL must not contain encoded bytes that are not UTF-8".into());
    }
    // `%25` and two hex digits is `%..` to whoever decodes twice.
    for (at, _) in text.match_indices("%25") {
        let next = text.as_bytes().get(at + 3..at + 5);
        if next.is_some_and(|next| next.iter().all(u8::is_ascii_hexdigit)) {
            return Err("a URL must not be percent-encoded twice".into());
        }
    }
    // Some servers cut parameters off before they resolve: `..;x` is `..` to them.
    let name = text.split(';').next().unwrap_or("");
    let name = name.split("%3B").next().unwrap_or("");
    // Windows trims spaces and dots from the end of a name: `..%20` is `..` there.
    let bare = name.replace("%20", "");
    if name.starts_with('.') && text != "." && bare.bytes().all(|byte| byte == b'.') {
        return Err("a URL must not contain `..`".into());
    }
    Ok(text)
}

/// One spelling for each text: unreserved characters decoded, hex in upper case,
/// what no URL may hold encoded. `check` sees each byte that was encoded.
fn normalise(
    text: &str,
    check: &mut dyn FnMut(u8) -> Result<(), String>,
) -> Result<String, String> {
    let mut normal = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            match byte.is_ascii_graphic()
                && !matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
            {
                true => normal.push(byte.into()),
                false => encode(byte, &mut normal),
            }
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| (byte as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err("a % must be followed by two hex digits".into());
        };
        let byte = (high * 16 + low) as u8;
        check(byte)?;
        match byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            true => normal.push(byte.into()),
            false => encode(byte, &mut normal),
        }
    }
    Ok(normal)
}

/// Byte by byte: formatting each took most of the time of a question.
fn encode(byte: u8, text: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(HEX[usize::from(byte >> 4)].into());
    text.push(HEX[usize::from(byte & 15)].into());
}
