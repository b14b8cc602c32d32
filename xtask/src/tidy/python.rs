//! The Python package stands on its own, and its modules form no circle.
//!
//! The imports are read by Python's own parser, in a small program run by `$PYTHON` or `python3`.

use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use serde::Deserialize;

use super::{Finding, Source};

const LISTER: &str = include_str!("imports.py");

/// The package that must not be needed, and the one module that may look whether it is there.
const REPLACED: &str = "multiprocessing";
const BRIDGE: &str = "python/procession/_compat.py";

/// One import statement.
#[derive(Deserialize)]
struct Import {
    path: String,
    line: usize,
    #[serde(default)]
    module: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    /// Runs when the module itself is imported, not later in a function.
    at_once: bool,
    error: Option<String>,
}

pub(crate) fn check(sources: &[&Source]) -> Result<Vec<Finding>> {
    let imports = list_imports(sources)?;
    let mut findings = Vec::new();
    for import in &imports {
        if let Some(error) = &import.error {
            findings.push(Finding::error(
                &import.path,
                import.line,
                format!("not Python: {error}"),
            ));
        }
        let replaced = import.module.split('.').next() == Some(REPLACED);
        if replaced && import.path != BRIDGE {
            let message = format!("imports {REPLACED}; only {BRIDGE} may");
            findings.push(Finding::error(&import.path, import.line, message));
        }
    }
    findings.extend(cycles(sources, &imports));
    Ok(findings)
}

/// Every group of modules that import each other, directly or not, while they are imported.
fn cycles(sources: &[&Source], imports: &[Import]) -> Vec<Finding> {
    let modules: BTreeMap<String, &str> = sources
        .iter()
        .map(|source| (module_name(&source.path), source.path.as_str()))
        .collect();
    let names: Vec<&String> = modules.keys().collect();
    let index = |name: &str| names.iter().position(|known| *known == name);

    let mut graph = DiGraphMap::<usize, usize>::new();
    for import in imports.iter().filter(|import| import.at_once) {
        let Some(from) = index(&module_name(&import.path)) else {
            continue;
        };
        for target in targets(import, |name| modules.contains_key(name)) {
            if let Some(to) = index(&target) {
                graph.add_edge(from, to, import.line);
            }
        }
    }

    let mut findings = Vec::new();
    for mut circle in tarjan_scc(&graph) {
        circle.sort_unstable();
        let first = circle[0];
        if circle.len() == 1 && !graph.contains_edge(first, first) {
            continue;
        }
        let line = circle
            .iter()
            .find_map(|&next| graph.edge_weight(first, next))
            .copied();
        let members: Vec<&str> = circle
            .iter()
            .map(|&member| names[member].as_str())
            .collect();
        let message = format!("a circle of imports: {}", members.join(", "));
        findings.push(Finding::error(
            modules[names[first]],
            line.unwrap_or(0),
            message,
        ));
    }
    findings
}

/// The modules that an import loads: `from a import b` loads `a.b` where that is a module.
fn targets(import: &Import, is_module: impl Fn(&str) -> bool) -> Vec<String> {
    if import.names.is_empty() {
        return vec![import.module.clone()];
    }
    let load = |name: &String| {
        let inner = format!("{}.{name}", import.module);
        if is_module(&inner) {
            inner
        } else {
            import.module.clone()
        }
    };
    import.names.iter().map(load).collect()
}

/// `python/a/b.py` is `a.b`; `python/a/__init__.py` is `a`. A stub stands for its compiled module.
fn module_name(path: &str) -> String {
    let inner = path.trim_start_matches("python/");
    let inner = inner.trim_end_matches(".pyi").trim_end_matches(".py");
    inner.trim_end_matches("/__init__").replace('/', ".")
}

/// The package that relative imports in `path` start from.
fn package_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("python/");
    let folder = inner.rsplit_once('/').map_or("", |(folder, _)| folder);
    folder
        .split('/')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

fn list_imports(sources: &[&Source]) -> Result<Vec<Import>> {
    let mut input = Vec::new();
    for source in sources {
        input.push(serde_json::json!({
            "path": source.path, "text": source.text, "package": package_of(&source.path),
        }));
    }
    let python = env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut child = Command::new(&python)
        .args(["-I", "-c", LISTER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {python}, which lists the imports"))?;
    let mut stdin = child.stdin.take().context("the pipe asked for")?;
    stdin.write_all(&serde_json::to_vec(&input)?)?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{python} could not list the imports: {}", output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<(String, usize, String)> {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source {
                path: (*path).into(),
                text: (*text).into(),
            })
            .collect();
        let references: Vec<&Source> = sources.iter().collect();
        let found = check(&references).expect("an interpreter");
        found
            .into_iter()
            .map(|finding| (finding.path, finding.line, finding.message))
            .collect()
    }

    #[test]
    fn the_replaced_package_is_not_imported() {
        for text in [
            "import multiprocessing\n",
            "import multiprocessing.pool as pool\n",
            "from multiprocessing import Pool\n",
            "from multiprocessing.context import BaseContext\n",
            "__import__('multiprocessing')\n",
        ] {
            let found = findings(&[("python/procession/pool.py", text)]);
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(found[0].1, 1, "{text}");
        }
        let hidden =
            "import importlib\ndef f():\n    importlib.import_module('multiprocessing.x')\n";
        assert_eq!(findings(&[("python/procession/pool.py", hidden)])[0].1, 3);
    }

    #[test]
    fn the_bridge_may_and_words_are_not_imports() {
        assert!(findings(&[(BRIDGE, "def f():\n    import multiprocessing\n")]).is_empty());
        let prose = "'''Like\nimport multiprocessing\n'''\nfrom . import multiprocessing_names\n";
        assert!(findings(&[("python/procession/pool.py", prose)]).is_empty());
    }

    #[test]
    fn a_circle_of_imports_is_found() {
        let found = findings(&[
            ("python/procession/__init__.py", "from .a import f\n"),
            ("python/procession/a.py", "import os\nfrom . import b\n"),
            (
                "python/procession/b.py",
                "try:\n    from .c.d import g\nexcept ImportError:\n    g = 0\n",
            ),
            ("python/procession/c/__init__.py", ""),
            ("python/procession/c/d.py", "from ..a import f\n"),
        ]);
        let message = "a circle of imports: procession.a, procession.b, procession.c.d";
        assert_eq!(
            found,
            [("python/procession/a.py".into(), 2, message.into())]
        );
    }

    #[test]
    fn a_module_that_needs_its_package_is_a_circle() {
        let found = findings(&[
            ("python/procession/__init__.py", "from .a import f\n"),
            (
                "python/procession/a.py",
                "from . import name_of_the_package\n",
            ),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn a_compiled_module_is_known_by_its_stub() {
        let found = findings(&[
            ("python/procession/__init__.py", "from .a import f\n"),
            ("python/procession/_native.pyi", "from typing import Any\n"),
            ("python/procession/a.py", "from . import _native\n"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn late_imports_and_imports_for_types_are_no_circle() {
        let found = findings(&[
            ("python/procession/a.py", "from . import b\n"),
            (
                "python/procession/b.py",
                "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import a\n\
                 def f():\n    from . import a\n",
            ),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_file_that_is_not_python_is_reported() {
        assert!(
            findings(&[("python/procession/a.py", "def f(:\n")])[0]
                .2
                .contains("not Python")
        );
    }
}
