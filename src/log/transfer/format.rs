//! The file: a line of JSON that says what it is, then frames, each a length of four
//! bytes (big-endian) and so many bytes of MessagePack ([`Rows`]), then a length of 0 and
//! the SHA-256 of all that came before.

use std::io::{BufRead, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Of the file, not of the store in it.
pub const FORMAT: i64 = 1;
/// A frame has one row that is larger, or less.
pub const FRAME_BYTES: usize = 512 * 1024;
/// More is damage: the largest row is far below.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
const HEADER_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Deserialize, Serialize)]
pub struct Header {
    /// [`FORMAT`].
    pub arcpd_export: i64,
    /// Of the store's tables.
    pub store: i64,
    /// Of the arcpd that wrote it, for people.
    pub version: String,
    pub exported_at: String,
    /// What the cell's stream was given when it was made, where a replica's store was
    /// exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
    /// Of the stream, where a replica's store was exported: all up to there is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

/// Writes and adds up.
pub struct Writer<W> {
    to: W,
    sum: Sha256,
}

/// Reads and adds up.
pub struct Reader<R> {
    from: R,
    sum: Sha256,
}

impl<W: Write> Writer<W> {
    pub fn new(to: W) -> Self {
        let sum = Sha256::new();
        Self { to, sum }
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.sum.update(bytes);
        self.to.write_all(bytes)
    }

    pub fn header(&mut self, header: &Header) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(header)?;
        line.push(b'\n');
        self.put(&line)
    }

    pub fn frame(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
        self.put(&len.to_be_bytes())?;
        self.put(bytes)
    }

    pub fn end(mut self) -> std::io::Result<W> {
        self.put(&0u32.to_be_bytes())?;
        self.to.write_all(&self.sum.finalize())?;
        self.to.flush()?;
        Ok(self.to)
    }
}

impl<R: BufRead> Reader<R> {
    pub fn new(from: R) -> Self {
        let sum = Sha256::new();
        Self { from, sum }
    }

    /// None of a file that is not one of ours.
    pub fn header(&mut self) -> std::io::Result<Option<Header>> {
        let mut line = Vec::new();
        (&mut self.from)
            .take(HEADER_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        self.sum.update(&line);
        Ok(serde_json::from_slice(&line).ok())
    }

    /// None at the end, once the sum is right. An error says what is wrong.
    pub fn frame(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut len = [0; 4];
        self.exactly(&mut len)?;
        let len = u32::from_be_bytes(len) as usize;
        if len == 0 {
            return self.at_end().map(|()| None);
        }
        if len > FRAME_BYTES_MAX {
            return Err(format!("a frame of {len} bytes"));
        }
        let mut bytes = vec![0; len];
        self.exactly(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn exactly(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.from.read_exact(bytes).map_err(|e| e.to_string())?;
        self.sum.update(&*bytes);
        Ok(())
    }

    fn at_end(&mut self) -> Result<(), String> {
        let mut sum = [0; 32];
        self.from.read_exact(&mut sum).map_err(|e| e.to_string())?;
        if sum != *self.sum.clone().finalize() {
            return Err("its checksum is another".into());
        }
        let more = self.from.fill_buf().map_err(|e| e.to_string())?;
        match more.is_empty() {
            true => Ok(()),
            false => Err("there is more behind its end".into()),
        }
    }
}
