//! `boltload`: the load generator on the command line. The work is in the library's `load`.

mod arguments;

use arguments::{Arguments, Wish};
use boltmux::config::output::{print, tell};
use boltmux::load::{self, Plan, Progress, Report};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::process::ExitCode;
use std::sync::Arc;

const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let (arguments, plan) = match arguments::read(std::env::args_os().skip(1)) {
        Ok(Wish::Measure(arguments, plan)) => (arguments, plan),
        Ok(Wish::Say(text)) => return say(&text),
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| tell(&format!("boltload: {mistake}")));
            return ExitCode::from(WRONG_USAGE);
        }
    };
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends it at once: the first has set the flag.
        let stop = Arc::clone(&plan.stop);
        let hooks = signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop));
        if let Err(error) = hooks {
            tell(&format!("boltload: cannot watch for signal {signal}: {error}"));
            return ExitCode::FAILURE;
        }
    }
    let bar = stderr().is_terminal().then(Bar::new);
    let result = load::run(&plan, &mut |progress| {
        if let Some(bar) = &bar {
            bar.show(&plan, &progress);
        }
    });
    if let Some(bar) = bar {
        bar.0.finish_and_clear();
    }
    match result {
        Ok(report) => finish(&arguments, &report),
        Err(error) => {
            tell(&format!("boltload: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) -> ExitCode {
    match print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("boltload: cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn finish(arguments: &Arguments, report: &Report) -> ExitCode {
    let mut is_written = say(&report.to_table()) == ExitCode::SUCCESS;
    let json = || format!("{:#}\n", report.to_json());
    let outputs: [(_, &dyn Fn() -> String); 3] = [
        (&arguments.json, &json),
        (&arguments.hgrm, &|| report.to_hgrm()),
        (&arguments.plot, &|| report.to_svg()),
    ];
    for (path, text) in outputs {
        let Some(path) = path else { continue };
        if let Err(error) = std::fs::write(path, text()) {
            tell(&format!("boltload: cannot write {}: {error}", path.display()));
            is_written = false;
        }
    }
    let is_fine = report.is_clean() || arguments.allow_errors && !report.has_mismatches();
    if is_fine && is_written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The progress bar; it counts milliseconds of measured time, or requests where those end the run.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Bar {
        let style = ProgressStyle::with_template("{bar:24} {percent:>3} % {msg}");
        let bar = ProgressBar::new(0);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Bar(bar)
    }

    fn show(&self, plan: &Plan, progress: &Progress) {
        let total = plan.requests.map(|requests| requests * plan.targets.len() as u64);
        self.0.set_length(total.unwrap_or(progress.total.as_millis() as u64));
        let elapsed = progress.elapsed.as_millis() as u64;
        self.0.set_position(if total.is_some() { progress.requests_in_run } else { elapsed });
        let seconds = progress.in_slot.as_secs_f64();
        let doing = match progress.is_connecting || seconds <= 0.0 {
            true => "connecting".into(),
            false => format!("{:.0} requests/s", progress.requests as f64 / seconds),
        };
        let (round, rounds, target) = (progress.round + 1, progress.rounds, progress.target);
        self.0.set_message(format!("round {round} of {rounds}, {target}: {doing}"));
    }
}
