//! A file is read in one sitting.

use super::{Finding, Source, has_extension};

const WARN_ABOVE: usize = 400;
const FAIL_ABOVE: usize = 600;

pub(crate) fn check(source: &Source) -> Option<Finding> {
    let code = ["rs", "py", "pyi", "sh"]
        .iter()
        .any(|kind| has_extension(&source.path, kind));
    if !code || in_tests(&source.path) {
        return None;
    }
    let lines = lines_without_tests(&source.text);
    let message = format!("{lines} lines; aim at {WARN_ABOVE} or fewer, {FAIL_ABOVE} at most");
    match lines {
        0..=WARN_ABOVE => None,
        lines if lines <= FAIL_ABOVE => Some(Finding::warning(&source.path, 0, message)),
        _ => Some(Finding::error(&source.path, 0, message)),
    }
}

pub(crate) fn in_tests(path: &str) -> bool {
    path.split('/').any(|part| part == "tests")
}

/// Counts up to the unit tests, which stand at the end of a Rust file.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0].starts_with("#[cfg(") && pair[0].contains("test") && pair[1].starts_with("mod ")
    });
    tests.unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(path: &str, text: String) -> Option<bool> {
        check(&Source {
            path: path.to_owned(),
            text,
        })
        .map(|finding| finding.fatal)
    }

    #[test]
    fn long_files_are_named_and_very_long_ones_fail() {
        assert_eq!(verdict("crates/a/src/lib.rs", "x\n".repeat(400)), None);
        assert_eq!(
            verdict("crates/a/src/lib.rs", "x\n".repeat(401)),
            Some(false)
        );
        assert_eq!(
            verdict("crates/a/src/lib.rs", "x\n".repeat(600)),
            Some(false)
        );
        assert_eq!(
            verdict("crates/a/src/lib.rs", "x\n".repeat(601)),
            Some(true)
        );
        assert_eq!(
            verdict("python/procession/pool.py", "x\n".repeat(601)),
            Some(true)
        );
    }

    #[test]
    fn tests_and_prose_may_be_long() {
        assert_eq!(verdict("crates/a/tests/all.rs", "x\n".repeat(601)), None);
        assert_eq!(verdict("docs/guide.md", "x\n".repeat(601)), None);
        let with_tests = format!(
            "{}#[cfg(test)]\nmod tests {{\n{}}}",
            "x\n".repeat(300),
            "y\n".repeat(400)
        );
        assert_eq!(verdict("crates/a/src/lib.rs", with_tests), None);
    }
}
