//! The README's tutorial, run as it stands: the commands a newcomer types must work.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_tests::cluster::{Auth, Cluster, PASSWORD, SUPERUSER};
use landfall_tests::ports;
use landfall_tests::process::{Program, bin_dir};
use landfall_tests::scratch;

/// The script ends by itself before we lose patience, and takes its daemons along.
const SCRIPT_SECONDS: &str = "170";
const WAIT: Duration = Duration::from_secs(180);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All `sh` blocks of the tutorial, without the build: the binaries under test are built already.
fn commands() -> String {
    let readme = fs::read_to_string(repository().join("README.md")).expect("read the README");
    let (_, tutorial) = readme.split_once("\n## Tutorial").expect("there is a tutorial");
    let (tutorial, _) = tutorial.split_once("\n## ").expect("something follows the tutorial");
    let blocks = tutorial.split("\n```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split_once("```").expect("blocks are closed").0);
    let lines = blocks.flat_map(str::lines).filter(|line| *line != "cargo build");
    lines.collect::<Vec<_>>().join("\n")
}

/// The example beside which the tutorial is run, for a server and ports of our own.
fn copy_example(to: &Path, cluster: &Cluster) {
    fs::create_dir_all(to).expect("make a folder");
    let free: Vec<u16> = (0..3).map(|_| ports::draw().expect("draw a port")).collect();
    let example = repository().join("examples/two-ships");
    for entry in fs::read_dir(example).expect("list the example") {
        let path = entry.expect("list the example").path();
        let mut text = fs::read_to_string(&path).expect("read the example");
        text = text.replace("port=5432", &format!("port={}", cluster.port()));
        for (port, free) in (7401..).zip(&free) {
            text = text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{free}"));
        }
        let name = path.file_name().expect("files have names");
        fs::write(to.join(name), text).expect("write the example");
    }
}

#[test]
fn the_tutorial_works_as_written() {
    let cluster = Cluster::options("tutorial").auth(Auth::Scram).start().expect("start");
    let dir = scratch::fresh_dir("tutorial").expect("make a folder");
    copy_example(&dir.join("examples/two-ships"), &cluster);
    let psql = Some(cluster.bin().program("psql")).filter(|psql| psql.is_file());
    let psql = psql.unwrap_or_else(|| "psql".into());
    let psql = format!("{} -h 127.0.0.1 -p {} -U {SUPERUSER}", psql.display(), cluster.port());
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", bin_dir().expect("find our binaries").display());
    let script = format!(
        "set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n{}",
        commands()
    );
    let said = Program::system("timeout")
        .named("tutorial")
        .args(["-k", "5", SCRIPT_SECONDS, "bash", "-xc", &script])
        .env("PATH", path)
        .env("HOME", &dir)
        .env("PSQL", psql)
        .env("PGPASSWORD", PASSWORD)
        .current_dir(&dir)
        .run(WAIT)
        .expect("run the tutorial")
        .success();
    // What the text says that one sees: both changes of 3A, one of 3B and the other kept, and the
    // row that came by way of the shore.
    let both = said.matches(" 3A | Ada     | vegan    | allergic to latex").count();
    assert_eq!(both, 3, "{said}");
    assert!(said.contains("| diet        | last_writer_wins | liquid"), "{said}");
    assert!(said.contains(" 4C | Mary    | normal   | from ship A"), "{said}");
}
