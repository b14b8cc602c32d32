//! A process that ends when its parent dies, without a thread.
//!
//! The kernel's parent-death signal follows the *thread* that made the child, so a child of a short-lived thread would be
//! told although its parent lives. So the signal is only a hint: its handler asks whether the parent process has really
//! changed, and if so starts a timer whose expiry is SIGKILL. In the grace time the child may notice its orphanhood itself
//! (`parent_process().is_alive()`), report and clean up.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use crate::Errno;

/// How long an orphan may live on.
pub const GRACE: Duration = Duration::from_millis(500);

static EXPECTED_PARENT: AtomicI32 = AtomicI32::new(0);
static TIMER: AtomicUsize = AtomicUsize::new(0);

fn signal() -> libc::c_int {
    // One of the last real-time signals: the first ones are popular with debuggers and language runtimes.
    libc::SIGRTMAX() - 3
}

/// Arms this process: it is killed [`GRACE`] after its parent (now `parent`) dies. Called again after a fork.
pub fn guard(parent: u32) -> Result<(), Errno> {
    EXPECTED_PARENT.store(parent as i32, Ordering::SeqCst);
    // SAFETY: zero is a valid start for these plain C structures, and every field that matters is set below.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGKILL;
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: both pointers are to live locals.
    check(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) })?;
    // The identifier is stored off by one, since the first timer of a process may have the identifier zero.
    TIMER.store(timer as usize + 1, Ordering::SeqCst);
    // SAFETY: as above; the handler does only what is allowed in a signal handler.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO;
        check(libc::sigaction(
            signal(),
            &raw const action,
            std::ptr::null_mut(),
        ))?;
        check(libc::prctl(libc::PR_SET_PDEATHSIG, signal()))?;
    }
    // The parent may have died before the signal was armed.
    if crate::ident::parent_pid() != parent {
        start_timer();
    }
    Ok(())
}

/// Tells another guarded process that its logical parent has died, although its real one has not.
pub fn tell(pid: u32) -> Result<(), Errno> {
    // SAFETY: sends a signal with a plain integer; there is no memory to be unsafe about.
    check(unsafe {
        libc::sigqueue(
            pid as i32,
            signal(),
            libc::sigval {
                sival_ptr: std::ptr::without_provenance_mut(1),
            },
        )
    })
}

extern "C" fn on_signal(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO; getppid cannot fail.
    let orphaned = unsafe {
        (*info).si_code == libc::SI_QUEUE
            || libc::getppid() != EXPECTED_PARENT.load(Ordering::SeqCst)
    };
    if orphaned {
        start_timer();
    }
}

fn start_timer() {
    let Some(timer) = TIMER.load(Ordering::SeqCst).checked_sub(1) else {
        return;
    };
    let spec = libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: libc::timespec {
            tv_sec: GRACE.as_secs() as i64,
            tv_nsec: GRACE.subsec_nanos().into(),
        },
    };
    // SAFETY: the timer was created by this process (a fork arms anew before it could get the signal), and
    // timer_settime may be called from a signal handler.
    unsafe {
        libc::timer_settime(
            timer as libc::timer_t,
            0,
            &raw const spec,
            std::ptr::null_mut(),
        )
    };
}

/// After a fork, before [`guard`]: forgets the parent's timer, which the child has not got.
pub fn reset_after_fork() {
    TIMER.store(0, Ordering::SeqCst);
}

fn check(rc: libc::c_int) -> Result<(), Errno> {
    if rc == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}
