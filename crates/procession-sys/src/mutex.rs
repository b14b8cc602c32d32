//! A robust mutex that lives in shared memory: whoever locks it after its owner died is told so.
//!
//! It is the C library's process-shared robust mutex. The kernel marks it when the thread that holds it ends, by whatever
//! cause, before the memory of the process is torn down, and wakes the next locker.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The mutex as it stands in shared memory, padded to a cache line.
///
/// It must not be moved once initialized, and the memory that it stands in must stay mapped for as long as any thread of
/// this process may hold it: the kernel cannot mark a mutex in memory that is gone.
#[repr(C, align(64))]
pub struct RobustMutex(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: the C library's mutex is made to be used from several threads (and here processes) through shared references.
unsafe impl Sync for RobustMutex {}
// SAFETY: as above; it holds no thread-bound data while unlocked.
unsafe impl Send for RobustMutex {}

/// How a lock was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Acquired {
    /// We hold it.
    Clean,
    /// We hold it, and its last owner died holding it: repair what it guards, then call [`RobustMutex::mark_repaired`].
    OwnerDied,
    /// Somebody else holds it (or held it until the time was up).
    Busy,
    /// It can never be locked again: a repair was left out, or the memory holds no mutex.
    Broken,
}

impl RobustMutex {
    /// Makes the mutex. Nobody else may look at it until this returns.
    pub fn init(&self) -> Result<(), crate::Errno> {
        let mut attr = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: `attr` is initialized by the first call before the others use it, and the mutex's memory is ours alone
        // (the documented condition of this function).
        let rc = unsafe {
            libc::pthread_mutexattr_init(attr.as_mut_ptr());
            libc::pthread_mutexattr_setpshared(attr.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED);
            libc::pthread_mutexattr_setrobust(attr.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
            let rc = libc::pthread_mutex_init(self.0.get(), attr.as_ptr());
            libc::pthread_mutexattr_destroy(attr.as_mut_ptr());
            rc
        };
        if rc == 0 {
            Ok(())
        } else {
            Err(crate::Errno::from_raw_os_error(rc))
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Acquired {
        // SAFETY: the pointer is to a live mutex for as long as `self` is borrowed; the C library checks its kind.
        Self::acquired(unsafe { libc::pthread_mutex_trylock(self.0.get()) })
    }

    /// Takes the lock, waiting for `timeout` at most.
    pub fn lock_for(&self, timeout: Duration) -> Acquired {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let mut at = libc::timespec {
            tv_sec: now.tv_sec,
            tv_nsec: now.tv_nsec,
        };
        at.tv_sec += timeout.as_secs() as i64;
        at.tv_nsec += i64::from(timeout.subsec_nanos());
        if at.tv_nsec >= 1_000_000_000 {
            at.tv_sec += 1;
            at.tv_nsec -= 1_000_000_000;
        }
        // SAFETY: as in `try_lock`; `at` outlives the call.
        Self::acquired(unsafe {
            pthread_mutex_clocklock(self.0.get(), libc::CLOCK_MONOTONIC, &raw const at)
        })
    }

    /// Says that what the mutex guards is whole again, after [`Acquired::OwnerDied`].
    pub fn mark_repaired(&self) {
        // SAFETY: as in `try_lock`; the call fails without effect if we do not hold the mutex in that state.
        unsafe { libc::pthread_mutex_consistent(self.0.get()) };
    }

    /// Gives the lock back. A thread that does not hold it changes nothing.
    #[inline]
    pub fn unlock(&self) {
        // SAFETY: as in `try_lock`; a robust mutex refuses (EPERM) when the caller is not its owner.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
    }

    /// Is it locked by a thread that does not exist? The kernel's protocol for robust mutexes has the holder's id in the word
    /// that is waited on, and marks that word when the holder ends; so if this stays true, somebody has overwritten it.
    pub fn is_held_by_nobody(&self) -> bool {
        // Which of the mutex's words that is.
        const WORD: usize = if cfg!(target_env = "musl") { 1 } else { 0 };
        const THREAD: u32 = 0x3fff_ffff;
        // SAFETY: the mutex is larger than two words and aligned to more than one, and its words are changed atomically.
        let word = unsafe { &*self.0.get().cast::<AtomicU32>().add(WORD) };
        let thread = word.load(Ordering::Relaxed) & THREAD;
        thread != 0 && !std::path::Path::new(&format!("/proc/{thread}")).exists()
    }

    fn acquired(rc: i32) -> Acquired {
        match rc {
            0 => Acquired::Clean,
            libc::EOWNERDEAD => Acquired::OwnerDied,
            libc::EBUSY | libc::ETIMEDOUT | libc::EAGAIN | libc::EINTR => Acquired::Busy,
            // EDEADLK is not reported by a normal mutex, ENOTRECOVERABLE and EINVAL are final.
            _ => Acquired::Broken,
        }
    }
}

unsafe extern "C" {
    // In glibc since 2.30 and musl since 1.2; the libc crate does not declare it.
    fn pthread_mutex_clocklock(
        mutex: *mut libc::pthread_mutex_t,
        clock: libc::clockid_t,
        at: *const libc::timespec,
    ) -> libc::c_int;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutex() -> &'static RobustMutex {
        // SAFETY: an all-zero pthread mutex is a valid value to initialize over.
        let m: &'static RobustMutex = Box::leak(Box::new(unsafe { std::mem::zeroed() }));
        m.init().unwrap();
        m
    }

    #[test]
    fn busy_while_held_and_clean_after() {
        let m = mutex();
        assert_eq!(m.try_lock(), Acquired::Clean);
        std::thread::scope(|s| {
            s.spawn(|| assert_eq!(m.lock_for(Duration::from_millis(5)), Acquired::Busy));
        });
        m.unlock();
        assert_eq!(m.lock_for(Duration::from_secs(60)), Acquired::Clean);
        m.unlock();
    }

    #[test]
    fn a_thread_that_ends_holding_it_is_noticed() {
        let m = mutex();
        std::thread::spawn(|| assert_eq!(m.try_lock(), Acquired::Clean))
            .join()
            .unwrap();
        assert_eq!(m.try_lock(), Acquired::OwnerDied);
        m.mark_repaired();
        m.unlock();
        assert_eq!(m.try_lock(), Acquired::Clean);
        m.unlock();
    }

    #[test]
    fn a_repair_left_out_breaks_it() {
        let m = mutex();
        std::thread::spawn(|| assert_eq!(m.try_lock(), Acquired::Clean))
            .join()
            .unwrap();
        assert_eq!(m.try_lock(), Acquired::OwnerDied);
        m.unlock();
        assert_eq!(m.try_lock(), Acquired::Broken);
    }
}
