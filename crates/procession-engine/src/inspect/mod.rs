//! Running sessions, seen from outside: which there are, and what goes on in one.
//!
//! The words that make the program work are the words that are read here: there is no second bookkeeping, nothing is stopped
//! and nothing is written. Two consequences shape this module. A value may change while it is read, so what belongs together
//! is read twice and what would not hold still is marked as torn. And the memory is not ours, so no number in it is believed:
//! each is bounded before it is used, and whatever makes no sense shows as such.
//!
//! - [`find_all`] and [`find_by_pid`] look for sessions among the processes of the machine,
//! - [`snapshot()`] reads one of them,
//! - [`Report`] is what comes out: a plain structure for a table, for JSON, or for a question such as "who waits for whom".

mod find;
mod objects;
mod report;
mod snapshot;

pub use find::{Failure, InspectError, Observed, Search, find_all, find_by_pid};
pub use report::{
    Member, MemoryUse, ObjectName, ObjectReport, ProcessReport, ProcessState, Report, TaskReport,
    WaitReport,
};
pub use snapshot::{Objects, Options, snapshot};
