//! The pure parts together, under a virtual clock: two shards, their clients and one server, all
//! from one seed.
//!
//! `BOLTMUX_SIM_SEED` replays one seed, `BOLTMUX_SIM_SEEDS` and `BOLTMUX_SIM_STEPS` widen the
//! sweep. Release builds have neither the planted bugs nor the step of another core in the midst of
//! one here: they would prove less than they say, so everything is ignored in them. The profile
//! `sweep` has both, and is as fast.

#[path = "simulation/peer.rs"]
mod peer;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/server.rs"]
mod server;
#[path = "simulation/world.rs"]
mod world;

use boltmux::backend::planted::{Bug, Planted};
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

const SEEDS: u64 = 256;
const STEPS: usize = 3_000;
/// Seeds in which everything happens at least once; 160 were not enough when this was written.
const SEEN_SEEDS: u64 = 400;
/// A planted bug is seen within so many; the rarest (unread bytes) needed between 96 and 160.
const PLANTED_SEEDS: u64 = 512;
/// As many as a small machine has cores.
const THREADS: u64 = 4;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

/// What went wrong with this seed, if anything did.
fn broken(seed: u64, steps: usize, planted: Planted) -> Option<String> {
    let traces = setting("BOLTMUX_SIM_SEED").is_some();
    let mut world = World::new(seed, planted);
    world.trace = traces.then(Vec::new);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run(steps)));
    let text = match outcome {
        Ok(Ok(())) => return None,
        Ok(Err(violation)) => format!("step {}: {}", violation.step, violation.text),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("a panic: {}", text.unwrap_or_default())
        }
    };
    for line in world.trace.take().into_iter().flatten() {
        println!("{line}");
    }
    Some(format!("seed {seed}, {text}"))
}

/// The first seed that breaks, looked for on several threads.
fn first_broken(seeds: u64, steps: usize, planted: Planted) -> Vec<String> {
    let search = |thread: u64| {
        let seeds = (thread..seeds).step_by(THREADS as usize);
        seeds.filter_map(|seed| broken(seed, steps, planted)).take(3).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || search(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic gets here")).collect()
    })
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "needs debug assertions: --profile sweep has them")]
fn every_seed_keeps_the_laws() {
    let steps = setting("BOLTMUX_SIM_STEPS").map_or(STEPS, |steps| steps as usize);
    let broken = match setting("BOLTMUX_SIM_SEED") {
        Some(seed) => broken(seed, steps, Planted::default()).into_iter().collect(),
        None => {
            let seeds = setting("BOLTMUX_SIM_SEEDS").unwrap_or(SEEDS);
            first_broken(seeds, steps, Planted::default())
        }
    };
    assert!(broken.is_empty(), "replay with BOLTMUX_SIM_SEED:\n{}", broken.join("\n"));
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "needs debug assertions: --profile sweep has them")]
fn each_planted_bug_is_caught() {
    let is_seen =
        |bug| (0..PLANTED_SEEDS).any(|seed| broken(seed, STEPS, Planted::bug(bug)).is_some());
    let missed: Vec<Bug> = Bug::ALL.into_iter().filter(|&bug| !is_seen(bug)).collect();
    assert!(missed.is_empty(), "nothing sees {missed:?}");
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "needs debug assertions: --profile sweep has them")]
fn a_sweep_sees_everything() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..SEEN_SEEDS {
        let mut world = World::new(seed, Planted::default());
        assert!(world.run(STEPS).is_ok(), "seed {seed}");
        seen.extend(std::mem::take(&mut world.seen));
    }
    let expected = [
        "refuse_timed_out",
        "refuse_unreachable",
        "refuse_server",
        "grant_lost",
        "turn_over",
        "turn_lost",
        "probe",
        "lend",
        "pass_permit",
        "ring",
        "clean",
        "dirty",
        "lifetime",
        "idle_timeout",
        "evicted",
        "given_up",
        "unread",
        "server_closed",
        "reset_failed",
        "half_message",
        "revoked",
        "drain",
        "goodbye",
        "client_gone",
        "invalid_request",
        "unauthorized",
        "login_unavailable",
        "kept",
        "copied",
        "sent out of its buffer",
    ];
    let missed: Vec<_> = expected.iter().filter(|name| !seen.contains(*name)).collect();
    assert!(missed.is_empty(), "never happened: {missed:?}");
}
