//! Each corpus again, by an ordinary test: what a fuzzer has found once stays found.

use crate::targets::{ALL, by_name};
use std::fs;
use std::path::{Path, PathBuf};

/// Inputs of a corpus at least: one that was lost is noticed.
const INPUTS_MIN: usize = 8;
/// Kept inputs are small, so that the repository is.
const INPUT_BYTES_MAX: u64 = 16 << 10;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

#[test]
fn every_corpus_is_replayed() {
    let mut failed = Vec::new();
    for (name, _) in ALL {
        let (target, mut count) = (by_name(name), 0);
        for entry in fs::read_dir(corpus(name)).expect("every target has a corpus") {
            let path = entry.expect("a folder that can be read").path();
            let length = path.metadata().expect("a file").len();
            assert!(length <= INPUT_BYTES_MAX, "{} has {length} bytes", path.display());
            let data = fs::read(&path).expect("a file that can be read");
            // Cut and doubled inputs reach what whole ones do not.
            let replay = || {
                target(&data);
                target(&data[..data.len() / 2]);
                target(&[&data[..], &data[..]].concat());
            };
            if std::panic::catch_unwind(replay).is_err() {
                failed.push(path);
            }
            count += 1;
        }
        assert!(count >= INPUTS_MIN, "{name}: {count} inputs, at least {INPUTS_MIN} are due");
        println!("{name}: {count} inputs");
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_target_can_be_fuzzed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the fuzzer's manifest");
    for (name, _) in ALL {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the manifest");
        let text = fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs")));
        let text = text.expect("each target has its file");
        assert!(text.contains(&format!("by_name(\"{name}\")")), "{name} is another target");
    }
}
