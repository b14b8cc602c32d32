//! Waiting for descriptors.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::Errno;
use crate::clock::Deadline;

/// Waits until `fd` is readable (or at its end). False when the deadline came first; `EINTR` is reported.
pub fn wait_readable(fd: &impl AsFd, deadline: Deadline) -> Result<bool, Errno> {
    Ok(wait_any_readable(&[fd.as_fd()], deadline)?
        .first()
        .copied()
        .unwrap_or(false))
}

/// Waits until one of `fds` is readable and says which are.
pub fn wait_any_readable(fds: &[BorrowedFd<'_>], deadline: Deadline) -> Result<Vec<bool>, Errno> {
    let mut set: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(fd, PollFlags::IN))
        .collect();
    let left = deadline.remaining().map(|d| Timespec {
        tv_sec: d.as_secs() as i64,
        tv_nsec: d.subsec_nanos().into(),
    });
    rustix::event::poll(&mut set, left.as_ref())?;
    Ok(set.iter().map(|p| !p.revents().is_empty()).collect())
}
