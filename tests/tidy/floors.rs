//! Which module may use which. A new arrow is an architecture change: edit the table in a commit of
//! its own, with the reason, and bring ARCHITECTURE.md along.

use crate::Findings;
use crate::source::{Source, is_word, line_of};

/// Whether modules on one floor may use each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Siblings {
    /// They may not: what one needs of the other is passed in from above.
    Blind,
    /// They may.
    Open,
}
use Siblings::{Blind, Open};

/// Modules side by side; they may use every floor below.
type Floor = (Siblings, &'static [&'static str]);

/// Per source folder the floors, lowest first. `lib.rs` and `main.rs` stand above all of them.
pub(crate) const TABLES: &[(&str, &[Floor])] = &[
    (
        "protocol/src/",
        &[
            (Blind, &["id", "limits", "planted"]),
            (Blind, &["clock"]),
            (Blind, &["codec", "compress"]),
            (Blind, &["decimal"]),
            (Blind, &["merged"]),
            (Blind, &["version", "value"]),
            (Blind, &["schema"]),
            (Blind, &["change"]),
            (Blind, &["dictionary"]),
            (Blind, &["columnar"]),
            (Open, &["lattice", "fold", "compact", "unit", "wire", "golden", "bundle"]),
            (Open, &["plan", "queue", "references", "unique", "sync", "fleet"]),
        ],
    ),
    (
        "engine/src/",
        &[
            (
                Open,
                &[
                    "tasks",
                    "time",
                    "random",
                    "telemetry",
                    "error",
                    "config",
                    "identity",
                    "plant",
                    "simulation",
                ],
            ),
            (Blind, &["store", "transport", "postgres"]),
            (Blind, &["capture", "links", "bundle"]),
            (Blind, &["replica"]),
            (Blind, &["admin"]),
            (Blind, &["daemon"]),
            (Blind, &["commands"]),
            (Blind, &["fuzz"]),
        ],
    ),
];

/// Reports every use of a module from a floor that must not know it. Tests may look everywhere.
pub(crate) fn check(krate: &str, table: &[Floor], path: &str, source: &Source, out: &mut Findings) {
    let inside = &path[krate.len()..];
    let module = inside.split(['/', '.']).next().unwrap_or(inside);
    if matches!(inside, "lib.rs" | "main.rs") || inside.ends_with("/tests.rs") {
        return;
    }
    let Some(floor) = floor_of(table, module) else {
        out.add(
            path,
            1,
            format!("module {module} has no floor: give it one in tests/tidy/floors.rs"),
        );
        return;
    };
    for (line, used) in uses(source.code_without_tests(), !inside.contains('/')) {
        if used == module {
            continue;
        }
        // What is no module is an item of lib.rs, such as a re-export.
        let Some(other) = floor_of(table, &used) else { continue };
        let siblings = other == floor && table[floor].0 == Open;
        if other >= floor && !siblings {
            out.add(path, line, format!("{module} must not use {used}: it is no lower floor"));
        }
    }
}

fn floor_of(table: &[Floor], module: &str) -> Option<usize> {
    table.iter().position(|(_, modules)| modules.contains(&module))
}

/// First names after `crate::`, and after `super::` in the outermost scope of a top module, where
/// it means the same; braces are opened. As (line, name).
fn uses(code: &str, top: bool) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let before = &code[..at];
        let unindented = before.lines().next_back().is_some_and(|line| !line.starts_with(' '));
        let counts = prefix == "crate::" || (top && unindented);
        if counts && !before.ends_with(is_word) && !before.ends_with("::") {
            let line = line_of(code, at);
            let rest = &code[at + prefix.len()..];
            found.extend(first_names(rest).into_iter().map(|name| (line, name)));
        }
    }
    found
}

fn first_names(rest: &str) -> Vec<String> {
    let word = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect();
    let Some(group) = rest.trim_start().strip_prefix('{') else { return vec![word(rest)] };
    let (mut depth, mut start, mut names) = (0_usize, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(word(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

#[test]
fn upward_and_sideways_uses_are_found() {
    let table = TABLES[1].1;
    let found = |path: &str, text: &str| {
        let mut findings = Findings::default();
        check("engine/src/", table, path, &Source::new(text), &mut findings);
        findings.0
    };
    assert_eq!(found("engine/src/replica.rs", "use crate::{time, store::{A, B}, links};").len(), 0);
    assert_eq!(found("engine/src/store.rs", "use crate::{time, postgres::X};").len(), 1);
    assert_eq!(found("engine/src/store/log.rs", "\nfn f() { crate::replica::go() }").len(), 1);
    assert_eq!(found("engine/src/time.rs", "use super::store;\n").len(), 1);
    assert_eq!(found("engine/src/time.rs", "#[cfg(test)]\nuse crate::store;\n").len(), 0);
    assert_eq!(found("engine/src/novel.rs", "").len(), 1);
}
