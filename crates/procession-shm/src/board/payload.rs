//! How a message stands in a cell, and how it is taken out again.
//!
//! | kind | words | |
//! |---|---|---|
//! | `INLINE` | up to 24 bytes | no memory, no lock |
//! | `SLAB` | where | up to [`SLAB_MAX`] bytes in memory that the chunk's items share |
//! | `BLOCK` | block | the bytes fill a block |
//! | `INLINE_AND_BLOCK` | block, up to 16 bytes | the message came with a block |
//! | `SLAB_AND_BLOCK` | block, where | as above, longer |
//! | `BUNDLE` | block | as above, too long: a bundle of the bytes' block and the message's |

use std::ops::Deref;

use crate::arena::BlockOwner;
use crate::bundle;
use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::primitive::Ordering;
use crate::ring::Message;
use crate::session::Session;

pub(super) const INLINE: u64 = 0;
pub(super) const SLAB: u64 = 1;
pub(super) const BLOCK: u64 = 2;
pub(super) const INLINE_AND_BLOCK: u64 = 3;
pub(super) const SLAB_AND_BLOCK: u64 = 4;
pub(super) const BUNDLE: u64 = 5;

/// Bytes that fit a cell.
const INLINE_MAX: usize = 24;
/// Bytes that fit a cell beside a block.
const INLINE_BESIDE: usize = 16;
/// Longer messages get a block of their own.
pub(super) const SLAB_MAX: usize = 1024;

/// A message in the form that goes into a cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) kind: u64,
    pub(super) len: u64,
    pub(super) words: [u64; 3],
}

impl Written {
    /// The block that the cell will name.
    pub(super) fn block(&self) -> Option<u64> {
        has_block(self.kind).then_some(self.words[0])
    }
}

/// Does a payload of this kind name a block?
#[inline]
pub(super) fn has_block(kind: u64) -> bool {
    matches!(kind, BLOCK | INLINE_AND_BLOCK | SLAB_AND_BLOCK | BUNDLE)
}

/// Brings a message into the form for a cell. `slab` finds room for some bytes in memory that lives as long as the cell.
#[inline]
pub(super) fn write(
    session: &'static Session,
    message: Message<'_>,
    slab: impl FnOnce(u64) -> Result<u64, ShmError>,
) -> Result<Written, ShmError> {
    let len = message.len();
    if message.block.is_none() && len <= INLINE_MAX {
        return Ok(Written {
            kind: INLINE,
            len: len as u64,
            words: pack(message),
        });
    }
    write_long(session, message, len, slab)
}

fn write_long(
    session: &'static Session,
    message: Message<'_>,
    len: usize,
    slab: impl FnOnce(u64) -> Result<u64, ShmError>,
) -> Result<Written, ShmError> {
    let written = |kind, words| Written {
        kind,
        len: len as u64,
        words,
    };
    match message.block {
        Some(block) if len <= INLINE_BESIDE => {
            let bytes = pack(message);
            Ok(written(INLINE_AND_BLOCK, [block, bytes[0], bytes[1]]))
        }
        block if len <= SLAB_MAX => {
            let at = slab(len as u64)?;
            message.write(session, at)?;
            Ok(match block {
                None => written(SLAB, [at, 0, 0]),
                Some(block) => written(SLAB_AND_BLOCK, [block, at, 0]),
            })
        }
        _ => write_block(session, message),
    }
}

/// Brings a message into a form of which the cell's first word says all: the bytes in a block, whatever their length, and where
/// another one came along a bundle of both.
pub(super) fn write_block(
    session: &'static Session,
    message: Message<'_>,
) -> Result<Written, ShmError> {
    let len = message.len() as u64;
    if u32::try_from(len).is_err() {
        return Err(ShmError::OutOfMemory {
            wanted: len,
            used: session.bytes_used(),
            budget: u64::from(u32::MAX),
        });
    }
    let written = |kind, at| Written {
        kind,
        len,
        words: [at, 0, 0],
    };
    let at = session.alloc(len.max(1), BlockOwner::process(session.me()?))?;
    message.write(session, at)?;
    crash_point!("board.payload.copied");
    let Some(other) = message.block else {
        return Ok(written(BLOCK, at));
    };
    let both = bundle::bind_with(session, at, len, other)?;
    Ok(written(BUNDLE, both))
}

fn pack(message: Message<'_>) -> [u64; 3] {
    let mut bytes = [0u8; INLINE_MAX];
    let (a, b) = (message.bytes.len(), message.len());
    bytes[..a].copy_from_slice(message.bytes);
    bytes[a..b].copy_from_slice(message.tail);
    let mut words = [0; 3];
    for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
    }
    words
}

#[inline]
fn unpack(words: &[u64]) -> Aligned {
    let mut bytes = [0u8; INLINE_MAX];
    for (eight, word) in bytes.chunks_exact_mut(8).zip(words) {
        eight.copy_from_slice(&word.to_le_bytes());
    }
    Aligned(bytes)
}

/// Who gets a payload's memory when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// The block has been made this process's own; slabs stay for as long as the cell does.
    Owned,
    /// As `Owned`, and bytes in slabs are copied out.
    Final,
    /// The board keeps everything: the message's block is copied.
    Copy,
}

