//! The native module of the Python package: the engine's objects as Python classes.
//!
//! What is here is only what Python needs beyond the engine: argument conversion, pickling, the gate through which every
//! blocking call leaves the interpreter, and the mapping of errors. Names, signatures and everything that is not on a hot
//! path are in the Python files.

#![deny(unsafe_code)]

mod buffer;
mod codec;
mod enter;
mod errors;
mod life;
mod pipe;
mod pool;
mod queue;
mod sync;
mod tools;

use pyo3::prelude::*;

/// The compiled part of the package.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::buffer::BlockBuffer;
    #[pymodule_export]
    use crate::codec::{dumps, in_transit, loads};
    #[pymodule_export]
    use crate::tools::cli;
    #[pymodule_export]
    use crate::life::{
        after_fork_in_child, child_abandoned, child_exited, child_ready, child_started, ensure_session, enter_child,
        exit_status, fork_into, guard_orphan, leave, orphaned, prepare_child, session_fd, session_info, settled,
        sweep, trim, wait_exit,
    };
    #[pymodule_export]
    use crate::pipe::{PipeEnd, make_pipe};
    #[pymodule_export]
    use crate::pool::{PoolCore, PoolWorker, oom_killed};
    #[pymodule_export]
    use crate::queue::{QueueCore, wait_ready};
    #[pymodule_export]
    use crate::sync::{BarrierCore, ConditionCore, EventCore, LockCore, RLockCore, SemaphoreCore, Waiter};
}
