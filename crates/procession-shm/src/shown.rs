//! Waits in progress, shown to those who look from outside.

use procession_sys::clock::now_ns;
use procession_sys::ident::thread_id;

use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::session::Session;
use crate::wait::WaitKind;

/// One wait in progress, for those who look from outside.
#[repr(C)]
pub struct WaitRecord {
    /// The waiting thread; zero for a free record.
    pub thread: AtomicU32,
    /// A [`WaitKind`].
    pub kind: AtomicU32,
    /// The object waited for, by index + 1; zero for none.
    pub object: AtomicU32,
    spare: AtomicU32,
    /// Since when (monotonic nanoseconds).
    pub since_ns: AtomicU64,
}

/// Waits that one process can show at a time; further threads wait unseen.
pub const WAIT_RECORDS: usize = 8;

impl Session {
    /// Shows that this thread waits, until the returned value is dropped.
    pub fn show_wait(&'static self, object: u32, kind: WaitKind) -> ShownWait {
        let record = self
            .current()
            .and_then(|me| self.slot_of(me))
            .and_then(|slot| {
                let thread = thread_id();
                slot.waits.iter().find(|w| {
                    w.thread
                        .compare_exchange(0, thread, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                })
            });
        if let Some(w) = record {
            w.kind.store(kind as u32, Ordering::Relaxed);
            w.object.store(object.wrapping_add(1), Ordering::Relaxed);
            w.since_ns.store(now_ns(), Ordering::Release);
        }
        ShownWait(record)
    }
}

/// Takes the record of a wait back when dropped.
pub struct ShownWait(Option<&'static WaitRecord>);

impl Drop for ShownWait {
    fn drop(&mut self) {
        if let Some(w) = self.0 {
            w.thread.store(0, Ordering::Release);
        }
    }
}
