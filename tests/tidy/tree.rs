//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A text file of the repository.
pub(crate) struct TextFile {
    /// Relative to the root, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All text files, ordered by path.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    files: Vec<TextFile>,
}

impl Tree {
    /// Reads what git knows or would take; all files, except what is built, where there is no git.
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut paths = listed(&root).unwrap_or_else(|| walk(&root));
        paths.sort();
        paths.dedup();
        // A file that is no UTF-8 is no text; one that is gone was deleted, but is still on record.
        let files: Vec<TextFile> = paths
            .into_iter()
            .filter_map(|path| {
                let text = fs::read_to_string(root.join(&path)).ok()?;
                Some(TextFile { path, text })
            })
            .collect();
        assert!(files.iter().any(|file| file.path == "tests/tidy.rs"), "the tree is incomplete");
        Self { root, files }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &TextFile> {
        self.files.iter()
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &TextFile> {
        self.files().filter(|file| file.path.ends_with(".rs"))
    }

    pub(crate) fn get(&self, path: &str) -> Option<&TextFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

fn listed(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

fn walk(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("list a folder").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if name != "target" && name != ".git" {
                    open.push(path);
                }
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.push(relative.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found
}
