//! The table of shared objects.
//!
//! An object exists for as long as something refers to it: the hold record of a process, a ticket (a block on its way in a
//! message), another object, or the recovery that is just at it. `refs` counts these; it is only changed under the objects
//! guard, in the same section as the thing that it counts, so it is right whoever dies when.

use procession_sys::clock::now_ns;

use crate::arena::BlockOwner;
use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::guard::Txn;
pub use crate::holds::{HELD, Hold, PARTED, WATCHES};
use crate::primitive::{AtomicU64, Ordering};
use crate::processes::Owner;
use crate::segment::Shared;
use crate::session::Session;
use crate::text::{load_text, store_text};

/// What a kind of object does at the turning points of its life. The tables below know no kind by name.
pub struct KindOps {
    /// The kind's number, from 1.
    pub number: u8,
    /// As shown to people.
    pub name: &'static str,
    /// A process may have died inside one of the object's guards: see [`Guard::settle`](crate::guard::Guard::settle), for all of
    /// them.
    pub settle: fn(&'static Session, u32, &'static Entry) -> Result<bool, ShmError>,
    /// Wake whoever sleeps on the object, to look again.
    pub wake: fn(&'static Session, u32, &'static Entry) -> Result<(), ShmError>,
    /// This process has dropped its last handle.
    pub dropped: fn(&'static Session, u32, &'static Entry),
    /// A process that held the object has died without saying goodbye. May be told twice.
    pub died: fn(&'static Session, u32, &'static Entry, Owner) -> Result<(), ShmError>,
    /// A process that held the object says goodbye, when threads of it may still be at the object; told again once it has ended.
    pub left: fn(&'static Session, u32, &'static Entry, Owner) -> Result<(), ShmError>,
    /// The last reference is gone: wake whoever is concerned, give back the blocks that belong to the object.
    pub destroy: fn(&'static Session, u32, &'static Entry) -> Result<(), ShmError>,
    /// Words for tools: (label, value).
    pub describe: fn(&'static Session, &'static Entry) -> Vec<(&'static str, u64)>,
}

/// An object's entry as it stands in shared memory.
#[repr(C)]
pub struct Entry {
    /// Generation in the upper half; kind in bits 8..16; bit 0 live, bit 1 being destroyed.
    tag: AtomicU64,
    /// Where the object's own structure stands.
    pub body: AtomicU64,
    /// References to it.
    pub refs: AtomicU64,
    /// The object (index + 1) that this one keeps alive.
    pub link: AtomicU64,
    /// The owner word of its creator; while it is destroyed, of the one who does that.
    pub creator: AtomicU64,
    /// When it was created (monotonic nanoseconds).
    pub created_ns: AtomicU64,
    next_free: AtomicU64,
    /// How many watch it through a descriptor, and whether they are still to be rung (see `watch`).
    pub watchers: AtomicU64,
    name: [AtomicU64; 6],
    spare: [AtomicU64; 2],
}

// SAFETY: repr(C) of atomics.
unsafe impl Shared for Entry {}

const _: () = assert!(size_of::<Entry>() as u64 == crate::layout::Geometry::ENTRY);

const LIVE: u64 = 1;
const DYING: u64 = 2;

impl Entry {
    /// How often this entry has been used.
    pub fn generation(&self) -> u32 {
        (self.tag.load(Ordering::Acquire) >> 32) as u32
    }

    /// The kind's number, if the object exists.
    pub fn kind(&self) -> Option<u8> {
        let tag = self.tag.load(Ordering::Acquire);
        (tag & LIVE != 0).then_some((tag >> 8) as u8)
    }

    fn dying_kind(&self) -> Option<u8> {
        let tag = self.tag.load(Ordering::Acquire);
        (tag & DYING != 0).then_some((tag >> 8) as u8)
    }

    /// Its name.
    pub fn name(&self) -> String {
        load_text(&self.name)
    }

    /// Changes the name.
    pub fn set_name(&self, name: &str) {
        store_text(&self.name, name);
    }
}

/// A process's claim on an object. The object exists at least as long as any handle to it.
#[derive(Debug)]
pub struct Handle {
    session: &'static Session,
    index: u32,
    generation: u32,
}

impl Handle {
    /// One more handle, for one that was counted already.
    pub(crate) fn new(session: &'static Session, index: u32, generation: u32) -> Self {
        Self {
            session,
            index,
            generation,
        }
    }

    /// The session.
    #[inline]
    pub fn session(&self) -> &'static Session {
        self.session
    }

