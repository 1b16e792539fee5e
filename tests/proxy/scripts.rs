//! Plays `tests/scripts/*.bolt`; each has a proxy and a server of its own.

use crate::client::Way;
use crate::script::play;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Scripts at once: a proxy is a handful of threads.
const AT_ONCE: usize = 4;
/// A folder that was not found must not pass.
const SCRIPTS_MIN: usize = 25;

#[test]
fn every_script_is_as_written() {
    play_all(Way::Plain);
}

#[test]
fn every_script_is_as_written_over_websocket() {
    play_all(Way::WebSocket);
}

fn play_all(way: Way) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let wanted = std::env::var("BOLTMUX_SCRIPT").unwrap_or_default();
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut scripts: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "bolt"))
        .filter(|path| path.display().to_string().contains(&wanted))
        .collect();
    scripts.sort();
    assert!(!wanted.is_empty() || scripts.len() >= SCRIPTS_MIN, "{} scripts", scripts.len());
    let next = AtomicUsize::new(0);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut failures = Vec::new();
            while let Some(path) = scripts.get(next.fetch_add(1, Relaxed)) {
                let text = fs::read_to_string(path).unwrap();
                let name = path.file_name().unwrap().to_string_lossy();
                let played = std::panic::catch_unwind(|| play(&text, way));
                match played.unwrap_or_else(|_| Err("it panicked".into())) {
                    Ok(()) => println!("{name}: as written"),
                    Err(error) => failures.push(format!("{name}: {error}")),
                }
            }
            failures
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_script_that_expects_something_else_fails() {
    let wrong = [
        "C: LOGIN 5.4\nC: RUN \"RETURN 1\" ; PULL\nS: SUCCESS ; RECORD [2]",
        "C: LOGIN 5.4\nC: COMMIT\nS: SUCCESS",
        "C: LOGIN 5.4\n! metric closed{goodbye} 1",
        "C: PROPOSE 5.4\nS: VERSION 5.3",
        "C: LOGIN 5.4\nC: RUN \"WRITE $nonce\" {nonce: \"a\"} ; PULL\nS: SUCCESS {qid: 1}",
        "C: NONSENSE",
        "C: LOGIN 5.4\nC: RUN ; PULL\nS: SUCCESS ; RECORD ; SUCCESS\n! ledger a committed",
        "X: EOF",
        "set pool.size=1",
    ];
    for script in wrong {
        assert!(play(script, Way::Plain).is_err(), "{script}");
    }
    let right = "C: LOGIN 5.4\nC: RUN ; PULL\nS: SUCCESS ; RECORD [1] ; SUCCESS";
    assert_eq!(play(right, Way::Plain), Ok(()));
}
