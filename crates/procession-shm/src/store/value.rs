//! A value as a store keeps it: two words, and at most one block behind them.

use crate::arena::BlockOwner;
use crate::bundle::{self, Part};
use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::memory::Memory;
use crate::objects::Handle;
use crate::primitive::{AtomicU64, Ordering};
use crate::ring::Message;
use crate::session::Session;

/// The first word: length in bits 0..40, the first byte of an inline value in bits 40..48, flags above. Zero: no value.
const LEN: u64 = (1 << 40) - 1;
/// The bytes stand in the words themselves.
const INLINE: u64 = 1 << 48;
/// The second word is a block with the bytes.
const BYTES: u64 = 1 << 49;
/// The second word is a bundle: the block with the bytes, then what goes with them (tickets).
const PARTS: u64 = 1 << 50;
/// Where the bytes would be is a ticket for a memory object that has them: it is read without the guard.
const PINNED: u64 = 1 << 51;
/// Of a key: equality is not that of its bytes.
pub(super) const OPAQUE: u64 = 1 << 52;
/// Of a key: its identity (with its length before it) comes before the bytes to be shown.
pub(super) const SHOWN: u64 = 1 << 53;

/// Longer values are copied by their readers without the guard.
pub const PIN: usize = 64 << 10;
/// Bytes that fit in the words.
pub(super) const MOST_INLINE: usize = 9;

/// The two words as they stand in shared memory.
pub(super) type Words = [AtomicU64; 2];

/// A value that is not in a store (yet, or any more). It is this process's, and freed with it.
#[derive(Debug)]
pub struct Stored {
    session: &'static Session,
    pub(super) words: [u64; 2],
}

/// The bytes of a value, as they are shown to a reader.
pub enum Content<'a> {
    /// Valid while it is looked at: to be copied.
    Bytes(&'a [u8]),
    /// Valid for as long as one has it.
    Pinned(Memory),
}

/// A reader: it sees the bytes and the objects that go with them. It runs under the guard and must be quick.
pub type Take<'t, T> = &'t mut dyn FnMut(Content<'_>, Vec<Handle>) -> T;

impl Stored {
    /// Copies a message. Its block, which must be a ticket or a bundle of tickets, is this process's no more on success.
    pub fn make(session: &'static Session, message: Message<'_>) -> Result<Self, ShmError> {
        Self::make_with(session, message, PIN)
    }

    /// Copies a key: its bytes are compared under the guard, however many they are.
    pub(super) fn make_key(
        session: &'static Session,
        message: Message<'_>,
    ) -> Result<Self, ShmError> {
        Self::make_with(session, message, usize::MAX)
    }

    fn make_with(
        session: &'static Session,
        message: Message<'_>,
        pin: usize,
    ) -> Result<Self, ShmError> {
        let len = message.len();
        if message.block.is_none() && len <= MOST_INLINE {
            let mut bytes = [0; MOST_INLINE];
            for (to, from) in bytes
                .iter_mut()
                .zip(message.bytes.iter().chain(message.tail))
            {
                *to = *from;
            }
            let words = inline(&bytes[..len]);
            return Ok(Self { session, words });
        }
        let mine = BlockOwner::process(session.me()?);
        let at = session.alloc(len as u64, mine)?;
        message.write(session, at)?;
        crash_point!("store.value.copied");
        let mut head = len as u64;
        let mut first = at;
        if len > pin {
            let memory = Memory::of_block(session, at)?;
            first = session.make_ticket(memory.handle())?;
            head |= PINNED;
        }
        let Some(rest) = message.block else {
            let words = [head | BYTES, first];
            return Ok(Self { session, words });
        };
        let parts = [
            Part {
                at: first,
                len: session.block_size(first)?.min(len as u64),
            },
            Part { at: rest, len: 8 },
        ];
        match bundle::bind(session, &parts) {
            Ok(bundle) => Ok(Self {
                session,
                words: [head | PARTS, bundle],
            }),
            Err(error) => {
                session.free_block(first)?;
                Err(error)
            }
        }
    }

    pub(super) fn flagged(mut self, flag: u64) -> Self {
        self.words[0] |= flag;
        self
    }

    pub(super) fn block(&self) -> Option<u64> {
        block_of(self.words)
    }

    /// It is in a store now.
    pub(super) fn forget(&mut self) -> [u64; 2] {
        std::mem::take(&mut self.words)
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if let Some(at) = self.block() {
            // An error means a corrupt session, and then there is nobody to tell.
            let _ = self.session.free_block(at);
        }
    }
}

/// The words of a value of a few bytes.
pub(super) fn inline(bytes: &[u8]) -> [u64; 2] {
    let mut rest = [0; 8];
    let (first, tail) = bytes.split_first().unwrap_or((&0, &[]));
    rest[..tail.len()].copy_from_slice(tail);
    [
        INLINE | u64::from(*first) << 40 | bytes.len() as u64,
        u64::from_le_bytes(rest),
    ]
}

/// The block behind a value.
pub(super) fn block_of([head, body]: [u64; 2]) -> Option<u64> {
    (head & (BYTES | PARTS) != 0).then_some(body)
}

pub(super) fn load(words: &Words) -> [u64; 2] {
    [
        words[0].load(Ordering::Relaxed),
        words[1].load(Ordering::Relaxed),
    ]
}

/// The bytes of a short value that has no block, and how many they are.
pub(super) fn inline_bytes([head, body]: [u64; 2]) -> Option<([u8; MOST_INLINE], usize)> {
    let len = (head & LEN) as usize;
    if head & INLINE == 0 || len > MOST_INLINE {
        return None;
    }
    let mut bytes = [0; MOST_INLINE];
    bytes[0] = (head >> 40) as u8;
    bytes[1..].copy_from_slice(&body.to_le_bytes());
    Some((bytes, len))
}

/// The bytes of a value in a block of the object `home`, if they are not pinned.
pub(super) fn block_bytes(
    session: &'static Session,
    home: BlockOwner,
    [head, body]: [u64; 2],
) -> Result<&'static [u8], Corrupt> {
    if head & BYTES == 0 || head & PINNED != 0 {
        return Err(Corrupt("a value has a form that it cannot have"));
    }
    expect_owner(session, body, home)?;
    of_block(session, body, head & LEN)
}

