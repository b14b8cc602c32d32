//! Who holds which object.

use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::guard::Txn;
use crate::objects::Handle;
use crate::primitive::{AtomicU64, Ordering};
use crate::processes::Owner;
use crate::segment::Shared;
use crate::session::Session;

/// What one process has to do with one object.
#[repr(C)]
pub struct Hold {
    /// [`HELD`] or [`PARTED`], and [`WATCHES`]; changed under the objects guard, but for `WATCHES`.
    pub flags: AtomicU64,
    /// A number of the object's kind (units of a semaphore, say), under the object's own guard.
    pub units: AtomicU64,
}

// SAFETY: repr(C), two atomics.
unsafe impl Shared for Hold {}

/// In [`Hold::flags`]: the process holds the object.
pub const HELD: u64 = 1;
/// In [`Hold::flags`]: the process has a descriptor that wants to be rung for the object; its number is in the upper half.
pub const WATCHES: u64 = 2;
/// In [`Hold::flags`]: the process has said goodbye. It does not hold the object any more, but it keeps its reference until it
/// has ended, as threads of it may still be at work there.
pub const PARTED: u64 = 4;

impl Session {
    /// The hold record of process slot `process` for object `index`.
    pub fn hold_record(&self, process: u32, index: u32) -> Result<&'static Hold, Corrupt> {
        if process >= self.geometry().processes || index >= self.geometry().objects {
            return Err(Corrupt("a hold record is out of range"));
        }
        self.segment().at(self.geometry().hold(process, index))
    }

    /// A handle to an object that this process was told of.
    pub fn hold(&'static self, index: u32, generation: u32) -> Result<Handle, ShmError> {
        let entry = self.entry(index)?;
        let me = self.me()?;
        let local = self.local(index);
        let mut now = local.load(Ordering::Acquire);
        while (now >> 32) as u32 == generation && now as u32 > 0 {
            match local.compare_exchange_weak(now, now + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    return Ok(Handle::new(self, index, generation));
                }
                Err(found) => now = found,
            }
        }
        let header = self.header();
        let mut txn = header.objects_guard.lock(self)?;
        if entry.kind().is_none() || entry.generation() != generation {
            return Err(ShmError::Gone);
        }
        let now = local.load(Ordering::Acquire);
        if now as u32 > 0 && (now >> 32) as u32 == generation {
            local.fetch_add(1, Ordering::AcqRel);
            return Ok(Handle::new(self, index, generation));
        }
        let hold = self.hold_record(me.slot(), index)?;
        if hold.flags.load(Ordering::Relaxed) & (HELD | PARTED) == 0 {
            txn.set(&hold.flags, HELD);
            txn.set(&hold.units, 0);
            txn.set(
                &entry.refs,
                entry.refs.load(Ordering::Relaxed).wrapping_add(1),
            );
        }
        crash_point!("object.hold.set");
        local.store(u64::from(generation) << 32 | 1, Ordering::Release);
        txn.commit();
        crash_point!("object.hold.committed");
        Ok(Handle::new(self, index, generation))
    }

    /// The last handle of this process to the object is gone.
    pub(crate) fn drop_last(&'static self, index: u32) -> Result<(), ShmError> {
        let Some(me) = self.current() else {
            self.local(index).fetch_sub(1, Ordering::AcqRel);
            return Ok(());
        };
        let header = self.header();
        let mut txn = header.objects_guard.lock(self)?;
        let local = self.local(index);
        // Another thread may have taken a handle since we looked.
        if local.fetch_sub(1, Ordering::AcqRel) as u32 > 1 {
            return Ok(());
        }
        let hold = self.hold_record(me.slot(), index)?;
        if hold.flags.load(Ordering::Relaxed) & HELD == 0 {
            return Ok(());
        }
        let entry = self.entry(index)?;
        if let Some(kind) = entry.kind() {
            (self.kind(kind)?.dropped)(self, index, entry);
        }
        txn.set(&hold.flags, 0);
        crash_point!("object.drop.unheld");
        let dying = self.release(&mut txn, index, me)?;
        crash_point!("object.drop.released");
        txn.commit();
        crash_point!("object.drop.committed");
        if dying {
            self.destroy(index)?;
        }
        Ok(())
    }

    /// The child-to-be `child` holds from now on all that this process holds.
    pub(crate) fn copy_holds(&'static self, child: Owner) -> Result<(), ShmError> {
        let me = self.me()?;
        let header = self.header();
        let mut txn = header.objects_guard.lock(self)?;
        for (index, entry) in self.entries() {
            let is_held = self
                .hold_record(me.slot(), index)?
                .flags
                .load(Ordering::Relaxed)
                & HELD
                != 0;
            if is_held && entry.kind().is_some() {
                let hold = self.hold_record(child.slot(), index)?;
                txn.set(&hold.flags, HELD);
                txn.set(&hold.units, 0);
                txn.set(
                    &entry.refs,
                    entry.refs.load(Ordering::Relaxed).wrapping_add(1),
                );
                txn.checkpoint();
            }
        }
        txn.commit();
        Ok(())
    }

    /// Gives up what was inherited and nobody in this process has a handle to: for a child that does not share its
    /// parent's memory, once it has its arguments.
    pub fn drop_unclaimed(&'static self) -> Result<(), ShmError> {
        let me = self.me()?;
        for (index, _) in self.entries() {
            let hold = self.hold_record(me.slot(), index)?;
            if hold.flags.load(Ordering::Acquire) & HELD == 0 {
                continue;
            }
            let mut txn = self.header().objects_guard.lock(self)?;
            if self.local(index).load(Ordering::Acquire) as u32 > 0 {
                continue;
            }
            txn.set(&hold.flags, 0);
            let dying = self.release(&mut txn, index, me)?;
            txn.commit();
            if dying {
                self.destroy(index)?;
            }
        }
        Ok(())
    }

    /// This process says goodbye to all that it holds; see [`PARTED`]. `Busy` if some of it could not be done.
    pub(crate) fn part(&'static self) -> Result<(), ShmError> {
        let me = self.me()?;
        let mut busy = false;
        for (index, entry) in self.entries() {
            let hold = self.hold_record(me.slot(), index)?;
            let Some(kind) = entry.kind() else { continue };
            if hold.flags.load(Ordering::Acquire) & HELD == 0 {
                continue;
            }
            (self.kind(kind)?.left)(self, index, entry, me)?;
            crash_point!("object.part.told");
            let Some(mut txn) = self.objects_unless(busy)? else {
                busy = true;
                continue;
            };
            // Another thread may have dropped it meanwhile.
            if hold.flags.load(Ordering::Acquire) & HELD == 0 {
                continue;
            }
            let mut dying = false;
            match entry.link.load(Ordering::Relaxed).checked_sub(1) {
                None => txn.set(&hold.flags, PARTED),
                // Whether this one exists is of interest to others: it is let go. The work is done with the one behind it.
                Some(linked) => {
                    let linked = linked as u32;
                    let behind = self.hold_record(me.slot(), linked)?;
                    if behind.flags.load(Ordering::Relaxed) & (HELD | PARTED) == 0 {
                        let refs = &self.entry(linked)?.refs;
                        txn.set(&behind.flags, PARTED);
                        txn.set(refs, refs.load(Ordering::Relaxed).wrapping_add(1));
                    }
                    txn.set(&hold.flags, 0);
                    dying = self.release(&mut txn, index, me)?;
                }
            }
            crash_point!("object.part.set");
            txn.commit();
            if dying {
                self.destroy(index)?;
            }
        }
        if busy { Err(ShmError::Busy) } else { Ok(()) }
    }

    /// The objects guard, if it can be had soon; where that has taken too long before, if it can be had at once.
    fn objects_unless(&'static self, busy: bool) -> Result<Option<Txn<'static>>, Corrupt> {
        let guard = &self.header().objects_guard;
        if busy {
            guard.try_lock(self)
        } else {
            guard.lock_soon(self)
        }
    }

    /// Takes all holds of a process back. The objects are told: `abnormal` that their holder died, else that it left. `Busy`
    /// if some objects could not be told, whose holds are left then.
    pub(crate) fn drop_holds(&'static self, of: Owner, abnormal: bool) -> Result<(), ShmError> {
        let me = self.me()?;
        let mut busy = false;
        for (index, entry) in self.entries() {
            let hold = self.hold_record(of.slot(), index)?;
            let flags = hold.flags.load(Ordering::Acquire);
            if flags == 0 {
                continue;
            }
            if flags & (HELD | PARTED) != 0
                && let Some(kind) = entry.kind()
            {
                let kind = self.kind(kind)?;
                let tell = if abnormal { kind.died } else { kind.left };
                match tell(self, index, entry, of) {
                    Err(ShmError::Busy) => {
                        busy = true;
                        continue;
                    }
                    told => told?,
                }
                crash_point!("recover.told");
            }
            let Some(mut txn) = self.objects_unless(busy)? else {
                busy = true;
                continue;
            };
            let flags = hold.flags.load(Ordering::Acquire);
            txn.set(&hold.flags, 0);
            let dying = flags & (HELD | PARTED) != 0
                && entry.kind().is_some()
                && self.release(&mut txn, index, me)?;
            crash_point!("recover.unheld");
            txn.commit();
            if dying {
                self.destroy(index)?;
            }
        }
        if busy { Err(ShmError::Busy) } else { Ok(()) }
    }
}
