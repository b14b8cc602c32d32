//! Where `unsafe`, the operating system and the crates of one layer may be named in Rust code.
//!
//! The rules look at tokens, so comments and strings never trip them; only the search for the
//! `SAFETY` comment itself goes back to the text.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::{Finding, Source};

/// Folders and files in which `unsafe` may stand.
const UNSAFE_HOMES: &[&str] = &[
    "crates/procession-sys/",
    "crates/procession-shm/",
    "crates/procession-py/src/buffer.rs",
    "crates/procession-py/src/raw.rs",
];

/// Crate roots that may not forbid unsafe code, because a module of theirs needs it.
const UNSAFE_ROOTS: &[&str] = &[
    "crates/procession-sys/src/lib.rs",
    "crates/procession-shm/src/lib.rs",
];

/// A crate root that denies unsafe code with one named exception.
const DENYING_ROOT: &str = "crates/procession-py/src/lib.rs";

/// Names of the operating system's interface, and the folder that may use them.
const SYSTEM_HOME: &str = "crates/procession-sys/";
const SYSTEM_CRATES: &[&str] = &["libc", "nix", "rustix", "procfs"];
const SYSTEM_CFGS: &[&str] = &["target_os", "target_family", "target_env"];

/// How many lines above an unsafe block its `SAFETY` comment may start.
const SAFETY_REACH: usize = 8;

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let tokens: TokenStream = match source.text.parse() {
        Ok(tokens) => tokens,
        Err(error) => {
            let line = error.span().start().line;
            return vec![Finding::error(
                &source.path,
                line,
                format!("not Rust: {error}"),
            )];
        }
    };
    let mut flat = Vec::new();
    flatten(tokens, &mut flat);

    let lines: Vec<&str> = source.text.lines().collect();
    let mut findings: Vec<Finding> = crate_root(source, &flat).into_iter().collect();
    for position in 0..flat.len() {
        findings.extend(unsafe_code(source, &flat, position, &lines));
        findings.extend(system_names(source, &flat, position));
    }
    findings
}

/// A token, with groups opened up: their brackets are tokens of their own.
struct Token {
    text: String,
    line: usize,
}

fn flatten(tokens: TokenStream, out: &mut Vec<Token>) {
    for tree in tokens {
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                out.push(Token {
                    text: open.into(),
                    line: group.span_open().start().line,
                });
                flatten(group.stream(), out);
                out.push(Token {
                    text: close.into(),
                    line: group.span_close().start().line,
                });
            }
            other => {
                out.push(Token {
                    text: other.to_string(),
                    line: other.span().start().line,
                });
            }
        }
    }
}

fn text(tokens: &[Token], position: usize) -> &str {
    tokens.get(position).map_or("", |token| token.text.as_str())
}

fn unsafe_code(
    source: &Source,
    tokens: &[Token],
    position: usize,
    lines: &[&str],
) -> Option<Finding> {
    if text(tokens, position) != "unsafe" {
        return None;
    }
    let line = tokens[position].line;
    if !UNSAFE_HOMES
        .iter()
        .any(|home| source.path.starts_with(home))
    {
        return Some(Finding::error(
            &source.path,
            line,
            "unsafe code has no place in this file",
        ));
    }
    let needs_reason = matches!(text(tokens, position + 1), "{" | "impl");
    let first = line.saturating_sub(SAFETY_REACH + 1);
    let explained = lines[first..line]
        .iter()
        .any(|line| line.contains("SAFETY"));
    (needs_reason && !explained)
        .then(|| Finding::error(&source.path, line, "no SAFETY comment near this `unsafe`"))
}

fn system_names(source: &Source, tokens: &[Token], position: usize) -> Option<Finding> {
    if source.path.starts_with(SYSTEM_HOME) {
        return None;
    }
    let name = text(tokens, position);
    let line = tokens[position].line;
    if SYSTEM_CFGS.contains(&name) {
        let message = format!("`{name}`: only procession-sys tells systems apart");
        return Some(Finding::error(&source.path, line, message));
    }
    // `rustix::x` and `use libc;` name the crate; `procession_sys::rustix::x` is a re-export.
    let before = position
        .checked_sub(1)
        .map_or("", |previous| text(tokens, previous));
    let as_path = text(tokens, position + 1) == ":" && before != ":";
    let named = SYSTEM_CRATES.contains(&name) && (as_path || before == "use");
    named.then(|| {
        let message = format!("`{name}`: only procession-sys speaks to the operating system");
        Finding::error(&source.path, line, message)
    })
}

