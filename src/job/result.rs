//! What a job leaves behind: JSON in its terminal, or chunks before it (§8.4).

use base64::Engine;

use super::JobContext;
use crate::protocol::{EventBody, Failure, id};

/// Largest inline result, in bytes of JSON: it goes out twice, as `result` and
/// as `output`, in a frame below 1,000,000 bytes.
pub const INLINE_BYTES_MAX: usize = 400_000;
/// Largest chunk, in decoded bytes.
pub const CHUNK_BYTES_MAX: usize = 512 * 1024;
/// A chunk's text once escaped as JSON, so that its frame stays below the limit.
const CHUNK_JSON_BYTES_MAX: usize = 900_000;

/// How an agent's run ended well.
#[derive(Debug)]
pub struct AgentResult(pub(super) Form);

#[derive(Debug)]
pub(super) enum Form {
    Inline(String),
    Chunked {
        result_id: String,
        result_size: u64,
        summary: Option<String>,
    },
}

/// JSON text; one too large for a terminal is sent in chunks.
impl From<String> for AgentResult {
    fn from(json: String) -> Self {
        Self(Form::Inline(json))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkEncoding {
    Utf8,
    Base64,
}

impl ChunkEncoding {
    fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "utf8",
            Self::Base64 => "base64",
        }
    }
}

/// Sends a result in chunks of one encoding; [`ResultWriter::finish`] makes the
/// agent's result of it. One per job.
pub struct ResultWriter {
    job: JobContext,
    result_id: String,
    encoding: ChunkEncoding,
    chunk_bytes: usize,
    result_bytes_max: u64,
    pending: Vec<u8>,
    chunk_seq: u64,
    size: u64,
}

impl ResultWriter {
    pub(super) fn new(
        job: JobContext,
        encoding: ChunkEncoding,
        chunk_bytes: usize,
        result_bytes_max: u64,
    ) -> Self {
        Self {
            job,
            result_id: id::result_id(),
            encoding,
            chunk_bytes: chunk_bytes.clamp(1, CHUNK_BYTES_MAX),
            result_bytes_max,
            pending: Vec::new(),
            chunk_seq: 0,
            size: 0,
        }
    }

    /// Adds bytes; waits while the job's buffer is full.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.size += bytes.len() as u64;
        if self.size > self.result_bytes_max {
            return Err(Failure::internal(format!(
                "result: more than {} bytes, which is the limit; use an artifact",
                self.result_bytes_max
            )));
        }
        for piece in bytes.chunks(self.chunk_bytes) {
            self.pending.extend_from_slice(piece);
            // One byte stays behind, so that the last chunk is known as such.
            while self.pending.len() > self.chunk_bytes {
                self.send_chunk(true).await?;
            }
        }
        Ok(())
    }

    /// Sends what is left and ends the result.
    pub async fn finish(mut self, summary: Option<String>) -> Result<AgentResult, Failure> {
        while self.cut()? < self.pending.len() {
            self.send_chunk(true).await?;
        }
        self.send_chunk(false).await?;
        Ok(AgentResult(Form::Chunked {
            result_id: self.result_id,
            result_size: self.size,
            summary,
        }))
    }

    async fn send_chunk(&mut self, more: bool) -> Result<(), Failure> {
        let cut = self.cut()?;
        let data = match self.encoding {
            // `cut` ends at the end of a character.
            ChunkEncoding::Utf8 => String::from_utf8_lossy(&self.pending[..cut]).into_owned(),
            ChunkEncoding::Base64 => {
                base64::engine::general_purpose::STANDARD.encode(&self.pending[..cut])
            }
        };
        self.pending.drain(..cut);
        let body = EventBody::ResultChunk {
            result_id: self.result_id.clone(),
            chunk_seq: self.chunk_seq,
            data,
            encoding: self.encoding.name().into(),
            more,
        };
        self.chunk_seq += 1;
        self.job.emit_own(body).await
    }

    /// Bytes of the next chunk.
    fn cut(&self) -> Result<usize, Failure> {
        let len = self.pending.len().min(self.chunk_bytes);
        match self.encoding {
            ChunkEncoding::Base64 => Ok(len),
            ChunkEncoding::Utf8 => utf8_cut(&self.pending, len),
        }
    }
}

/// The longest prefix of at most `bytes_max` bytes, but at least one character,
/// that ends with a character and fits a frame once escaped.
fn utf8_cut(bytes: &[u8], bytes_max: usize) -> Result<usize, Failure> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // The rest of the last character may still come.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(error) => {
            return Err(Failure::invalid(format!(
                "result: byte {} is not UTF-8; use base64",
                error.valid_up_to()
            )));
        }
    };
    let mut escaped = 0;
    for (start, c) in text.char_indices() {
        escaped += escaped_len(c);
        let end = start + c.len_utf8();
        if start > 0 && (end > bytes_max || escaped > CHUNK_JSON_BYTES_MAX) {
            return Ok(start);
        }
    }
    Ok(text.len())
}

/// A text in pieces that each fit a chunk.
pub(crate) fn utf8_pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        // A text is UTF-8 and a cut is never nothing.
        let cut = utf8_cut(text.as_bytes(), CHUNK_BYTES_MAX).ok()?;
        let (piece, rest) = text.split_at(cut);
        text = rest;
        Some(piece)
    })
}

/// Bytes of a character in a JSON string, at most.
fn escaped_len(c: char) -> usize {
    match c {
        '"' | '\\' => 2,
        '\0'..='\x1f' => 6,
        c => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_below_the_frame_limit() {
        assert_eq!(utf8_cut("aé€".as_bytes(), 3).unwrap(), 3);
        assert_eq!(utf8_cut("aé€".as_bytes(), 2).unwrap(), 1);
        assert_eq!(utf8_cut("€".as_bytes(), 1).unwrap(), 3, "never nothing");
        assert_eq!(utf8_cut(&"é".as_bytes()[..1], 8).unwrap(), 0);
        assert!(utf8_cut(b"a\xff", 8).is_err());
        let controls = "\u{1}".repeat(CHUNK_BYTES_MAX);
        assert_eq!(
            utf8_cut(controls.as_bytes(), CHUNK_BYTES_MAX).unwrap(),
            CHUNK_JSON_BYTES_MAX / 6
        );
    }
}
