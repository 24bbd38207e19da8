//! Variable-length datums in a Rust buffer instead of palloc'd memory: they are copied into a
//! tuple right away, so the backend need not free them.

use ledger::amount::Amount;
use pgrx::pg_sys;

use super::numeric;

/// A reusable arena of 4-byte aligned varlenas for the columns of one row.
#[derive(Default)]
pub struct Varlenas {
    words: Vec<u32>,
    scratch: Vec<u8>,
    starts: Vec<usize>,
}

impl Varlenas {
    pub fn clear(&mut self) {
        self.words.clear();
        self.starts.clear();
    }

    /// Adds bytes and returns their index for [`Self::datum`].
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let length = bytes.len() + 4;
        self.starts.push(self.words.len());
        // SET_VARSIZE_4B of varatt.h: the length in the upper 30 bits on little-endian machines.
        let header = if cfg!(target_endian = "little") {
            (length as u32) << 2
        } else {
            length as u32
        };
        self.words.push(header);
        for chunk in bytes.chunks(4) {
            let mut word = [0u8; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            self.words.push(u32::from_ne_bytes(word));
        }
        self.starts.len() - 1
    }

    pub fn push_amount(&mut self, amount: Amount) -> usize {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        numeric::encode(amount, &mut scratch);
        let index = self.push(&scratch);
        self.scratch = scratch;
        index
    }

    /// The datum of one pushed value, valid until the next `push` or `clear`.
    pub fn datum(&self, index: usize) -> pg_sys::Datum {
        pg_sys::Datum::from(self.words[self.starts[index]..].as_ptr())
    }
}

/// Whether a text equals the given one.
///
/// # Safety
/// `text` is a valid datum of type text; one that is short is inline, and only what is compressed or elsewhere is copied.
pub unsafe fn is_text(text: pg_sys::Datum, wanted: &str) -> bool {
    // SAFETY: by contract.
    unsafe {
        let packed = pg_sys::pg_detoast_datum_packed(text.cast_mut_ptr());
        pgrx::varlena::varlena_to_byte_slice(packed) == wanted.as_bytes()
    }
}
