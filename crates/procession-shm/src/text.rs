//! Short texts in shared words.

use crate::primitive::{AtomicU64, Ordering};

/// Reads a text that another process may be writing: what is torn shows as replacement characters.
pub(crate) fn load_text(words: &[AtomicU64]) -> String {
    let bytes: Vec<u8> = words
        .iter()
        .flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes())
        .collect();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Stores a text, cut where it does not fit (at a character's edge).
pub(crate) fn store_text(words: &[AtomicU64], text: &str) {
    let mut end = text.len().min(words.len() * 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = vec![0u8; words.len() * 8];
    bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
    for (w, b) in words.iter().zip(bytes.chunks_exact(8)) {
        w.store(
            u64::from_le_bytes(b.try_into().expect("eight bytes")),
            Ordering::Relaxed,
        );
    }
}
