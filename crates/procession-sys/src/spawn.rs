//! Starting a program with exactly the descriptors that it is meant to have.
//!
//! `posix_spawn` shares the parent's memory until the program is executed, so that starting a child costs the same however
//! large the parent is, and nothing of ours runs between the fork and the exec.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};

use crate::Errno;
use crate::process::PidFd;

/// The executable that this process runs, even if its file has been replaced or removed since.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// Starts `program` with `args` (the first one is its own name) and exactly the environment `env`. Each descriptor of `fds`
/// arrives in the child under the number beside it; of the others it gets those that are not marked close-on-exec.
pub fn spawn(
    program: &Path,
    args: &[OsString],
    env: &[(OsString, OsString)],
    fds: &[(BorrowedFd<'_>, i32)],
) -> Result<(u32, PidFd), Errno> {
    let path = c_string(program.as_os_str().as_bytes().to_vec())?;
    let args = args
        .iter()
        .map(|a| c_string(a.as_bytes().to_vec()))
        .collect::<Result<Vec<_>, _>>()?;
    let env = env
        .iter()
        .map(|(name, value)| c_string([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut actions = PosixSpawnFileActions::init().map_err(errno)?;
    let mut copies = Vec::new();
    for (fd, target) in fds {
        // A source that is also somebody's target would be overwritten before its turn.
        let copy = fds
            .iter()
            .any(|(_, other)| *other == fd.as_raw_fd() && other != target)
            .then(|| above_targets(*fd, fds))
            .transpose()?;
        let source = copy.as_ref().map_or(*fd, OwnedFd::as_fd);
        actions
            .add_dup2(source.as_raw_fd(), *target)
            .map_err(errno)?;
        copies.extend(copy);
    }
    let attributes = PosixSpawnAttr::init().map_err(errno)?;
    let pid = posix_spawn(&*path, &actions, &attributes, &args, &env).map_err(errno)?;
    let pid = pid.as_raw().unsigned_abs();
    // Nobody has reaped the child yet, so its pid cannot be another's.
    match PidFd::open(pid) {
        Ok(pidfd) => Ok((pid, pidfd)),
        Err(error) => {
            end_unseen(pid);
            Err(error)
        }
    }
}

/// A descriptor of our own for what the parent has put under a fixed number. The number itself stays open, so that nobody's
/// descriptor is pulled away by mistake, but neither of the two is inherited further.
pub fn take_inherited(number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: duplicating touches no memory; a number that is not open is refused.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: changes a flag of a descriptor that was open just now; there is no memory to be unsafe about.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: the copy was made above and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Makes `fd` this process's standard output.
pub fn replace_stdout(fd: &impl AsFd) -> Result<(), Errno> {
    // SAFETY: duplicates an open descriptor to the number that standard output has by convention, and that nobody owns.
    if unsafe { libc::dup2(fd.as_fd().as_raw_fd(), 1) } < 0 {
        return Err(Errno::BADF);
    }
    Ok(())
}

fn above_targets(fd: BorrowedFd<'_>, fds: &[(BorrowedFd<'_>, i32)]) -> Result<OwnedFd, Errno> {
    let highest = fds.iter().map(|(_, target)| *target).max().unwrap_or(0);
    rustix::io::fcntl_dupfd_cloexec(fd, highest.max(2) + 1)
}

/// A child that we cannot watch is not kept.
fn end_unseen(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
}

fn c_string(bytes: Vec<u8>) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

fn errno(error: nix::Error) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Deadline;
    use crate::process::Exit;
    use std::io::{Read, Seek, Write};
    use std::time::Duration;

    fn run(script: &str, fds: &[(BorrowedFd<'_>, i32)], env: &[(OsString, OsString)]) -> Exit {
        let args = ["sh", "-c", script].map(OsString::from);
        let (_, pidfd) = spawn(Path::new("/bin/sh"), &args, env, fds).unwrap();
        assert!(
            pidfd
                .wait(Deadline::after(Some(Duration::from_secs(60))))
                .unwrap()
        );
        pidfd.reap().unwrap().unwrap()
    }

    fn file_with(text: &str, name: &str) -> std::fs::File {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let mut file = std::fs::File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn descriptors_that_trade_places_arrive() {
        let (a, b) = (file_with("a", "spawn-a"), file_with("b", "spawn-b"));
        let out = file_with("", "spawn-out");
        let fds = [
            (a.as_fd(), b.as_raw_fd()),
            (b.as_fd(), a.as_raw_fd()),
            (out.as_fd(), 1),
        ];
        let script = format!(
            "cat /proc/self/fd/{} /proc/self/fd/{}",
            a.as_raw_fd(),
            b.as_raw_fd()
        );
        assert_eq!(run(&script, &fds, &[]), Exit::Code(0));
        let mut text = String::new();
        (&out).rewind().unwrap();
        (&out).read_to_string(&mut text).unwrap();
        assert_eq!(text, "ba");
    }

    #[test]
    fn the_environment_is_what_was_given_and_nothing_else() {
        let env = [(OsString::from("GIVEN"), OsString::from("7"))];
        assert_eq!(
            run("exit $((GIVEN + ${HOME:-0}))", &[], &env),
            Exit::Code(7)
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = spawn(Path::new("/nowhere/to/be/found"), &[], &[], &[]).unwrap_err();
        assert_eq!(error, Errno::NOENT);
    }

    #[test]
    fn a_number_that_is_not_open_cannot_be_taken() {
        assert_eq!(take_inherited(9999).unwrap_err(), Errno::BADF);
    }
}
