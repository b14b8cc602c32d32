//! The rules of the tree, one file per family.
//!
//! A rule is a function from text to findings, so that its test can show it a text that breaks it.
//! Only this file and `layers` look at the disk; `python` asks an interpreter for the imports.

mod layers;
mod leftovers;
mod python;
mod rust_source;
mod size;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ignore::WalkBuilder;

/// One file of the tree.
pub(crate) struct Source {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// One thing that a rule says about one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// Counted from 1; 0 where the finding is about the file as a whole.
    pub(crate) line: usize,
    pub(crate) message: String,
    pub(crate) fatal: bool,
}

impl Finding {
    pub(crate) fn error(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
            fatal: true,
        }
    }

    pub(crate) fn warning(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            fatal: false,
            ..Self::error(path, line, message)
        }
    }
}

/// What all rules found, in the order of the files.
pub(crate) struct Report {
    files: usize,
    findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.fatal)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let kind = if finding.fatal { "error" } else { "warning" };
            match finding.line {
                0 => writeln!(f, "{}: {kind}: {}", finding.path, finding.message)?,
                line => writeln!(f, "{}:{line}: {kind}: {}", finding.path, finding.message)?,
            }
        }
        let errors = self.findings.iter().filter(|finding| finding.fatal).count();
        let warnings = self.findings.len() - errors;
        writeln!(
            f,
            "tidy: {} files, {errors} errors, {warnings} warnings",
            self.files
        )
    }
}

/// Runs every rule over the tree below `root`.
pub(crate) fn run(root: &Path) -> Result<Report> {
    let sources = read_tree(root)?;
    let mut findings = layers::check(root)?;
    for source in &sources {
        findings.extend(leftovers::check(source));
        findings.extend(size::check(source));
        if has_extension(&source.path, "rs") {
            findings.extend(rust_source::check(source));
        }
    }
    let package: Vec<&Source> = sources
        .iter()
        .filter(|source| source.path.starts_with("python/"))
        .filter(|source| {
            ["py", "pyi"]
                .iter()
                .any(|kind| has_extension(&source.path, kind))
        })
        .collect();
    findings.extend(python::check(&package)?);
    findings.sort();
    Ok(Report {
        files: sources.len(),
        findings,
    })
}

pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|found| found == extension)
}

/// All text files that git would not ignore.
fn read_tree(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let walk = WalkBuilder::new(root)
        .hidden(false)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_name(Ord::cmp)
        .build();
    for entry in walk {
        let entry = entry?;
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let bytes = std::fs::read(entry.path())
            .with_context(|| format!("cannot read {}", entry.path().display()))?;
        // What is not UTF-8 is not source.
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        sources.push(Source {
            path: relative(root, entry.path())?,
            text,
        });
    }
    Ok(sources)
}

fn relative(root: &Path, path: &Path) -> Result<String> {
    let inside: PathBuf = path.strip_prefix(root)?.to_path_buf();
    Ok(inside.to_string_lossy().replace('\\', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_finds_this_file_and_skips_the_build_folder() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let paths: Vec<String> = read_tree(root)
            .expect("readable")
            .into_iter()
            .map(|source| source.path)
            .collect();
        assert!(paths.contains(&"src/tidy/mod.rs".to_owned()), "{paths:?}");
        assert!(
            !paths.iter().any(|path| path.starts_with("target/")),
            "{paths:?}"
        );
    }

    #[test]
    fn a_report_fails_by_errors_and_not_by_warnings() {
        let warning = Finding::warning("a.rs", 0, "long");
        let error = Finding::error("a.rs", 3, "bad");
        assert!(
            !Report {
                files: 1,
                findings: vec![warning.clone()]
            }
            .failed()
        );
        let report = Report {
            files: 1,
            findings: vec![warning, error],
        };
        assert!(report.failed());
        assert_eq!(
            report.to_string(),
            "a.rs: warning: long\na.rs:3: error: bad\ntidy: 1 files, 1 errors, 1 warnings\n"
        );
    }
}
