//! Processes and what they do together, in bytes: no types, no pickles.
//!
//! [`home`] is this process's place in a session, [`launch`] starts another program (or this one again) as a member of it,
//! [`process`] is the parent's view of such a child, and [`transit`] lets handles of shared objects travel in messages.
//! [`inspect`] looks at running sessions from outside.

#![forbid(unsafe_code)]

pub mod env;
pub mod error;
pub mod home;
pub mod inspect;
pub mod launch;
pub mod pool;
pub mod process;
pub mod transit;
