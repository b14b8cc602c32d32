//! Several blocks that travel as one.
//!
//! A message names at most one block, so that handing it over is one word. Where it needs more (out-of-band buffers,
//! tickets) that block is a manifest: a count, then the offset and length of each member.

use crate::arena::BlockOwner;
use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::primitive::{AtomicU64, Ordering};
use crate::processes::Owner;
use crate::session::Session;

/// A block on its way: where, and how many of its bytes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The block's offset.
    pub at: u64,
    /// Bytes in it.
    pub len: u64,
}

/// More members than any honest message has.
const MOST: u64 = 1 << 20;

/// Binds blocks of this process into one. The parts keep their flags.
pub fn bind(session: &'static Session, parts: &[Part]) -> Result<u64, ShmError> {
    let mine = BlockOwner::process(session.me()?);
    let at = session.alloc(8 + parts.len() as u64 * 16, mine)?;
    session
        .segment()
        .at::<AtomicU64>(at)?
        .store(0, Ordering::Relaxed);
    session
        .block(at)?
        .owner
        .store(mine.with(BlockOwner::MANIFEST).word(), Ordering::Release);
    crash_point!("bundle.made");
    for (i, part) in parts.iter().enumerate() {
        let entry: &'static [AtomicU64; 2] = session.segment().at(at + 8 + i as u64 * 16)?;
        entry[0].store(part.at, Ordering::Relaxed);
        entry[1].store(part.len, Ordering::Relaxed);
        session
            .segment()
            .at::<AtomicU64>(at)?
            .store(i as u64 + 1, Ordering::Release);
        crash_point!("bundle.listed");
        let record = session.block(part.at)?;
        let owner = BlockOwner::from_word(record.owner.load(Ordering::Relaxed));
        record.owner.store(
            BlockOwner::member_of(at).with_flags_of(owner).word(),
            Ordering::Release,
        );
        crash_point!("bundle.bound");
    }
    Ok(at)
}

/// Binds a block of `len` bytes and another one of this process into one; if that fails the first is freed.
pub(crate) fn bind_with(
    session: &'static Session,
    at: u64,
    len: u64,
    other: u64,
) -> Result<u64, ShmError> {
    let bound = session.block_size(other).map_err(ShmError::from);
    let bound = bound.and_then(|size| {
        let other = Part {
            at: other,
            len: size,
        };
        bind(session, &[Part { at, len }, other])
    });
    if bound.is_err() {
        session.free_block(at)?;
    }
    bound
}

/// Gives the members of the bundle at `at` to `heir`, and adds them to `found`. Whoever bound or unbound it may have died over
/// it: what is listed but is no member (any more) is somebody else's matter, and may not even be a block.
pub(crate) fn disown(
    session: &Session,
    at: u64,
    heir: BlockOwner,
    found: &mut Vec<u64>,
) -> Result<(), Corrupt> {
    let room = session.block_size(at)?.saturating_sub(8) / 16;
    let count = session
        .segment()
        .at::<AtomicU64>(at)?
        .load(Ordering::Acquire);
    for i in 0..count.min(room).min(MOST) {
        let entry: &'static [AtomicU64; 2] = session.segment().at(at + 8 + i * 16)?;
        let part = entry[0].load(Ordering::Relaxed);
        let Ok(record) = session.block(part) else {
            continue;
        };
        let old = BlockOwner::from_word(record.owner.load(Ordering::Acquire));
        if old.same_as(BlockOwner::member_of(at)) {
            record
                .owner
                .store(heir.with_flags_of(old).word(), Ordering::Release);
            crash_point!("bundle.disowned");
            found.push(part);
        }
    }
    Ok(())
}

/// What is bound at `at`.
pub fn parts(session: &Session, at: u64) -> Result<Vec<Part>, Corrupt> {
    let count = session
        .segment()
        .at::<AtomicU64>(at)?
        .load(Ordering::Acquire);
    if count > MOST || 8 + count * 16 > session.block_size(at)? {
        return Err(Corrupt("a bundle is too long"));
    }
    (0..count)
        .map(|i| {
            let entry: &'static [AtomicU64; 2] = session.segment().at(at + 8 + i * 16)?;
            let part = Part {
                at: entry[0].load(Ordering::Relaxed),
                len: entry[1].load(Ordering::Relaxed),
            };
            if part.len > session.block_size(part.at)? {
                return Err(Corrupt("a part is longer than its block"));
            }
            Ok(part)
        })
        .collect()
}

/// Takes a bundle that this process owns apart: each part is the process's own, and the manifest is gone.
pub fn unbind(session: &'static Session, at: u64) -> Result<Vec<Part>, ShmError> {
    let owner: Owner = session.me()?;
    let parts = parts(session, at)?;
    for part in &parts {
        let record = session.block(part.at)?;
        let old = BlockOwner::from_word(record.owner.load(Ordering::Relaxed));
        record.owner.store(
            BlockOwner::process(owner).with_flags_of(old).word(),
            Ordering::Release,
        );
        crash_point!("bundle.unbound");
    }
    session.free_raw(at)?;
    Ok(parts)
}

/// A block of this process's own with the same contents: bytes are copied, a ticket makes another ticket, the members of a
/// bundle are copied each by its kind. Whoever calls sees to it that the original stays.
pub fn copy(session: &'static Session, block: u64) -> Result<u64, ShmError> {
    let record = session.block(block)?;
    let owner = BlockOwner::from_word(record.owner.load(Ordering::Acquire));
    if owner.has(BlockOwner::TICKET) {
        let word: &AtomicU64 = session.segment().at(block)?;
        let word = word.load(Ordering::Relaxed);
        let handle = session.hold(word as u32, (word >> 32) as u32)?;
        return session.make_ticket(&handle);
    }
    if !owner.has(BlockOwner::MANIFEST) {
        let len = record.link.load(Ordering::Relaxed);
        if len > session.block_size(block)? {
            return Err(Corrupt("a block is longer than its size").into());
        }
        let copy = session.alloc(len, BlockOwner::process(session.me()?))?;
        let bytes = session.segment().bytes(block, len)?;
        session.segment().write(copy, bytes)?;
        return Ok(copy);
    }
    let mut copies = Vec::new();
    let all = parts(session, block)?.into_iter().try_for_each(|part| {
        let at = copy(session, part.at)?;
        copies.push(Part { at, len: part.len });
        Ok(())
    });
    match all.and_then(|()| bind(session, &copies)) {
        Ok(copy) => Ok(copy),
        Err(error) => {
            for part in copies {
                session.free_block(part.at)?;
            }
            Err(error)
        }
    }
}
