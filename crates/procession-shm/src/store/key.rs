//! Keys of maps: what they are found by, and what is shown of them.

use crate::error::ShmError;
use crate::ring::Message;
use crate::session::Session;

use super::value::{OPAQUE, SHOWN, Stored};

/// A key as it is looked for, and as it is stored if it is new.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    /// Keys are equal if these bytes are, unless the key is opaque.
    pub identity: &'a [u8],
    /// What is shown of the key, if it is not its identity. Only an opaque key may have a block.
    pub shown: Message<'a>,
    /// Equality of such a key is known to the caller alone. It has no identity.
    pub opaque: bool,
    pub(super) hash: u64,
}

impl<'a> Key<'a> {
    /// A key that is its own identity.
    pub fn plain(identity: &'a [u8]) -> Self {
        Self {
            identity,
            shown: Message::default(),
            opaque: false,
            hash: hash(identity),
        }
    }

    /// A key that is shown as something else.
    pub fn shown(identity: &'a [u8], shown: Message<'a>) -> Self {
        Self {
            shown,
            ..Self::plain(identity)
        }
    }

    /// A key whose equality only the caller knows.
    pub fn opaque(shown: Message<'a>) -> Self {
        Self {
            identity: &[],
            shown,
            opaque: true,
            hash: 0,
        }
    }

    /// Copies it, to be put into a map.
    pub(super) fn store(&self, session: &'static Session) -> Result<Stored, ShmError> {
        if self.opaque {
            return Ok(Stored::make(session, self.shown)?.flagged(OPAQUE));
        }
        if self.shown.is_empty() {
            return Stored::make_key(session, Message::new(self.identity));
        }
        let mut bytes = (self.identity.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(self.identity);
        bytes.extend_from_slice(self.shown.bytes);
        let message = Message {
            bytes: &bytes,
            ..self.shown
        };
        Ok(Stored::make_key(session, message)?.flagged(SHOWN))
    }
}

/// The same in every process: hashes are stored.
fn hash(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    let mut h = mix(0, bytes.len() as u64);
    for chunk in &mut chunks {
        h = mix(
            h,
            u64::from_le_bytes(chunk.try_into().expect("eight bytes")),
        );
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(mix(h, u64::from_le_bytes(last)), 0)
}

/// Both halves of the result depend on all bits.
fn mix(h: u64, word: u64) -> u64 {
    const MANY: u128 = 0x9e37_79b9_7f4a_7c15;
    let wide = u128::from(h ^ word ^ 0x517c_c1b7_2722_0a95) * MANY;
    (wide as u64) ^ (wide >> 64) as u64 ^ h.rotate_left(29)
}
