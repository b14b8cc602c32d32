//! A descriptor in one process that any other process can make readable.
//!
//! A [`Listener`] is a datagram socket with a name in the abstract namespace; a [`Bell`] rings it by name. No descriptor
//! needs to travel between the processes, nothing is left behind in a file system, and the name of a listener that has
//! gone is simply refused. A stray ring is harmless: whoever is woken looks again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::Errno;

/// The receiving end: its descriptor is readable from a ring until [`Listener::clear`].
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Binds `name`; `EADDRINUSE` if somebody has it.
    pub fn bind(name: &str) -> Result<Self, Errno> {
        let fd = socket()?;
        rustix::net::bind(&fd, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        Ok(Self(fd))
    }

    /// Goes on as `other`, under the descriptor number that this one has always had.
    pub fn replace(&mut self, other: &Self) -> Result<(), Errno> {
        rustix::io::dup3(&other.0, &mut self.0, rustix::io::DupFlags::CLOEXEC)
    }

    /// Takes all rings that have come, so that the descriptor is not readable any more.
    pub fn clear(&self) {
        let mut buf = [0u8; 8];
        while rustix::net::recv(&self.0, &mut buf, RecvFlags::DONTWAIT).is_ok() {}
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The sending end, good for any number of listeners.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// Makes one.
    pub fn new() -> Result<Self, Errno> {
        socket().map(Self)
    }

    /// Rings the listener called `name`. False if nobody has that name (any more), an error if the system lacks the means just
    /// now. A listener whose buffer is full is readable already, so that counts as rung.
    pub fn ring(&self, name: &str) -> Result<bool, Errno> {
        let addr = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
        match rustix::net::sendto(
            &self.0,
            b"!",
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            &addr,
        ) {
            Ok(_) | Err(Errno::AGAIN) => Ok(true),
            Err(lacking @ (Errno::NOBUFS | Errno::NOMEM | Errno::INTR)) => Err(lacking),
            Err(_) => Ok(false),
        }
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Deadline;
    use crate::poll::wait_readable;

    #[test]
    fn ring_and_clear() {
        let name = format!("procession-test-{}", std::process::id());
        let bell = Bell::new().unwrap();
        assert!(!bell.ring(&name).unwrap());
        let listener = Listener::bind(&name).unwrap();
        assert!(!wait_readable(&listener, Deadline::NOW).unwrap());
        for _ in 0..10_000 {
            assert!(bell.ring(&name).unwrap());
        }
        assert!(wait_readable(&listener, Deadline::NOW).unwrap());
        listener.clear();
        assert!(!wait_readable(&listener, Deadline::NOW).unwrap());
    }
}
