//! Tidy checks: rules of the house that neither the compiler nor clippy knows. Every failure names
//! the file, the line and the rule; CONTRIBUTING.md gives the reasons.

use std::fmt::Display;

#[path = "tidy/floors.rs"]
mod floors;
#[path = "tidy/manifest.rs"]
mod manifest;
#[path = "tidy/operations.rs"]
mod operations;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/text.rs"]
mod text;
#[path = "tidy/tree.rs"]
mod tree;

use source::Source;
use tree::Tree;

/// Lines of a source file, tests included.
const FILE_LINES_MAX: usize = 1000;

/// Lines of a function from its signature to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// A comment above a longer function starts like this and goes on with the reason.
const LONG_BECAUSE: &str = "// long because";

/// Collects what is wrong, so that one run shows all of it.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn add(&mut self, path: &str, line: usize, what: impl Display) {
        self.0.push(format!("{path}:{line}: {what}"));
    }

    #[track_caller]
    fn assert_none(self) {
        assert!(self.0.is_empty(), "{} findings\n{}", self.0.len(), self.0.join("\n"));
    }
}

#[test]
fn modules_use_only_lower_floors() {
    let mut findings = Findings::default();
    let tree = Tree::read();
    for (krate, table) in floors::TABLES {
        for file in tree.rust().filter(|file| file.path.starts_with(krate)) {
            floors::check(krate, table, &file.path, &Source::new(&file.text), &mut findings);
        }
    }
    findings.assert_none();
}

#[test]
fn crates_depend_only_on_what_is_agreed() {
    let mut findings = Findings::default();
    manifest::check_dependencies(&Tree::read(), &mut findings);
    findings.assert_none();
}

#[test]
fn every_crate_inherits_the_lints() {
    let mut findings = Findings::default();
    manifest::check_lints(&Tree::read(), &mut findings);
    findings.assert_none();
}

#[test]
fn packages_come_from_the_default_registry() {
    let mut findings = Findings::default();
    manifest::check_sources(&Tree::read(), &mut findings);
    findings.assert_none();
}

#[test]
fn files_and_functions_are_short() {
    let mut findings = Findings::default();
    for file in Tree::read().rust() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            findings.add(&file.path, lines, format!("more than {FILE_LINES_MAX} lines: split it"));
        }
        for function in Source::new(&file.text).functions() {
            if function.lines > FUNCTION_LINES_MAX && !function.comment.contains(LONG_BECAUSE) {
                let (name, lines) = (&function.name, function.lines);
                findings.add(
                    &file.path,
                    function.line,
                    format!("{name} has {lines} lines: split it, or say {LONG_BECAUSE} …"),
                );
            }
        }
    }
    findings.assert_none();
}

#[test]
fn nothing_is_left_unfinished() {
    let mut findings = Findings::default();
    for file in Tree::read().rust() {
        for (line, name) in Source::new(&file.text).macros(&["todo", "dbg", "unimplemented"]) {
            findings.add(&file.path, line, format!("{name}! is for work in progress"));
        }
        if file.path.ends_with("/mod.rs") {
            findings.add(&file.path, 1, "modules are foo.rs and foo/bar.rs, without mod.rs");
        }
    }
    findings.assert_none();
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    let mut findings = Findings::default();
    for file in Tree::read().files() {
        text::check_places(file, &mut findings);
    }
    findings.assert_none();
}

#[test]
fn links_between_documents_resolve() {
    let mut findings = Findings::default();
    let tree = Tree::read();
    for file in tree.files().filter(|file| file.path.ends_with(".md")) {
        text::check_links(&tree, file, &mut findings);
    }
    findings.assert_none();
}

#[test]
fn operations_explain_every_setting_and_every_chapter_that_is_named() {
    let mut findings = Findings::default();
    let tree = Tree::read();
    operations::check_settings(&tree, &mut findings);
    operations::check_chapters(&tree, &mut findings);
    findings.assert_none();
}