/// The root of every crate says what it thinks of unsafe code.
fn crate_root(source: &Source, tokens: &[Token]) -> Option<Finding> {
    let is_root = source.path.ends_with("/src/lib.rs") || source.path.ends_with("/src/main.rs");
    if !is_root || UNSAFE_ROOTS.contains(&source.path.as_str()) {
        return None;
    }
    let level = if source.path == DENYING_ROOT {
        "deny"
    } else {
        "forbid"
    };
    let wanted = ["#", "!", "[", level, "(", "unsafe_code", ")", "]"];
    let found = tokens.windows(wanted.len()).any(|window| {
        window
            .iter()
            .zip(wanted)
            .all(|(token, text)| token.text == text)
    });
    (!found).then(|| Finding::error(&source.path, 1, format!("lacks #![{level}(unsafe_code)]")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<(usize, String)> {
        let source = Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        check(&source)
            .into_iter()
            .map(|finding| (finding.line, finding.message))
            .collect()
    }

    fn only(path: &str, text: &str, line: usize, part: &str) {
        let found = messages(path, text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, line, "{found:?}");
        assert!(found[0].1.contains(part), "{found:?}");
    }

    const ENGINE: &str = "crates/procession-engine/src/queue.rs";
    const SYS: &str = "crates/procession-sys/src/linux/futex.rs";

    #[test]
    fn unsafe_outside_its_homes() {
        only(
            ENGINE,
            "fn f() {\n    // SAFETY: none\n    unsafe { g() }\n}\n",
            3,
            "no place",
        );
        only(ENGINE, "unsafe impl Send for X {}\n", 1, "no place");
        only(
            "crates/procession-py/src/queue.rs",
            "unsafe fn f() {}\n",
            1,
            "no place",
        );
        only(ENGINE, "m! { x => { unsafe { g() } } }\n", 1, "no place");
        assert!(messages(ENGINE, "// unsafe {\nlet s = \"unsafe {\";\n").is_empty());
    }

    #[test]
    fn unsafe_without_a_reason() {
        only(SYS, "fn f() {\n    unsafe { g() }\n}\n", 2, "SAFETY");
        only(SYS, "unsafe impl Send for X {}\n", 1, "SAFETY");
        only(
            "crates/procession-py/src/buffer.rs",
            "fn f() { unsafe { g() } }\n",
            1,
            "SAFETY",
        );
        let far = format!(
            "// SAFETY: far away\n{}unsafe impl Send for X {{}}\n",
            "\n".repeat(9)
        );
        only(SYS, &far, 11, "SAFETY");
        assert!(messages(SYS, "// SAFETY: it is empty.\nunsafe impl Send for X {}\n").is_empty());
        assert!(messages(SYS, "/// # Safety\nunsafe fn f() {}\n").is_empty());
    }

    #[test]
    fn the_operating_system_outside_its_crate() {
        only(
            ENGINE,
            "#[cfg(target_os = \"linux\")]\nfn f() {}\n",
            1,
            "target_os",
        );
        only(ENGINE, "use std::io;\nuse libc;\n", 2, "libc");
        only(ENGINE, "fn f() { rustix::io::close(); }\n", 1, "rustix");
        only(ENGINE, "use nix::sys::signal;\n", 1, "nix");
        assert!(messages(ENGINE, "use procession_sys::libc::pid_t;\n").is_empty());
        assert!(messages(SYS, "#[cfg(target_os = \"linux\")]\nuse libc::c_int;\n").is_empty());
    }

    #[test]
    fn crate_roots_forbid_unsafe_code() {
        only(
            "crates/procession-engine/src/lib.rs",
            "//! Engine.\n",
            1,
            "forbid",
        );
        only(
            "crates/procession-cli/src/main.rs",
            "#![deny(unsafe_code)]\n",
            1,
            "forbid",
        );
        only(
            "crates/procession-py/src/lib.rs",
            "//! Python.\n",
            1,
            "deny",
        );
        assert!(messages("crates/procession-py/src/lib.rs", "#![deny(unsafe_code)]\n").is_empty());
        assert!(messages("crates/procession-shm/src/lib.rs", "//! Memory.\n").is_empty());
    }

    #[test]
    fn broken_files_are_reported_and_not_skipped() {
        only(ENGINE, "fn f() {\n", 1, "not Rust");
    }
}
