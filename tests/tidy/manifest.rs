//! Checks on manifests and on the lock file.

use crate::Findings;
use crate::tree::Tree;

/// Which of our own crates a crate may depend on.
const CRATES: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("engine", &["landfall-protocol"]),
    ("node", &["landfall-protocol", "landfall-engine"]),
    ("hub", &["landfall-protocol", "landfall-engine"]),
    ("tests", &["landfall-protocol", "landfall-engine", "landfall-node", "landfall-hub"]),
    ("xtask", &["landfall-tests"]),
];

/// All that the pure core may depend on directly.
const PROTOCOL: &[&str] = &["blake3", "ed25519-dalek", "num-bigint", "thiserror", "zstd"];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(crate) fn check_dependencies(tree: &Tree, out: &mut Findings) {
    for (krate, may) in CRATES {
        let path = format!("{krate}/Cargo.toml");
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            for (line, name) in keys(tree, &path, section) {
                if name.starts_with("landfall-") && !may.contains(&name.as_str()) {
                    out.add(&path, line, format!("{krate} must not depend on {name}"));
                }
                let pure = *krate == "protocol" && section != "dev-dependencies";
                if pure && !PROTOCOL.contains(&name.as_str()) {
                    out.add(&path, line, format!("protocol is pure and may not use {name}"));
                }
            }
        }
    }
}

pub(crate) fn check_lints(tree: &Tree, out: &mut Findings) {
    let members = members(tree);
    assert!(members.len() >= CRATES.len(), "the members of the workspace were not understood");
    for member in members {
        if !CRATES.iter().any(|(krate, _)| *krate == member) {
            out.add("tests/tidy/manifest.rs", 1, format!("crate {member} is not in CRATES"));
        }
        let path = format!("{member}/Cargo.toml");
        if !keys(tree, &path, "lints").iter().any(|(_, key)| key == "workspace") {
            out.add(&path, 1, "[lints] workspace = true is missing");
        }
    }
}

/// A mirror or a git checkout on one machine must not get into what everybody builds.
pub(crate) fn check_sources(tree: &Tree, out: &mut Findings) {
    let lock = tree.get("Cargo.lock").expect("there is a Cargo.lock");
    for (number, line) in lock.text.lines().enumerate() {
        if let Some(source) = line.strip_prefix("source = ")
            && source.trim_matches('"') != REGISTRY
        {
            out.add("Cargo.lock", number + 1, format!("source {source} is not the registry"));
        }
    }
    for file in tree.files().filter(|file| file.path.starts_with(".cargo/")) {
        for (number, line) in file.text.lines().enumerate() {
            let line = line.trim_start();
            if ["[source", "[registr", "replace-with"].iter().any(|start| line.starts_with(start)) {
                out.add(&file.path, number + 1, "registries are set up per machine, not here");
            }
        }
    }
}

fn members(tree: &Tree) -> Vec<String> {
    let root = tree.get("Cargo.toml").expect("there is a root manifest");
    let list = root.text.split_once("\nmembers = [").and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.expect("the root manifest lists its members");
    list.split(',')
        .map(|name| name.trim().trim_matches('"'))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Keys of a section, as (line, key); `tokio.workspace = true` counts as `tokio`.
fn keys(tree: &Tree, path: &str, section: &str) -> Vec<(usize, String)> {
    let file = tree.get(path).unwrap_or_else(|| panic!("{path} is missing"));
    let mut inside = false;
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[') {
            let head = head.trim_end_matches(']');
            // [target.'…'.dependencies] counts, and so does [dependencies.name].
            inside = head == section || head.ends_with(&format!(".{section}"));
            if let Some(name) = head.strip_prefix(&format!("{section}.")) {
                found.push((number + 1, name.to_owned()));
            }
        } else if inside && let Some((key, _)) = line.split_once('=') {
            let key = key.trim();
            if !key.starts_with('#') {
                found.push((number + 1, key.split('.').next().unwrap_or(key).to_owned()));
            }
        }
    }
    found
}
