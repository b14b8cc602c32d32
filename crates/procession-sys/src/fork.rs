//! Noticing `fork()`, by whomever it is called.

use std::sync::OnceLock;

struct Hooks {
    before: fn(),
    in_parent: fn(),
    in_child: fn(),
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// Has the C library call these around every `fork()` of this process. The first call counts, later ones do nothing.
///
/// The functions run on the forking thread; the one for the child runs where no other thread exists, so it takes no lock
/// that another thread may have held.
pub fn on_fork(before: fn(), in_parent: fn(), in_child: fn()) {
    let mut first = false;
    HOOKS.get_or_init(|| {
        first = true;
        Hooks {
            before,
            in_parent,
            in_child,
        }
    });
    if first {
        // SAFETY: the three functions are plain `extern "C"` functions that live as long as the program; a module that is
        // unloaded is taken off the C library's list.
        unsafe { libc::pthread_atfork(Some(run_before), Some(run_in_parent), Some(run_in_child)) };
    }
}

extern "C" fn run_before() {
    if let Some(h) = HOOKS.get() {
        (h.before)();
    }
}

extern "C" fn run_in_parent() {
    if let Some(h) = HOOKS.get() {
        (h.in_parent)();
    }
}

extern "C" fn run_in_child() {
    if let Some(h) = HOOKS.get() {
        (h.in_child)();
    }
}
