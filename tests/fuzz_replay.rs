//! Runs what the fuzz targets check over their corpora, without libFuzzer.

#[path = "fuzz/src/lib.rs"]
mod checks;

use std::fs;
use std::path::Path;

use checks::Checks;

fn replay(target: &str, mut check: impl FnMut(&mut Checks, &[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(&directory)
        .expect("the corpus is there")
        .map(|entry| entry.expect("a directory that can be read").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", directory.display());
    // One for all of them, as in the server.
    let mut checks = Checks::new();
    for path in paths {
        println!("{}", path.display());
        check(&mut checks, &fs::read(&path).expect("a file that can be read"));
    }
}

#[test]
fn scan_agrees_with_its_twin_on_the_corpus() {
    replay("scan", Checks::scan);
}

#[test]
fn views_hold_on_the_corpus() {
    replay("views", Checks::views);
    // Whole messages are food for the views too.
    replay("scan", Checks::views);
}

#[test]
fn edits_agree_with_their_model_on_the_corpus() {
    replay("edit", Checks::edit);
}

#[test]
fn frames_do_not_depend_on_how_bytes_arrive_on_the_corpus() {
    replay("frame", Checks::frame);
}

#[test]
fn keepalives_are_answered_as_they_should_on_the_corpus() {
    replay("stun", Checks::stun);
}

#[test]
fn no_name_of_ours_is_forged_on_the_corpus() {
    replay("token", Checks::token);
}

#[test]
fn shards_keep_their_promises_on_the_corpus() {
    replay("shard", Checks::shard);
}
