//! Named points at which a test can make a process die.
//!
//! Compiled out unless the feature `fault` is on. A process that has armed a point (with `arm`, or through the variable
//! `PROCESSION_CRASH_AT=name[:n]`, the n-th time it is passed) kills itself there with SIGKILL: no destructor, no handler.
//! With `arm_stop` it stops itself there instead, as a debugger would, until somebody lets it go on. In models a thread can die
//! at any of them (see `model`).

/// Dies here if the named point is armed. Every step of a shared-memory protocol has one.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(any(feature = "fault", loom))]
        $crate::fault::pass($name);
    };
}

#[cfg(all(feature = "fault", not(loom)))]
mod armed {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    static ANY: AtomicBool = AtomicBool::new(false);
    static POINT: Mutex<Option<(String, u32)>> = Mutex::new(None);
    static SEEN: Mutex<Vec<(&'static str, u32)>> = Mutex::new(Vec::new());
    /// What is done at the armed point: stopping, or else dying.
    static STOP: AtomicBool = AtomicBool::new(false);
    static RECORD: AtomicBool = AtomicBool::new(false);

    /// Arms a point of this process: the `n`-th pass (from 1) kills it.
    pub fn arm(name: &str, n: u32) {
        *POINT.lock().unwrap() = Some((name.to_owned(), n.max(1)));
        ANY.store(true, Ordering::SeqCst);
    }

    /// Arms a point of this process: the `n`-th pass stops it.
    pub fn arm_stop(name: &str, n: u32) {
        STOP.store(true, Ordering::SeqCst);
        arm(name, n);
    }

    /// Arms what the environment asks for.
    pub fn arm_from_env() {
        if let Ok(spec) = std::env::var("PROCESSION_CRASH_AT") {
            let (name, n) = spec
                .rsplit_once(':')
                .and_then(|(a, b)| Some((a, b.parse().ok()?)))
                .unwrap_or((&spec, 1));
            arm(name, n);
        }
    }

    /// Starts to collect the names of the points that are passed; [`passed`] returns them.
    pub fn record() {
        RECORD.store(true, Ordering::SeqCst);
        ANY.store(true, Ordering::SeqCst);
    }

    /// The points passed since [`record`], and how often.
    pub fn passed() -> Vec<(&'static str, u32)> {
        SEEN.lock().unwrap().clone()
    }

    /// A point is passed; used by the macro.
    pub fn pass(name: &'static str) {
        if !ANY.load(Ordering::Relaxed) {
            return;
        }
        if RECORD.load(Ordering::Relaxed) {
            let mut seen = SEEN.lock().unwrap();
            match seen.iter_mut().find(|(known, _)| *known == name) {
                Some((_, times)) => *times += 1,
                None => seen.push((name, 1)),
            }
        }
        let mut point = POINT.lock().unwrap();
        if let Some((armed, n)) = point.as_mut()
            && armed == name
        {
            *n -= 1;
            if *n > 0 {
                return;
            }
            *point = None;
            drop(point);
            if STOP.load(Ordering::SeqCst) {
                procession_sys::process::stop_self();
            } else {
                procession_sys::process::kill_self();
            }
        }
    }
}

#[cfg(all(feature = "fault", not(loom)))]
pub use armed::{arm, arm_from_env, arm_stop, pass, passed, record};

#[cfg(loom)]
pub use crate::model::pass;
