//! What this process may use: processors, address space, descriptors, memory.

use std::fs;
use std::path::Path;

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

/// Allows this process no more than `count` open descriptors.
pub fn limit_descriptors(count: u64) -> Result<(), crate::Errno> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = Rlimit {
        current: Some(count),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    setrlimit(Resource::Nofile, limit)
}

/// The memory that this machine or this cgroup has, in bytes.
pub fn memory() -> u64 {
    let total = procfs_meminfo().unwrap_or(1 << 30);
    Group::own()
        .and_then(|group| group.memory())
        .map_or(total, |max| max.min(total))
}

/// How often the kernel's out-of-memory killer has struck in this process's cgroup, if that can be told.
pub fn oom_kills() -> Option<u64> {
    Group::own()?.oom_kills()
}

fn procfs_meminfo() -> Option<u64> {
    use procfs::Current;
    procfs::Meminfo::current().ok().map(|m| m.mem_total)
}

/// A process's place in the trees of cgroups, of either version.
struct Group<'a> {
    /// The process's `/proc/PID/cgroup`.
    places: String,
    /// Where the trees are mounted.
    root: &'a Path,
}

impl Group<'static> {
    fn own() -> Option<Self> {
        Some(Self {
            places: fs::read_to_string("/proc/self/cgroup").ok()?,
            root: Path::new("/sys/fs/cgroup"),
        })
    }
}

impl Group<'_> {
    fn memory(&self) -> Option<u64> {
        let text = self
            .unified("memory.max")
            .or_else(|| self.controller("memory.limit_in_bytes"))?;
        text.trim().parse().ok()
    }

    fn oom_kills(&self) -> Option<u64> {
        let text = self
            .unified("memory.events")
            .or_else(|| self.controller("memory.oom_control"))?;
        text.lines()
            .find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok())
    }

    /// A file of the one tree of version 2.
    fn unified(&self, file: &str) -> Option<String> {
        let place = self.places.lines().find_map(|l| l.strip_prefix("0::"))?;
        Self::read(self.root, place, file)
    }

    /// A file of version 1's tree for memory.
    fn controller(&self, file: &str) -> Option<String> {
        let place = self.places.lines().find_map(|l| {
            let (controllers, place) = l.split_once(':')?.1.split_once(':')?;
            controllers
                .split(',')
                .any(|c| c == "memory")
                .then_some(place)
        })?;
        Self::read(&self.root.join("memory"), place, file)
    }

    /// In a container the tree may be mounted from the process's own place on.
    fn read(tree: &Path, place: &str, file: &str) -> Option<String> {
        let place = tree.join(place.trim_start_matches('/'));
        fs::read_to_string(place.join(file))
            .or_else(|_| fs::read_to_string(tree.join(file)))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files, deleted with this.
    struct Tree(std::path::PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("cgroup-{name}-{}", std::process::id()));
            for (file, text) in files {
                let path = root.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }

        fn group(&self, places: &str) -> Group<'_> {
            Group {
                places: places.to_owned(),
                root: &self.0,
            }
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const EVENTS: &str = "low 0\nhigh 0\nmax 31\noom 5\noom_kill 4\noom_group_kill 9\n";

    #[test]
    fn the_unified_tree() {
        let tree = Tree::new(
            "two",
            &[
                ("user/me/memory.events", EVENTS),
                ("user/me/memory.max", "1048576\n"),
                ("user/free/memory.max", "max\n"),
            ],
        );
        let me = tree.group("0::/user/me\n");
        assert_eq!((me.oom_kills(), me.memory()), (Some(4), Some(1 << 20)));
        let free = tree.group("0::/user/free\n");
        assert_eq!((free.oom_kills(), free.memory()), (None, None));
    }

    #[test]
    fn the_tree_of_a_container_begins_at_its_own_place() {
        let tree = Tree::new(
            "own",
            &[("memory.events", EVENTS), ("memory.max", "4096\n")],
        );
        let me = tree.group("0::/docker/0123\n");
        assert_eq!((me.oom_kills(), me.memory()), (Some(4), Some(4096)));
    }

    #[test]
    fn a_tree_for_each_controller() {
        let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n";
        let tree = Tree::new(
            "one",
            &[
                ("memory/a/b/memory.oom_control", control),
                ("memory/a/b/memory.limit_in_bytes", "2097152\n"),
            ],
        );
        // Also beside an empty unified tree.
        let me = tree.group("9:name=systemd:/\n8:cpu,memory:/a/b\n1:cpuset:/\n0::/\n");
        assert_eq!((me.oom_kills(), me.memory()), (Some(7), Some(2 << 20)));
    }

    #[test]
    fn no_tree_at_all() {
        let tree = Tree::new("none", &[]);
        for places in ["", "0::/\n", "4:memory:/\n", "nonsense\n:\n"] {
            let group = tree.group(places);
            assert_eq!((group.oom_kills(), group.memory()), (None, None));
        }
    }
}
