//! Descriptors that become readable when an object has something for its reader.
//!
//! Nobody pays for them until somebody asks: an object that is watched says so in its entry, and only then does a writer
//! that makes it non-empty look up the watchers and ring each by name (see [`procession_sys::notify`]). The reader takes the
//! rings when it has found the object empty, and looks once more afterwards.
//!
//! A writer that cannot ring (it has no descriptor left for a socket, say) has put its message all the same. It notes in the
//! object's entry that this is owed, and calls for a recovery: the next writer rings, or whoever looks for the dead next.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use procession_sys::Errno;
use procession_sys::notify::{Bell, Listener};

use crate::error::ShmError;
use crate::objects::{Entry, HELD, Handle, WATCHES};
use crate::primitive::{AtomicU32, Ordering, fence};
use crate::session::Session;

/// This process's listeners, by session and object. A child of a fork makes its own (the kernel's sockets are shared with
/// the parent), on the same descriptor numbers, since those may stand in selectors.
static LISTENERS: OnceLock<Mutex<Watches>> = OnceLock::new();

/// By session, object and generation.
type Watches = HashMap<(u64, u32, u32), Arc<Watch>>;

/// A descriptor that is readable while its object may have something for us.
#[derive(Debug)]
pub struct Watch {
    listener: Mutex<Listener>,
    member: AtomicU32,
    serial: AtomicU32,
    fd: i32,
}

/// Numbers the sockets of this process. A name is used once: a child that was forked meanwhile may have the socket open
/// that had it.
static SERIAL: AtomicU32 = AtomicU32::new(1);

impl Watch {
    /// The descriptor's number.
    pub fn raw_fd(&self) -> i32 {
        self.fd
    }
}

/// The listeners. Everything that locks one of them has this lock, so that a fork needs to wait for no other.
fn listeners() -> MutexGuard<'static, Watches> {
    let all = LISTENERS.get_or_init(Mutex::default);
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static FORKING: RefCell<Option<MutexGuard<'static, Watches>>> = const { RefCell::new(None) };
}

/// Before a fork: waits until no other thread is changing the listeners, which the child would find locked for ever.
pub(crate) fn before_fork() {
    FORKING.with_borrow_mut(|f| *f = Some(listeners()));
}

/// After it, in parent and child.
pub(crate) fn after_fork() {
    FORKING.with_borrow_mut(Option::take);
}

/// In an entry's `watchers`: those who watch could not be rung.
const OWED: u64 = 1 << 32;

/// Do those who watch have to be rung, whatever the object was before?
pub fn is_owed(watchers: u64) -> bool {
    watchers & OWED != 0
}

fn owe(session: &Session, entry: &Entry) {
    entry.watchers.fetch_or(OWED, Ordering::SeqCst);
    session.call_for_recovery();
}

fn name(session: &Session, member: u32, serial: u32) -> String {
    format!("procession-{:016x}-{member:x}-{serial:x}", session.id())
}

/// The watch of this process on `handle`'s object, made on first use. It rings right away if `readable` says so.
pub fn watch(
    handle: &Handle,
    readable: impl Fn() -> Result<bool, ShmError>,
) -> Result<Arc<Watch>, ShmError> {
    let session = handle.session();
    let me = session.me()?.word();
    let lacking = ShmError::system("make a socket to ring with");
    // It is needed here when the reader has emptied the object, at the latest.
    bell().map_err(&lacking)?;
    let mut all = listeners();
    let key = (session.id(), handle.index(), handle.generation());
    let known = all.get(&key).cloned();
    let watch = match known {
        Some(w) if w.member.load(Ordering::Relaxed) == me => w,
        other => {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let fresh = Listener::bind(&name(session, me, serial))
                .map_err(ShmError::system("bind a socket"))?;
            let watch = if let Some(old) = other {
                let mut listener = old.listener.lock().unwrap_or_else(PoisonError::into_inner);
                listener
                    .replace(&fresh)
                    .map_err(ShmError::system("duplicate a descriptor"))?;
                drop(listener);
                old.member.store(me, Ordering::Relaxed);
                old.serial.store(serial, Ordering::Relaxed);
                old
            } else {
                let fd = fresh.as_fd().as_raw_fd();
                Arc::new(Watch {
                    listener: Mutex::new(fresh),
                    member: AtomicU32::new(me),
                    serial: AtomicU32::new(serial),
                    fd,
                })
            };
            all.insert(key, watch.clone());
            // The hold is new, or a new process's: no serial stands in it yet.
            handle
                .hold_record()?
                .flags
                .fetch_or(WATCHES | u64::from(serial) << 32, Ordering::SeqCst);
            handle.entry().watchers.fetch_add(1, Ordering::SeqCst);
            // Either we see a message below, or its writer sees us (see `Gate::notify_ordered`).
            fence(Ordering::SeqCst);
            watch
        }
    };
    if readable()? {
        ring_one(session, me, watch.serial.load(Ordering::Relaxed)).map_err(&lacking)?;
    }
    Ok(watch)
}

/// After this process has emptied the object: takes the rings, and rings again if `readable` has become true meanwhile.
#[cold]
pub fn emptied(
    handle: &Handle,
    readable: impl Fn() -> Result<bool, ShmError>,
) -> Result<(), ShmError> {
    let (session, me) = (handle.session(), handle.session().me()?.word());
    let all = listeners();
    let key = (session.id(), handle.index(), handle.generation());
    // After a fork the parent's rings come to the same socket, until this process has made its own.
    let Some(watch) = all
        .get(&key)
        .filter(|w| w.member.load(Ordering::Relaxed) == me)
    else {
        return Ok(());
    };
    let listener = watch
        .listener
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    listener.clear();
    drop(listener);
    if readable()? && ring_one(session, me, watch.serial.load(Ordering::Relaxed)).is_err() {
        owe(session, handle.entry());
    }
    Ok(())
}

/// Drops this process's watch, when its last handle goes.
pub fn forget(session: &'static Session, index: u32, entry: &'static Entry) {
    listeners().remove(&(session.id(), index, entry.generation()));
}

/// Rings everybody who watches the object, or sees to it that somebody else does.
#[cold]
pub fn ring(session: &'static Session, index: u32, entry: &'static Entry) -> Result<(), ShmError> {
    let (mut found, mut owed) = (false, false);
    let watchers = entry.watchers.fetch_and(!OWED, Ordering::SeqCst) & !OWED;
    for (number, _) in session.slots() {
        let word = session
            .hold_record(number, index)?
            .flags
            .load(Ordering::Acquire);
        if word & HELD != 0
            && word & WATCHES != 0
            && let Some(owner) = session.owner_in(number)
        {
            match ring_one(session, owner.word(), (word >> 32) as u32) {
                Ok(rung) => found |= rung,
                Err(_) => owed = true,
            }
        }
    }
    if owed {
        owe(session, entry);
    } else if !found {
        // Unless one has come after we looked for it.
        let _ = entry
            .watchers
            .compare_exchange(watchers, 0, Ordering::SeqCst, Ordering::Relaxed);
    }
    Ok(())
}

fn ring_one(session: &Session, member: u32, serial: u32) -> Result<bool, Errno> {
    bell()?.ring(&name(session, member, serial))
}

/// This process's, made when it is first needed; tried again if that fails.
fn bell() -> Result<&'static Bell, Errno> {
    static BELL: OnceLock<Bell> = OnceLock::new();
    if let Some(bell) = BELL.get() {
        return Ok(bell);
    }
    let bell = Bell::new()?;
    Ok(BELL.get_or_init(|| bell))
}
