//! A contiguous part of a batch, as it is sent.

use bytes::{BufMut, Bytes, BytesMut};
use ledger::span::Span;
use ledger::staging::Promise;

const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_TRAILER: &[u8] = b"\xff\xff";

/// Bytes in one row of a COPY: the backend processes one such piece at a time.
const PIECE: usize = 32 << 10;

/// A contiguous part of a batch, ready to be sent.
#[derive(Debug)]
pub struct Slice<'b> {
    pub span: Span,
    pub content: Content<'b>,
    /// The fingerprint of its last record.
    pub last_record: Option<[u8; 16]>,
}

#[derive(Debug)]
pub enum Content<'b> {
    Balance(Staged),
    Domain(Records<'b>),
}

/// Balance events in their staged form, and the promise about them. The bytes are shared with the batch.
#[derive(Clone, Debug)]
pub struct Staged {
    pub bytes: Bytes,
    pub promise: Promise,
}

impl Staged {
    pub(super) fn of(bytes: Bytes, rows: usize) -> Self {
        let promise = Promise::of(&bytes, rows);
        Self { bytes, promise }
    }

    /// Whether it fits into one row: an INSERT, which unlike a COPY needs no answer in between, and which can share its
    /// transaction with batches of other partitions.
    pub fn is_small(&self) -> bool {
        self.promise.rows > 0 && self.bytes.len() <= PIECE
    }

    /// The messages of a binary COPY of one column, each piece a row.
    pub fn copy(&self) -> impl Iterator<Item = Bytes> + '_ {
        let pieces = (0..self.bytes.len()).step_by(PIECE).flat_map(|start| {
            let piece = self.bytes.slice(start..self.bytes.len().min(start + PIECE));
            let mut head = BytesMut::with_capacity(6);
            head.put_i16(1);
            head.put_i32(piece.len() as i32);
            [head.freeze(), piece]
        });
        let header = std::iter::once(Bytes::from_static(COPY_HEADER));
        header
            .chain(pieces)
            .chain(std::iter::once(Bytes::from_static(COPY_TRAILER)))
    }
}

/// Raw records, column by column.
#[derive(Debug, Default)]
pub struct Records<'b> {
    pub offsets: Vec<i64>,
    pub times_ms: Vec<i64>,
    pub keys: Vec<Option<&'b [u8]>>,
    pub payloads: Vec<Option<&'b [u8]>>,
    pub headers: Vec<Option<&'b str>>,
}

impl Slice<'_> {
    /// The size of what is sent, for messages.
    pub fn rows(&self) -> i64 {
        match &self.content {
            Content::Balance(staged) => staged.promise.rows,
            Content::Domain(records) => records.offsets.len() as i64,
        }
    }

    /// The number of bytes that are sent.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Balance(staged) => staged.bytes.len(),
            Content::Domain(records) => {
                let raw = records.payloads.iter().chain(&records.keys).flatten();
                let headers = records.headers.iter().flatten();
                raw.map(|one| one.len())
                    .chain(headers.map(|one| one.len()))
                    .sum()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_staged_bytes_in_pieces() {
        let bytes: Vec<u8> = (0..2 * PIECE + 7).map(|byte| byte as u8).collect();
        let staged = Staged::of(bytes.clone().into(), 3);
        assert!(!staged.is_small(), "more than one piece");
        let copy = staged.copy().collect::<Vec<_>>().concat();
        let mut rest = copy.strip_prefix(COPY_HEADER).expect("a header");
        let mut copied = Vec::new();
        while let Some(row) = rest.strip_prefix(&[0, 1]) {
            let (length, row) = row.split_first_chunk::<4>().expect("a length");
            let (piece, next) = row.split_at(u32::from_be_bytes(*length) as usize);
            assert!(!piece.is_empty() && piece.len() <= PIECE);
            copied.extend_from_slice(piece);
            rest = next;
        }
        assert_eq!(rest, COPY_TRAILER, "the end");
        assert_eq!(copied, bytes);
    }

    #[test]
    fn what_is_sent_is_shared_with_the_batch() {
        let bytes = Bytes::from(vec![1; 2 * PIECE]);
        let staged = Staged::of(bytes.clone(), 3);
        let pieces: Vec<Bytes> = staged.copy().filter(|piece| piece.len() == PIECE).collect();
        let at = |bytes: &Bytes| bytes.as_ptr() as usize;
        assert_eq!(
            pieces.iter().map(at).collect::<Vec<_>>(),
            [at(&bytes), at(&bytes) + PIECE]
        );
    }
}