fn of_block(session: &'static Session, at: u64, len: u64) -> Result<&'static [u8], Corrupt> {
    if len > super::size_of_block(session, at)? {
        return Err(Corrupt("a value is longer than its block"));
    }
    session.segment().bytes(at, len)
}

fn expect_owner(session: &Session, at: u64, owner: BlockOwner) -> Result<(), Corrupt> {
    let found = BlockOwner::from_word(session.block(at)?.owner.load(Ordering::Relaxed));
    if found.same_as(owner) {
        Ok(())
    } else {
        Err(Corrupt("a value names a block that is not its own"))
    }
}

/// Shows a value of the object `home` to a reader.
pub(super) fn read<T>(
    session: &'static Session,
    home: BlockOwner,
    words: [u64; 2],
    take: Take<'_, T>,
) -> Result<T, ShmError> {
    if let Some((bytes, len)) = inline_bytes(words) {
        return Ok(take(Content::Bytes(&bytes[..len]), Vec::new()));
    }
    let [head, body] = words;
    let (first, handles) = match head & (BYTES | PARTS) {
        BYTES => {
            expect_owner(session, body, home)?;
            (body, Vec::new())
        }
        PARTS => {
            expect_owner(session, body, home)?;
            match bundle::parts(session, body)?[..] {
                [first, rest] => (first.at, hold_all(session, rest.at)?),
                _ => return Err(Corrupt("a value's bundle has the wrong length").into()),
            }
        }
        _ => return Err(Corrupt("a value has a form that it cannot have").into()),
    };
    let content = if head & PINNED == 0 {
        Content::Bytes(of_block(session, first, head & LEN)?)
    } else {
        let memory = Memory::of(session.redeem(first)?)?;
        of_block(session, memory.offset(), memory.len())?;
        Content::Pinned(memory)
    };
    Ok(take(content, handles))
}

/// Holds the objects that a ticket or a bundle of tickets stands for.
fn hold_all(session: &'static Session, at: u64) -> Result<Vec<Handle>, ShmError> {
    let owner = BlockOwner::from_word(session.block(at)?.owner.load(Ordering::Relaxed));
    if !owner.has(BlockOwner::MANIFEST) {
        return Ok(vec![session.redeem(at)?]);
    }
    let parts = bundle::parts(session, at)?;
    parts.into_iter().map(|p| session.redeem(p.at)).collect()
}
