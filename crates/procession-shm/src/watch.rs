//! Descriptors that become readable when an object has something for its reader.
//!
//! Nobody pays for them until somebody asks: an object that is watched says so in its entry, and only then does a writer
//! that makes it non-empty look up the watchers and ring each by name (see [`procession_sys::notify`]). The reader takes the
//! rings when it has found the object empty, and looks once more afterwards.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
        ring_one(session, me, watch.serial.load(Ordering::Relaxed));
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
    if readable()? {
        ring_one(session, me, watch.serial.load(Ordering::Relaxed));
    }
    Ok(())
}

/// Drops this process's watch, when its last handle goes.
pub fn forget(session: &'static Session, index: u32, entry: &'static Entry) {
    listeners().remove(&(session.id(), index, entry.generation()));
}

/// Rings everybody who watches the object.
#[cold]
pub fn ring(session: &'static Session, index: u32, entry: &'static Entry) -> Result<(), ShmError> {
    let mut found = false;
    let watchers = entry.watchers.load(Ordering::SeqCst);
    for (number, _) in session.slots() {
        let word = session
            .hold_record(number, index)?
            .flags
            .load(Ordering::Acquire);
        if word & HELD != 0
            && word & WATCHES != 0
            && let Some(owner) = session.owner_in(number)
        {
            found |= ring_one(session, owner.word(), (word >> 32) as u32);
        }
    }
    if !found {
        // Unless one has come after we looked for it.
        let _ = entry
            .watchers
            .compare_exchange(watchers, 0, Ordering::SeqCst, Ordering::Relaxed);
    }
    Ok(())
}

fn ring_one(session: &Session, member: u32, serial: u32) -> bool {
    static BELL: OnceLock<Option<Bell>> = OnceLock::new();
    let bell = BELL.get_or_init(|| Bell::new().ok());
    bell.as_ref()
        .is_some_and(|b| b.ring(&name(session, member, serial)))
}
