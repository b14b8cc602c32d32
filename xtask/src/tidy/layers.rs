//! Which crate may depend on which, and who may use the crates that mark a layer.

use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use super::Finding;

/// Every crate of the workspace and the crates of the workspace that it may build upon. A new edge
/// is a new word in this table, to be reviewed as such.
const EDGES: &[(&str, &[&str])] = &[
    ("procession-sys", &[]),
    ("procession-shm", &["procession-sys"]),
    ("procession-engine", &["procession-sys", "procession-shm"]),
    ("procession-macros", &[]),
    (
        "procession",
        &[
            "procession-sys",
            "procession-shm",
            "procession-engine",
            "procession-macros",
        ],
    ),
    ("procession-cli", &["procession-engine"]),
    (
        "procession-py",
        &[
            "procession-sys",
            "procession-shm",
            "procession-engine",
            "procession-cli",
        ],
    ),
    ("procession-testkit", &["procession-sys"]),
    (
        "procession-benches",
        &["procession-shm", "procession-engine", "procession"],
    ),
    ("xtask", &[]),
];

/// Crates that only tests may depend on, whichever crate the tests belong to.
const FOR_TESTS: &[&str] = &["procession-testkit"];

/// Outside crates that belong to one layer, and the crates that make up that layer.
const OWNED: &[(&str, &[&str])] = &[
    ("libc", &["procession-sys"]),
    ("nix", &["procession-sys"]),
    ("rustix", &["procession-sys"]),
    ("procfs", &["procession-sys"]),
    ("pyo3", &["procession-py"]),
    (
        "serde",
        &[
            "procession",
            "procession-macros",
            "procession-benches",
            "procession-cli",
            "xtask",
        ],
    ),
    (
        "serde_json",
        &["procession-cli", "procession-benches", "xtask"],
    ),
    (
        "postcard",
        &["procession", "procession-macros", "procession-benches"],
    ),
    ("clap", &["procession-cli", "xtask"]),
    ("ratatui", &["procession-cli"]),
    ("py-spy", &["procession-cli"]),
];

/// Crates of a layer that the tests of another crate may use, each for a reason.
const OWNED_FOR_TESTS: &[(&str, &str)] = &[
    // That shared objects refuse a format that would leave the session takes another format.
    ("procession", "serde_json"),
];

/// One dependency as a manifest states it.
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    inside: bool,
    for_tests: bool,
}

/// Checks the manifests of the workspace at `root`.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    Ok(check_metadata(&metadata))
}

fn check_metadata(metadata: &Metadata) -> Vec<Finding> {
    let members: Vec<&str> = metadata
        .packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        for dependency in &package.dependencies {
            let edge = Edge {
                from: &package.name,
                to: &dependency.name,
                inside: members.contains(&dependency.name.as_str()),
                for_tests: dependency.kind == DependencyKind::Development,
            };
            findings.extend(check_edge(&edge));
        }
        findings.extend(check_known(&package.name));
    }
    findings
}

fn check_edge(edge: &Edge<'_>) -> Option<Finding> {
    if edge.inside {
        // A crate's tests may ask for features of the crate itself.
        if edge.for_tests && (FOR_TESTS.contains(&edge.to) || edge.to == edge.from) {
            return None;
        }
        let allowed = allowed_below(edge.from).unwrap_or_default();
        let ok = allowed.contains(&edge.to);
        return (!ok)
            .then(|| manifest_error(edge.from, &format!("must not depend on {}", edge.to)));
    }
    let (_, owners) = OWNED.iter().find(|(name, _)| *name == edge.to)?;
    let for_tests = edge.for_tests && OWNED_FOR_TESTS.contains(&(edge.from, edge.to));
    let ok = owners.contains(&edge.from) || for_tests;
    (!ok).then(|| {
        manifest_error(
            edge.from,
            &format!("must not use {}: it belongs to {owners:?}", edge.to),
        )
    })
}

fn check_known(name: &str) -> Option<Finding> {
    let known = allowed_below(name).is_some();
    (!known).then(|| manifest_error(name, "is not in the table of xtask/src/tidy/layers.rs"))
}

fn allowed_below(name: &str) -> Option<&'static [&'static str]> {
    EDGES
        .iter()
        .find(|(from, _)| *from == name)
        .map(|(_, below)| *below)
}

fn manifest_error(name: &str, message: &str) -> Finding {
    Finding::error("Cargo.toml", 0, format!("{name} {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(from: &'static str, to: &'static str, for_tests: bool) -> Option<Finding> {
        check_edge(&Edge {
            from,
            to,
            inside: true,
            for_tests,
        })
    }

    fn outside(from: &'static str, to: &'static str) -> Option<Finding> {
        check_edge(&Edge {
            from,
            to,
            inside: false,
            for_tests: false,
        })
    }

    fn outside_in_tests(from: &'static str, to: &'static str) -> Option<Finding> {
        check_edge(&Edge {
            from,
            to,
            inside: false,
            for_tests: true,
        })
    }

    #[test]
    fn layers_go_down_only() {
        assert_eq!(inside("procession-shm", "procession-sys", false), None);
        assert!(inside("procession-sys", "procession-shm", false).is_some());
        assert!(inside("procession-engine", "procession", false).is_some());
        assert!(inside("procession-engine", "procession-py", true).is_some());
        assert!(inside("procession-cli", "procession-sys", false).is_some());
    }

    #[test]
    fn a_new_crate_must_enter_the_table() {
        assert_eq!(check_known("procession-shm"), None);
        assert!(check_known("procession-extra").is_some());
        assert!(inside("procession-extra", "procession-sys", false).is_some());
    }

    #[test]
    fn the_test_kit_is_for_tests() {
        assert_eq!(inside("procession-shm", "procession-testkit", true), None);
        assert!(inside("procession-shm", "procession-testkit", false).is_some());
    }

    #[test]
    fn tests_may_ask_for_features_of_their_own_crate() {
        assert_eq!(inside("procession-shm", "procession-shm", true), None);
        assert!(inside("procession-shm", "procession-shm", false).is_some());
    }

    #[test]
    fn tests_have_exceptions_of_their_own() {
        assert_eq!(outside_in_tests("procession", "serde_json"), None);
        assert!(outside("procession", "serde_json").is_some());
        assert!(outside_in_tests("procession-shm", "rustix").is_some());
    }

    #[test]
    fn marked_crates_stay_in_their_layer() {
        assert_eq!(outside("procession-sys", "libc"), None);
        for name in ["libc", "nix", "rustix", "pyo3", "serde", "postcard", "clap"] {
            assert!(outside("procession-engine", name).is_some(), "{name}");
        }
        assert_eq!(outside("procession-engine", "thiserror"), None);
    }

    #[test]
    fn the_table_itself_has_no_cycle() {
        for (position, (from, below)) in EDGES.iter().enumerate() {
            for to in *below {
                let other = EDGES
                    .iter()
                    .position(|(name, _)| name == to)
                    .expect("in the table");
                assert!(other < position, "{from} names {to}, which stands below it");
            }
        }
    }
}
