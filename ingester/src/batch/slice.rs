//! A contiguous part of a batch, as it is sent.

use bytes::{BufMut, Bytes, BytesMut};
use ledger::staging;

const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Bytes in one row of the COPY: the backend takes in one such piece at a time.
const PIECE: usize = 32 << 10;

/// A contiguous part of a batch, ready to be sent.
#[derive(Debug)]
pub struct Slice<'b> {
    pub from_offset: i64,
    pub next_offset: i64,
    pub content: Content<'b>,
    pub last_record: Option<[u8; 16]>,
}

#[derive(Debug)]
pub enum Content<'b> {
    Balance(Rows),
    Domain(Records<'b>),
}

/// What is staged, and what is promised of it.
#[derive(Debug)]
pub struct Rows {
    pub staged: Staged,
    pub count: i64,
    pub checksum: i64,
}

impl Rows {
    pub(super) fn new(staged: &[u8], count: usize) -> Self {
        Self {
            staged: Staged::of(staged),
            count: count as i64,
            checksum: staging::checksum(staged),
        }
    }
}

/// How it is sent.
#[derive(Debug)]
pub enum Staged {
    /// Little: one row, by an INSERT that needs no answer in between as a COPY does.
    Piece(Vec<u8>),
    /// A binary COPY.
    Copy(Bytes),
}

impl Staged {
    fn of(staged: &[u8]) -> Self {
        if staged.len() <= PIECE {
            Self::Piece(staged.to_vec())
        } else {
            Self::Copy(copy_of(staged))
        }
    }
}

/// A binary COPY of one column, each piece a row.
fn copy_of(staged: &[u8]) -> Bytes {
    let pieces = staged.len().div_ceil(PIECE);
    let mut copy = BytesMut::with_capacity(COPY_HEADER.len() + staged.len() + 6 * pieces + 2);
    copy.extend_from_slice(COPY_HEADER);
    for piece in staged.chunks(PIECE) {
        copy.put_i16(1);
        copy.put_i32(piece.len() as i32);
        copy.extend_from_slice(piece);
    }
    copy.put_i16(-1);
    copy.freeze()
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
    /// How much is sent, for people.
    pub fn rows(&self) -> i64 {
        match &self.content {
            Content::Balance(rows) => rows.count,
            Content::Domain(records) => records.offsets.len() as i64,
        }
    }

    /// Bytes that are sent.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Balance(rows) => match &rows.staged {
                Staged::Piece(piece) => piece.len(),
                Staged::Copy(copy) => copy.len(),
            },
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
        let staged: Vec<u8> = (0..2 * PIECE + 7).map(|byte| byte as u8).collect();
        let Staged::Copy(copy) = Staged::of(&staged) else {
            panic!("more than one piece");
        };
        let mut rest = copy.strip_prefix(COPY_HEADER).expect("a header");
        let mut copied = Vec::new();
        while let Some(row) = rest.strip_prefix(&[0, 1]) {
            let (length, row) = row.split_first_chunk::<4>().expect("a length");
            let (piece, next) = row.split_at(u32::from_be_bytes(*length) as usize);
            assert!(!piece.is_empty() && piece.len() <= PIECE);
            copied.extend_from_slice(piece);
            rest = next;
        }
        assert_eq!(rest, [0xff, 0xff], "the end");
        assert_eq!(copied, staged);
    }
}
