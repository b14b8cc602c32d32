//! The session's shared memory: what survives a peer that dies at any instruction.
//!
//! From the bottom up: [`segment`] gives checked references into the one shared object, [`guard`] makes changes of several
//! words atomic even against SIGKILL, [`gate`] is how anybody sleeps and is woken, [`arena`] hands out memory with an owner
//! on every block, [`session`] ties them together with the tables of processes and objects, and [`recover`] gives back
//! what a dead process held. On these stand the things that users share: [`ring`] and [`sync`].
//!
//! This layer knows processes only as owners of things. It starts none and moves bytes, never types.
//!
//! Under `cfg(loom)` only what the model checker runs is compiled, upon what `model` has in the session's place.

#![cfg_attr(loom, allow(dead_code))] // what calls it is not there

pub mod arena;
#[cfg(not(loom))]
pub mod board;
#[cfg(loom)]
pub mod board {
    //! What the model checker runs of it.
    pub mod cell;
    pub mod ledger;
}
#[cfg(not(loom))]
pub mod bundle;
pub mod error;
mod extents;
pub mod fault;
pub mod gate;
pub mod guard;
#[cfg(not(loom))]
mod holds;
#[cfg(not(loom))]
mod identity;
#[cfg(loom)]
pub mod identity;
#[cfg(not(loom))]
pub mod kinds;
pub mod layout;
#[cfg(not(loom))]
pub mod memory;
#[cfg(loom)]
pub mod model;
#[cfg(not(loom))]
pub mod objects;
#[cfg(not(loom))]
pub mod observe;
#[cfg(not(loom))]
pub mod pipe;
pub mod primitive;
#[cfg(not(loom))]
pub mod processes;
#[cfg(not(loom))]
pub mod recover;
#[cfg(not(loom))]
pub mod ring;
pub mod segment;
#[cfg(not(loom))]
pub mod session;
#[cfg(not(loom))]
mod shown;
#[cfg(not(loom))]
pub mod store;
pub mod sync;
#[cfg(not(loom))]
mod text;
#[cfg(not(loom))]
mod tickets;
#[cfg(not(loom))]
pub mod wait;
#[cfg(not(loom))]
pub mod watch;

pub use error::{Corrupt, ShmError, WaitError};
#[cfg(loom)]
pub use model as session;
pub use session::Session;
