//! Nothing unfinished and nothing of one person's machine gets in.

use std::sync::LazyLock;

use regex::Regex;

use super::{Finding, Source};

/// The files that must name what they forbid.
const EXEMPT: &[&str] = &["xtask/src/tidy/leftovers.rs", "Cargo.lock"];

static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rule = |pattern: &str, message| (Regex::new(pattern).expect("a constant"), message);
    vec![
        rule(
            r"\b(TODO|FIXME|XXX)\b",
            "unfinished: do it, or file it as an issue",
        ),
        rule(
            r"\b(todo|unimplemented)!\s*[(\[{]",
            "unfinished: do it, or return an error",
        ),
        rule(
            r"(^|[^\w.])/(root|home/\w+|Users/\w+)/",
            "a path of one machine",
        ),
        rule(r"^(<{7}|>{7}) ", "the mark of an unresolved merge"),
    ]
});

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    if EXEMPT.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        for (pattern, message) in RULES.iter() {
            if pattern.is_match(line) {
                findings.push(Finding::error(&source.path, number + 1, *message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let source = Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        check(&source)
            .into_iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn unfinished_work_is_found_in_any_file() {
        let text = "fine\n// TODO: later\n# FIXME\n/* XXX */\ntodo!()\nunimplemented!(\"x\")\n";
        assert_eq!(lines("crates/a/src/lib.rs", text), [2, 3, 4, 5, 6]);
        assert_eq!(lines("docs/guide.md", "one TODO more\n"), [1]);
    }

    #[test]
    fn paths_of_one_machine_and_merge_marks_are_found() {
        assert_eq!(
            lines("a.py", "open('/root/x')\nopen('/home/me/x')\nurl/root/x\n"),
            [1, 2]
        );
        assert_eq!(
            lines("a.py", "<<<<<<< HEAD\n=======\n>>>>>>> other\n"),
            [1, 3]
        );
    }

    #[test]
    fn ordinary_words_pass() {
        assert!(lines("a.rs", "let todo_list = TODOS; // method, XXXL\n").is_empty());
        assert!(lines(EXEMPT[0], "TODO\n").is_empty());
    }
}
