//! Checks on all text files, documents included.

use crate::Findings;
use crate::source::line_of;
use crate::tree::{TextFile, Tree};

/// Folders that exist on one machine only. Put together here, or this file would be a finding.
const PLACES: &[&str] =
    &[concat!("/", "root"), concat!("/", "home"), concat!("/", "work"), concat!("/", "Users")];

/// Traces of a private package registry.
const REGISTRIES: &[&str] = &[
    concat!("art", "ifactory"),
    concat!("j", "frog"),
    concat!("sparse+", "http"),
    concat!("nexus", "."),
];

pub(crate) fn check_places(file: &TextFile, out: &mut Findings) {
    for place in PLACES {
        for (at, _) in file.text.match_indices(place) {
            let before = file.text[..at].chars().next_back();
            let after = file.text[at + place.len()..].chars().next();
            // In the middle of a longer path, or the start of another word, it is no such folder.
            let starts = !before.is_some_and(|c| c.is_alphanumeric() || "._-~/}$)*".contains(c));
            let ends = !after.is_some_and(|c| c.is_alphanumeric() || "_-.".contains(c));
            if starts && ends {
                out.add(&file.path, line_of(&file.text, at), format!("{place} is of one machine"));
            }
        }
    }
    let lower = file.text.to_lowercase();
    for registry in REGISTRIES {
        for (at, _) in lower.match_indices(registry) {
            out.add(&file.path, line_of(&lower, at), format!("{registry} names a registry"));
        }
    }
}

pub(crate) fn check_links(tree: &Tree, file: &TextFile, out: &mut Findings) {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (line, target) in links(&file.text) {
        let path = target.split(['#', '?']).next().unwrap_or("");
        if target.contains("://") || target.starts_with("mailto:") || path.is_empty() {
            continue;
        }
        if !tree.root.join(folder).join(path).exists() {
            out.add(&file.path, line, format!("link to {target} leads nowhere"));
        }
    }
}

/// Targets of `[text](target)` outside of code, as (line, target).
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second piece between backticks is code.
        for piece in line.split('`').step_by(2) {
            for (at, _) in piece.match_indices("](") {
                let target = piece[at + 2..].split([')', ' ']).next().unwrap_or("");
                let target = target.trim_matches(['<', '>']);
                found.push((number + 1, target));
            }
        }
    }
    found
}

#[test]
fn links_in_code_are_no_links() {
    let text = "see [a](b.md#c) and `[x](y)`\n```\n[no](link)\n```\n[d](<e> \"title\")";
    assert_eq!(links(text), [(1, "b.md#c"), (5, "e")]);
}

#[test]
fn places_of_one_machine_are_found_but_not_parts_of_other_paths() {
    let text = ["see PLACE/x", "target PLACE", "aPLACE/x", "PLACEd", "~PLACE"]
        .join("\n")
        .replace("PLACE", PLACES[2]);
    let mut findings = Findings::default();
    check_places(&TextFile { path: "f".into(), text }, &mut findings);
    assert_eq!(findings.0.len(), 2, "{:?}", findings.0);
}
