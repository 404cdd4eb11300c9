//! docs/operations.md names every setting, and every chapter that a message sends its reader to.

use crate::Findings;
use crate::source::line_of;
use crate::tree::Tree;

const PAGE: &str = "docs/operations.md";

/// Every setting of the reference files stands in the page, as `section.key` between backticks.
pub(crate) fn check_settings(tree: &Tree, out: &mut Findings) {
    let page = &tree.get(PAGE).expect("there is a page on operations").text;
    let reference = |path: &str| path.starts_with("packaging/config/") && path.ends_with(".toml");
    let mut seen = 0;
    for file in tree.files().filter(|file| reference(&file.path)) {
        for (line, setting) in settings(&file.text) {
            seen += 1;
            if !page.contains(&format!("`{setting}`")) {
                out.add(&file.path, line, format!("setting {setting} is not explained in {PAGE}"));
            }
        }
    }
    assert!(seen > 30, "the reference files were not understood");
}

/// Settings of a commented file, left-out ones included, as (line, section.key).
fn settings(text: &str) -> Vec<(usize, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(head) = line.strip_prefix('#').unwrap_or(line).strip_prefix('[') {
            head.trim_matches(['[', ']']).clone_into(&mut section);
            found.push((number + 1, section.clone()));
            continue;
        }
        let Some((key, _)) = line.strip_prefix('#').unwrap_or(line).split_once(" = ") else {
            continue;
        };
        // A sentence has blanks before its "=", if it has one.
        if !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            let dot = if section.is_empty() { "" } else { "." };
            found.push((number + 1, format!("{section}{dot}{key}")));
        }
    }
    found
}

/// Messages say: see docs/operations.md, "a chapter".
pub(crate) fn check_chapters(tree: &Tree, out: &mut Findings) {
    let page = tree.get(PAGE).expect("there is a page on operations").text.to_lowercase();
    let reference = concat!("docs/operations.md, ", "\\\"");
    let mut seen = 0;
    for file in tree.rust() {
        for (at, _) in file.text.match_indices(reference) {
            seen += 1;
            let rest = &file.text[at + reference.len()..];
            let chapter = rest.split('\\').next().unwrap_or_default();
            if !page.lines().any(|line| line.strip_prefix("### ") == Some(chapter)) {
                let line = line_of(&file.text, at);
                out.add(&file.path, line, format!("{PAGE} has no chapter {chapter:?}"));
            }
        }
    }
    assert!(seen > 0, "no message was found that names a chapter");
}

#[test]
fn settings_are_found_with_their_sections() {
    let text = "# Prose = no\nname = \"a\"\n#slot = 1\n[link]\n#dial = []\n#[[set]]\n#id = 1\n";
    let found: Vec<String> = settings(text).into_iter().map(|(_, setting)| setting).collect();
    assert_eq!(found, ["name", "slot", "link", "link.dial", "set", "set.id"]);
}
