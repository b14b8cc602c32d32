//! What this process may use: processors, address space, descriptors, memory.

use std::fs;

/// Processors that this process may run on: affinity and the cgroup's quota, at least one.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The limit of this process's address space in bytes, `None` if there is none.
pub fn address_space() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

/// Allows this process to take `bytes` more of address space than it has now, and its children no more than that.
pub fn limit_growth(bytes: u64) -> Result<(), crate::Errno> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let pages = procfs::process::Process::myself()
        .and_then(|me| me.statm())
        .map_err(|_| crate::Errno::NOSYS)?
        .size;
    let wanted = (pages * rustix::param::page_size() as u64).saturating_add(bytes);
    let limit = getrlimit(Resource::As)
        .maximum
        .map_or(wanted, |max| max.min(wanted));
    let limit = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    setrlimit(Resource::As, limit)
}

/// The memory that this machine or this cgroup has, in bytes.
pub fn memory() -> u64 {
    let total = procfs_meminfo().unwrap_or(1 << 30);
    cgroup_file("memory.max")
        .and_then(|s| s.trim().parse::<u64>().ok())
        .map_or(total, |max| max.min(total))
}

/// How often the kernel's out-of-memory killer has struck in this process's cgroup, if that can be told.
pub fn oom_kills() -> Option<u64> {
    cgroup_file("memory.events")?
        .lines()
        .find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn procfs_meminfo() -> Option<u64> {
    use procfs::Current;
    procfs::Meminfo::current().ok().map(|m| m.mem_total)
}

fn cgroup_file(name: &str) -> Option<String> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|l| l.strip_prefix("0::"))?.trim();
    fs::read_to_string(format!("/sys/fs/cgroup{path}/{name}"))
        .or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup/{name}")))
        .ok()
}
