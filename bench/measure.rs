//! Runs the cases of a bench: a few passes as a test, timed with `--bench`, or just so many passes
//! for a tool that counts instructions (`perf/instructions`).
//!
//!     cargo bench --bench relay [-- NAME...]     nanoseconds per message of the cases so named
//!     cargo test --benches                       each case once, and what it asserts
//!     BENCH --list                               names, and messages of one pass
//!     BENCH --passes COUNT NAME                  one case, nothing measured
//!
//! Every case asserts its own result in every pass. In every mode the allocations of a warm case
//! are counted, and more than it may have are a failure.

#[path = "../tests/allocations/counting.rs"]
mod counting;

use counting::allocations;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Passes before anything counts: queues have their size and caches their lines then.
const WARM_UP_PASSES: u64 = 3;
/// Passes over which allocations are counted: more than any queue needs to double once.
const COUNTED_PASSES: u64 = 64;
/// Timed batches. Their median is told, and the fastest, which other load disturbed least.
const BATCHES: usize = 21;
/// Long against a timer interrupt, short enough that some batch is not disturbed.
const BATCH_TIME: Duration = Duration::from_millis(20);

/// One thing to measure.
pub struct Case {
    pub name: &'static str,
    /// Messages, or whatever `unit` says, that one pass handles.
    pub count: u64,
    pub unit: &'static str,
    /// Allocations that one warm pass may have.
    pub allocations_max: u64,
    pub pass: Box<dyn FnMut()>,
}

impl Case {
    /// A case of messages, none of which may allocate.
    pub fn of_messages(name: &'static str, count: u64, pass: impl FnMut() + 'static) -> Case {
        Case { name, count, unit: "message", allocations_max: 0, pass: Box::new(pass) }
    }

    fn repeat(&mut self, passes: u64) {
        (0..passes).for_each(|_| (self.pass)());
    }

    /// Allocations of `COUNTED_PASSES`, once it is warm.
    fn allocations(&mut self) -> u64 {
        self.repeat(WARM_UP_PASSES);
        let before = allocations();
        self.repeat(COUNTED_PASSES);
        allocations() - before
    }

    fn time(&mut self, passes: u64) -> Duration {
        #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
        let start = Instant::now();
        self.repeat(passes);
        start.elapsed()
    }

    /// Nanoseconds per message in each batch, sorted.
    fn nanoseconds(&mut self) -> Vec<f64> {
        let mut passes = 1;
        while self.time(passes) < BATCH_TIME {
            passes *= 2;
        }
        let messages = (passes * self.count) as f64;
        let mut times: Vec<f64> =
            (0..BATCHES).map(|_| self.time(passes).as_nanos() as f64 / messages).collect();
        times.sort_by(f64::total_cmp);
        times
    }
}

/// Does what the command line asks for.
pub fn run(mut cases: Vec<Case>) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |option: &str| words.iter().any(|word| word == option);
    if has("--list") {
        cases.iter().for_each(|case| println!("{}\t{}\t{}", case.name, case.count, case.unit));
        return ExitCode::SUCCESS;
    }
    if let [option, passes, name] = words.as_slice()
        && option == "--passes"
    {
        return repeat_one(cases, passes, name);
    }
    let names: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_wanted =
        |case: &Case| names.is_empty() || names.iter().any(|name| case.name.contains(*name));
    let mut is_fine = true;
    for case in cases.iter_mut().filter(|case| is_wanted(case)) {
        let allocations = case.allocations();
        is_fine &= allocations <= COUNTED_PASSES * case.allocations_max;
        let times = if has("--bench") { case.nanoseconds() } else { Vec::new() };
        tell(case, allocations, &times);
    }
    if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn repeat_one(mut cases: Vec<Case>, passes: &str, name: &str) -> ExitCode {
    let passes = passes.parse();
    let case = cases.iter_mut().find(|case| case.name == name);
    let (Ok(passes), Some(case)) = (passes, case) else {
        eprintln!("expected --passes COUNT NAME, with one of the names that --list prints");
        return ExitCode::from(2);
    };
    case.repeat(WARM_UP_PASSES);
    case.repeat(passes);
    ExitCode::SUCCESS
}

fn tell(case: &Case, allocations: u64, times: &[f64]) {
    let (name, unit, count) = (case.name, case.unit, COUNTED_PASSES * case.count);
    if let (Some(fastest), Some(median)) = (times.first(), times.get(times.len() / 2)) {
        print!("{name:<36} {median:>9.1} ns/{unit} (fastest {fastest:.1}), ");
    } else {
        print!("{name:<36} ");
    }
    println!("{allocations} allocations for {count} {unit}s");
    let allocations_max = COUNTED_PASSES * case.allocations_max;
    if allocations > allocations_max {
        println!("{name}: expected at most {allocations_max} allocations");
    }
}
