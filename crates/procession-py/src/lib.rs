//! The native module of the Python package: the engine's objects as Python classes.
//!
//! What is here is only what Python needs beyond the engine: argument conversion, pickling, the gate through which every
//! blocking call leaves the interpreter, and the mapping of errors. Names, signatures and everything that is not on a hot
//! path are in the Python files.

#![deny(unsafe_code)]

mod batches;
mod buffer;
mod codec;
mod enter;
mod errors;
mod feed;
mod flag;
mod life;
mod outcomes;
mod pipe;
mod pool;
mod queue;
mod raw;
mod received;
mod store;
mod sync;
mod tools;
mod worker;

use pyo3::prelude::*;

/// The compiled part of the package.
#[pymodule]
mod _native {
    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    #[pymodule_export]
    use crate::buffer::BlockBuffer;
    #[pymodule_export]
    use crate::codec::{dumps, in_transit, loads};
    #[pymodule_export]
    use crate::life::{
        after_fork_in_child, before_fork, child_abandoned, child_exited, child_expected,
        child_ready, child_started, ensure_session, enter_child, exit_status, fork_into,
        fork_outside, guard_orphan, leave, note_interrupt, orphaned, prepare_child, session_fd,
        session_info, settled, sweep, trim, wait_exit, was_interrupted,
    };
    #[pymodule_export]
    use crate::pipe::{PipeEnd, make_pipe};
    #[pymodule_export]
    use crate::pool::{PoolCore, oom_kills};
    #[pymodule_export]
    use crate::queue::{QueueCore, wait_ready};
    #[pymodule_export]
    use crate::raw::own_methods;
    #[pymodule_export]
    use crate::store::{DictCore, ListCore, references};
    #[pymodule_export]
    use crate::sync::{
        BarrierCore, ConditionCore, EventCore, FutureCore, LockCore, RLockCore, SemaphoreCore,
        Waiter,
    };
    #[pymodule_export]
    use crate::tools::cli;
    #[pymodule_export]
    use crate::worker::PoolWorker;

    /// Whoever forks through Python: received buffers are passed on to the child.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let hooks = PyDict::new(module.py());
        hooks.set_item("before", module.getattr("before_fork")?)?;
        hooks.set_item("after_in_child", module.getattr("after_fork_in_child")?)?;
        module
            .py()
            .import("os")?
            .call_method("register_at_fork", (), Some(&hooks))?;
        Ok(())
    }
}
