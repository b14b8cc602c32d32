//! The operating system as procession needs it.
//!
//! This is the only crate that names an operating system. Every module is one service with safe types at its surface;
//! the layers above know neither `libc` nor file-descriptor arithmetic. Supported: Linux on `x86_64` and `aarch64`.

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("procession supports Linux on x86_64 and aarch64");

pub mod clock;
pub mod collect;
pub mod fork;
pub mod futex;
pub mod ident;
pub mod limits;
pub mod memory;
pub mod mutex;
pub mod notify;
pub mod orphan;
pub mod poll;
pub mod proc;
pub mod process;
pub mod spawn;

/// An error number of the operating system, as every module of this crate reports it.
pub type Errno = rustix::io::Errno;