/// A message that was received. Dropped, it gives back what it owns.
#[derive(Debug)]
pub struct Payload {
    session: &'static Session,
    bytes: Bytes,
    len: usize,
    /// The block that `bytes` are in, if it is ours to free.
    own: Option<u64>,
    block: Option<u64>,
}

#[derive(Debug)]
enum Bytes {
    Inline(Aligned),
    At(u64),
    Heap(Vec<u8>),
}

/// Aligned as the words that it is made from: moving it by bytes costs more than all the rest.
#[derive(Debug, Clone, Copy)]
#[repr(align(8))]
struct Aligned([u8; INLINE_MAX]);

impl Payload {
    /// Reads what a cell says.
    #[inline]
    pub(super) fn read(
        session: &'static Session,
        kind: u64,
        len: u64,
        words: [u64; 3],
        take: Take,
    ) -> Result<Self, ShmError> {
        let mut payload = Self {
            session,
            bytes: Bytes::Inline(unpack(&words)),
            len: len as usize,
            own: None,
            block: None,
        };
        if kind == INLINE && len <= INLINE_MAX as u64 {
            return Ok(payload);
        }
        payload.read_long(kind, words, take)?;
        Ok(payload)
    }

    fn read_long(&mut self, kind: u64, words: [u64; 3], take: Take) -> Result<(), ShmError> {
        let session = self.session;
        let (block, rest) = (words[0], &words[1..]);
        match kind {
            SLAB => self.set_slab(block, take)?,
            BLOCK => {
                self.set_block(block)?;
                self.own = (take != Take::Copy).then_some(block);
            }
            INLINE_AND_BLOCK if self.len <= INLINE_BESIDE => {
                self.bytes = Bytes::Inline(unpack(rest));
                self.block = Some(received(session, block, take)?);
            }
            SLAB_AND_BLOCK => {
                self.set_slab(rest[0], take)?;
                self.block = Some(received(session, block, take)?);
            }
            BUNDLE => {
                let parts = if take == Take::Copy {
                    bundle::parts(session, block)?
                } else {
                    bundle::unbind(session, block)?
                };
                let [bytes, other] = parts[..] else {
                    return Err(Corrupt("a task's bundle has the wrong length").into());
                };
                self.set_block(bytes.at)?;
                self.own = (take != Take::Copy).then_some(bytes.at);
                self.block = Some(received(session, other.at, take)?);
            }
            _ => return Err(Corrupt("a cell holds no payload").into()),
        }
        Ok(())
    }

    fn set_slab(&mut self, at: u64, take: Take) -> Result<(), ShmError> {
        if self.len > SLAB_MAX {
            return Err(Corrupt("a slab's payload is too long").into());
        }
        let bytes = self.session.segment().bytes(at, self.len as u64)?;
        self.bytes = if take == Take::Final {
            Bytes::Heap(bytes.to_vec())
        } else {
            Bytes::At(at)
        };
        Ok(())
    }

    fn set_block(&mut self, at: u64) -> Result<(), ShmError> {
        if self.len as u64 > self.session.block_size(at)? {
            return Err(Corrupt("a payload is longer than its block").into());
        }
        self.bytes = Bytes::At(at);
        Ok(())
    }

    /// Copies out what stands in memory that is not this payload's own.
    pub(super) fn detach(mut self) -> Self {
        if self.own.is_none() && matches!(self.bytes, Bytes::At(_)) {
            self.bytes = Bytes::Heap(self.bytes().to_vec());
        }
        self
    }

    /// The message's bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Inline(bytes) => &bytes.0[..self.len],
            // The range was checked when the payload was read.
            Bytes::At(at) => (self.session.segment().bytes(*at, self.len as u64)).unwrap_or(&[]),
            Bytes::Heap(bytes) => bytes,
        }
    }

    /// The block that came with it.
    pub fn block(&self) -> Option<u64> {
        self.block
    }

    /// Takes the block that came with it, which the caller has to free.
    pub fn take_block(&mut self) -> Option<u64> {
        self.block.take()
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Payload {
    #[inline]
    fn drop(&mut self) {
        for at in [self.own.take(), self.block.take()].into_iter().flatten() {
            // A child of a fork drops what its parent owns. An error is a corrupt session; there is nobody to tell.
            if self.session.owns(at) {
                let _ = self.session.free_block(at);
            }
        }
    }
}

fn received(session: &'static Session, block: u64, take: Take) -> Result<u64, ShmError> {
    if take == Take::Copy {
        bundle::copy(session, block)
    } else {
        Ok(block)
    }
}

/// Makes a block of the board's this process's own.
pub(super) fn own(session: &Session, board: u32, block: u64) -> Result<(), ShmError> {
    let record = session.block(block)?;
    let owner = BlockOwner::from_word(record.owner.load(Ordering::Acquire));
    if !owner.same_as(BlockOwner::object(board)) {
        return Err(Corrupt("a task names a block that is not its own").into());
    }
    let mine = BlockOwner::process(session.me()?).with_flags_of(owner);
    record.owner.store(mine.word(), Ordering::Release);
    Ok(())
}

/// Makes a block of this process the board's.
pub(super) fn hand_over(session: &Session, board: u32, block: u64) -> Result<(), ShmError> {
    let record = session.block(block)?;
    let owner = BlockOwner::from_word(record.owner.load(Ordering::Relaxed));
    let theirs = BlockOwner::object(board).with_flags_of(owner);
    record.owner.store(theirs.word(), Ordering::Release);
    Ok(())
}