    /// The object's number in the session.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Which use of that number.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The object's entry.
    pub fn entry(&self) -> &'static Entry {
        self.session
            .entry(self.index)
            .expect("a handle's index was checked when it was made")
    }

    /// The object's own structure.
    pub fn body<T: Shared>(&self) -> Result<&'static T, Corrupt> {
        self.session
            .segment()
            .at(self.entry().body.load(Ordering::Acquire))
    }

    /// This process's hold record for the object.
    pub fn hold_record(&self) -> Result<&'static Hold, ShmError> {
        Ok(self
            .session
            .hold_record(self.session.me()?.slot(), self.index)?)
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.session
            .local(self.index)
            .fetch_add(1, Ordering::Relaxed);
        Self { ..*self }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let local = self.session.local(self.index);
        let mut now = local.load(Ordering::Acquire);
        while now as u32 > 1 {
            match local.compare_exchange_weak(now, now - 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(found) => now = found,
            }
        }
        // An error here means a corrupt session or a process that has left it; there is nobody to tell.
        let _ = self.session.drop_last(self.index);
    }
}

impl Session {
    /// The entry with this number.
    pub fn entry(&self, index: u32) -> Result<&'static Entry, Corrupt> {
        if index >= self.geometry().objects {
            return Err(Corrupt("an object is out of range"));
        }
        self.segment().at(self.geometry().entry(index))
    }

    /// All entries that have ever been used, with their numbers.
    pub fn entries(&self) -> impl Iterator<Item = (u32, &'static Entry)> + '_ {
        let high = self
            .header()
            .object_high
            .load(Ordering::Acquire)
            .min(u64::from(self.geometry().objects)) as u32;
        (0..high).filter_map(|i| Some((i, self.entry(i).ok()?)))
    }

    /// What is known of a kind.
    pub fn kind(&self, number: u8) -> Result<&'static KindOps, Corrupt> {
        self.kinds()
            .iter()
            .copied()
            .find(|k| k.number == number)
            .ok_or(Corrupt("an object has an unknown kind"))
    }

    /// Makes an object of `kind` whose structure takes `len` bytes, zeroed, then completed by `init` before anybody else
    /// can see it. `link` is an object that lives at least as long as this one.
    pub fn create_object(
        &'static self,
        kind: u8,
        len: u64,
        name: &str,
        link: Option<&Handle>,
        init: impl FnOnce(u64) -> Result<(), ShmError>,
    ) -> Result<Handle, ShmError> {
        let me = self.me()?;
        let body = self.alloc(len, BlockOwner::process(me))?;
        self.segment().zero(body, len)?;
        if let Err(error) = init(body) {
            self.free_raw(body)?;
            return Err(error);
        }
        crash_point!("object.create.body");
        self.register_object(kind, body, name, link)
    }

    /// A free entry of the table, in a section of its guard; `None` if all are taken.
    fn take_entry(&'static self) -> Result<Option<(Txn<'static>, u32)>, ShmError> {
        let header = self.header();
        let mut txn = header.objects_guard.lock(self)?;
        let high = header.object_high.load(Ordering::Relaxed);
        let free = header.object_free.load(Ordering::Relaxed);
        let index = if free != 0 {
            let index = (free - 1) as u32;
            txn.set(
                &header.object_free,
                self.entry(index)?.next_free.load(Ordering::Relaxed),
            );
            index
        } else if high < u64::from(self.geometry().objects) {
            txn.set(&header.object_high, high + 1);
            high as u32
        } else {
            return Ok(None);
        };
        Ok(Some((txn, index)))
    }

    /// Makes an object of a block of this process that holds its structure already. Where that fails, the block is freed.
    pub fn register_object(
        &'static self,
        kind: u8,
        body: u64,
        name: &str,
        link: Option<&Handle>,
    ) -> Result<Handle, ShmError> {
        let me = self.me()?;
        let header = self.header();
        let taken = match self.take_entry()? {
            None => {
                // Those of members may be there whose end nobody has looked for.
                self.recover_now()?;
                self.take_entry()?
            }
            taken => taken,
        };
        let Some((mut txn, index)) = taken else {
            self.free_raw(body)?;
            return Err(ShmError::TableFull(
                "shared objects",
                self.geometry().objects,
            ));
        };
        let entry = self.entry(index)?;
        let generation = entry.generation().wrapping_add(1).max(1);
        entry.set_name(name);
        entry.created_ns.store(now_ns(), Ordering::Relaxed);
        entry.watchers.store(0, Ordering::Relaxed);
        entry.creator.store(u64::from(me.word()), Ordering::Relaxed);
        txn.set(&entry.body, body);
        txn.set(&entry.refs, 1);
        txn.set(&entry.link, link.map_or(0, |l| u64::from(l.index) + 1));
        if let Some(l) = link {
            txn.set(
                &l.entry().refs,
                l.entry().refs.load(Ordering::Relaxed).wrapping_add(1),
            );
        }
        txn.set(&self.block(body)?.owner, BlockOwner::object(index).word());
        txn.set(
            &header.object_count,
            header.object_count.load(Ordering::Relaxed).wrapping_add(1),
        );
        txn.set(
            &entry.tag,
            u64::from(generation) << 32 | u64::from(kind) << 8 | LIVE,
        );
        let hold = self.hold_record(me.slot(), index)?;
        txn.set(&hold.flags, HELD);
        txn.set(&hold.units, 0);
        crash_point!("object.create.filled");
        txn.commit();
        self.local(index)
            .store(u64::from(generation) << 32 | 1, Ordering::Release);
        crash_point!("object.create.committed");
        Ok(Handle {
            session: self,
            index,
            generation,
        })
    }

    /// Does the object with this number and generation exist?
    pub fn exists(&self, index: u32, generation: u32) -> bool {
        self.entry(index)
            .is_ok_and(|e| e.kind().is_some() && e.generation() == generation)
    }

    /// Takes one reference back inside a section; true if it was the last, and the caller has to `destroy` after it.
    pub(crate) fn release(
        &self,
        txn: &mut Txn<'_>,
        index: u32,
        by: Owner,
    ) -> Result<bool, Corrupt> {
        let entry = self.entry(index)?;
        let refs = entry.refs.load(Ordering::Relaxed);
        txn.set(&entry.refs, refs.saturating_sub(1));
        if refs > 1 {
            return Ok(false);
        }
        let tag = entry.tag.load(Ordering::Relaxed);
        txn.set(&entry.creator, u64::from(by.word()));
        txn.set(&entry.tag, tag & !LIVE | DYING);
        Ok(true)
    }

    /// Ends an object whose last reference is gone. Whoever does it again after a death finds less to do.
    pub(crate) fn destroy(&'static self, first: u32) -> Result<(), ShmError> {
        let mut next = Some(first);
        while let Some(index) = next.take() {
            let entry = self.entry(index)?;
            let Some(kind) = entry.dying_kind() else {
                return Ok(());
            };
            (self.kind(kind)?.destroy)(self, index, entry)?;
            crash_point!("object.destroy.done");
            let body = entry.body.load(Ordering::Relaxed);
            let header = self.header();
            let Some(mut txn) = self.enter_to_free(&header.objects_guard)? else {
                // Nobody's matter, and so that of whoever looks for dead members next; as in `discard`.
                entry.creator.store(0, Ordering::Release);
                self.call_for_recovery();
                return Ok(());
            };
            let me = self.me()?;
            if entry.dying_kind().is_none() {
                return Ok(());
            }
            let link = entry.link.load(Ordering::Relaxed);
            if link != 0 {
                let linked = (link - 1) as u32;
                txn.set(&entry.link, 0);
                if self.release(&mut txn, linked, me)? {
                    next = Some(linked);
                }
            }
            txn.set(&self.block(body)?.owner, BlockOwner::process(me).word());
            txn.set(&entry.tag, u64::from(entry.generation()) << 32);
            txn.set(&entry.next_free, header.object_free.load(Ordering::Relaxed));
            txn.set(&header.object_free, u64::from(index) + 1);
            txn.set(
                &header.object_count,
                header
                    .object_count
                    .load(Ordering::Relaxed)
                    .saturating_sub(1),
            );
            crash_point!("object.destroy.unlinked");
            txn.commit();
            crash_point!("object.destroy.committed");
            self.free_raw(body)?;
        }
        Ok(())
    }

    /// Goes on where somebody died who was destroying objects.
    pub(crate) fn destroy_abandoned(&'static self) -> Result<(), ShmError> {
        for (index, entry) in self.entries() {
            let by = Owner::from_word(entry.creator.load(Ordering::Relaxed) as u32);
            if entry.dying_kind().is_some()
                && by.is_none_or(|o| Some(o) != self.current() && !self.is_alive(o))
            {
                entry
                    .creator
                    .store(u64::from(self.me()?.word()), Ordering::Relaxed);
                self.free_blocks_of(
                    BlockOwner::object(index),
                    entry.body.load(Ordering::Relaxed),
                )?;
                self.destroy(index)?;
            }
        }
        Ok(())
    }

    pub(crate) fn local(&self, index: u32) -> &AtomicU64 {
        &self.locals()[index as usize]
    }
}
