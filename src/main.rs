//! `boltmux`: arguments to settings to work; the exit status says how it ended.

use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};

use boltmux::control::ask::{Trouble, ask};
use boltmux::control::certificates::Certificates;
use boltmux::control::places;
use boltmux::proxy::{Failure, Proxy};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use boltmux::config::output::{print, tell};
use boltmux::config::settings::LogLevel;
use boltmux::config::{
    Command, DiskFiles, Problems, ProcessEnvironment, Settings, exit, keys_markdown, parse_and,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    let command = match parse_and(arguments, &ProcessEnvironment, &DiskFiles, &look) {
        Ok(command) => command,
        Err(problems) => {
            tell(&problems.to_string());
            return ExitCode::from(exit::USAGE);
        }
    };
    ExitCode::from(match command {
        Command::Version => say(&format!("boltmux {}", env!("CARGO_PKG_VERSION"))),
        Command::Keys => say(keys_markdown().trim_end()),
        Command::Help(text) => say(text.trim_end()),
        Command::Check { settings, connect } => check(&settings, connect),
        Command::Run(settings) => run(*settings),
        Command::Demo(demo) => {
            start_log(LogLevel::Warn);
            boltmux::demo::run(&demo)
        }
    })
}

/// What reading the settings alone does not find.
fn look(settings: &Settings) -> Problems {
    let mut problems = Certificates::problems_of(settings);
    problems.append(places::overlaps(settings));
    problems
}

/// Serves until SIGTERM or SIGINT, then drains; a second one ends it at once. SIGHUP reads the
/// certificates anew.
fn run(settings: Settings) -> u8 {
    let mut signals = match signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]) {
        Ok(signals) => signals,
        Err(error) => {
            tell(&format!("boltmux: cannot listen for signals: {error}"));
            return exit::FAILED;
        }
    };
    start_log(settings.log.effective_level());
    let uplink = format!("{}:{}", settings.uplink.host, settings.uplink.port);
    let (told, failures) = mpsc::channel();
    let proxy = match Proxy::start_and_tell(settings, told) {
        Ok(proxy) => proxy,
        Err(error) => {
            error.text.lines().for_each(|line| tell(&format!("boltmux: {line}")));
            return error.status;
        }
    };
    tell(&format!("boltmux: accepting clients on {} for {uplink}", proxy.places().join(", ")));
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    watch(failures);
    while signals.forever().next() == Some(SIGHUP) {
        proxy.reload();
    }
    tell("boltmux: draining; a second signal ends it at once");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    std::thread::spawn(move || {
        while signals.forever().next() == Some(SIGHUP) {}
        std::process::exit(i32::from(exit::FAILED));
    });
    if proxy.drain() { exit::DONE } else { exit::FAILED }
}

/// Tells of threads that panic. The first shard lost begins a drain, as SIGTERM does: a program
/// that is started again has all its connections.
fn watch(failures: Receiver<Failure>) {
    std::thread::spawn(move || {
        let mut is_ending = false;
        for failure in failures {
            tell(&format!("boltmux: {}; start boltmux again", failure.text));
            if failure.is_shard && !std::mem::replace(&mut is_ending, true) {
                let _ = signal_hook::low_level::raise(SIGTERM);
            }
        }
    });
}

fn start_log(level: LogLevel) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr);
    // What cannot be written is lost: telling so would panic where standard error is closed, and
    // with it the shard that wanted to log.
    log.with_target(false).with_ansi(false).log_internal_errors(false).init();
}

fn say(text: &str) -> u8 {
    match print(&format!("{text}\n")) {
        Ok(()) => exit::DONE,
        Err(error) => {
            tell(&format!("boltmux: cannot write to standard output: {error}"));
            exit::FAILED
        }
    }
}

fn check(settings: &Settings, connect: bool) -> u8 {
    let encryption = match Certificates::read(settings) {
        Ok(certificates) => certificates.encryption(),
        Err(problems) => {
            tell(&problems.to_string());
            return exit::USAGE;
        }
    };
    let overlaps = places::overlaps(settings);
    if !overlaps.is_empty() {
        tell(&overlaps.to_string());
        return exit::USAGE;
    }
    let said = say("the configuration is sound");
    if !connect || said != exit::DONE {
        return said;
    }
    match ask(settings, encryption.uplink) {
        Ok(text) => say(&text),
        Err(Trouble::Failed(text)) => {
            tell(&format!("boltmux: {text}"));
            exit::FAILED
        }
        Err(Trouble::Refused(text)) => {
            tell(&format!("boltmux: {text}"));
            exit::REFUSED
        }
    }
}
