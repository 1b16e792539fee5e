//! The command line, and all sources together: flag over environment over file over default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use zeroize::Zeroizing;

use crate::config::cross::RULES;
use crate::config::file::from_file;
use crate::config::keys;
use crate::config::problem::{Place, Problems};
use crate::config::settings::Settings;
use crate::config::sources::{Assignment, Environment, Files, LEGACY, from_environment};
use crate::config::suggest;
use crate::config::words::{self, Understood};

/// What the program was asked to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Serve clients until a signal.
    Run(Box<Settings>),
    /// An embedded server, the proxy and load in one process.
    Demo(Demo),
    /// Say whether the settings are sound; with `connect`, whether the servers can be dialled.
    Check { settings: Box<Settings>, connect: bool },
    /// Print the table of all keys.
    Keys,
    /// Print the version.
    Version,
    /// Print this text.
    Help(String),
}

/// What `boltmux demo` was given; `None` leaves the choice to the demo. It reads no
/// configuration, so that it shows the same wherever it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demo {
    /// How long it measures, both ways together.
    pub seconds: Option<u32>,
    /// How many clients it plays.
    pub clients: Option<u32>,
    /// Connections to the embedded server.
    pub pool: Option<u32>,
    /// Shards of the proxy; each has a CPU of its own while there are enough.
    pub shards: Option<u32>,
    /// Ends after the table, in place of serving on until it is interrupted.
    pub once: bool,
    /// Where the numbers are written as JSON.
    pub json: Option<PathBuf>,
}

/// Reads the command line (without the program's name), the environment and the file named by
/// `--config`.
///
/// # Errors
/// Every mistake there is, in every source.
pub fn parse(
    arguments: impl Iterator<Item = OsString>,
    environment: &dyn Environment,
    files: &dyn Files,
) -> Result<Command, Problems> {
    parse_and(arguments, environment, files, &|_| Problems::default())
}

/// As `parse`. If there are mistakes, `look` is asked what else is wrong with the settings as far
/// as they could be read, which is otherwise found when they are used.
pub fn parse_and(
    arguments: impl Iterator<Item = OsString>,
    environment: &dyn Environment,
    files: &dyn Files,
    look: &dyn Fn(&Settings) -> Problems,
) -> Result<Command, Problems> {
    let mut problems = Problems::default();
    let mut grammar = grammar();
    grammar.build();
    let arguments = with_double_dashes(arguments, &grammar);
    let mut tell = |text| problems.add(Place::Flag("command line".into()), text);
    let understood = words::understand(&mut grammar, arguments, &mut tell);
    let matches = match understood {
        Understood::Matches(matches) => matches,
        Understood::Help(text) if problems.is_empty() => return Ok(Command::Help(text)),
        Understood::Version if problems.is_empty() => return Ok(Command::Version),
        _ => return Err(problems),
    };
    let root = &matches;
    let mut settings = |levels: &[&ArgMatches]| {
        let settings = settings_of(levels, environment, files, &mut problems);
        if !problems.is_empty() {
            problems.append(look(&settings));
        }
        Box::new(settings)
    };
    let command = match matches.subcommand() {
        None => Command::Run(settings(&[root])),
        Some(("check", inner)) if is_set(inner, "keys") => Command::Keys,
        Some(("check", inner)) => {
            let connect = is_set(inner, "connect");
            Command::Check { settings: settings(&[root, inner]), connect }
        }
        Some(("demo", inner)) => {
            without_settings(root, "demo", &mut problems);
            Command::Demo(demo_of(inner))
        }
        Some((word, _)) => {
            without_settings(root, word, &mut problems);
            Command::Version
        }
    };
    if problems.is_empty() { Ok(command) } else { Err(problems) }
}

fn grammar() -> clap::Command {
    let count = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("N")
            .help(help)
            .value_parser(value_parser!(u32).range(1..))
    };
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).help(help).action(ArgAction::SetTrue)
    };
    let demo = clap::Command::new("demo")
        .about("Show it at work: an embedded server, the proxy and load in one process")
        .arg(count("seconds", "How long to measure, both ways together"))
        .arg(count("clients", "Clients to play"))
        .arg(count("pool", "Connections to the embedded server"))
        .arg(count("shards", "CPU cores for the proxy"))
        .arg(flag("once", "End after the table"))
        .arg(
            Arg::new("json")
                .long("json")
                .value_name("FILE")
                .help("Write the numbers here")
                .value_parser(value_parser!(PathBuf)),
        );
    let check = with_settings(clap::Command::new("check"))
        .about("Say whether the configuration is sound")
        .arg(flag("connect", "Dial the servers, too"))
        .arg(flag("keys", "Print the table of all keys instead"));
    with_settings(clap::Command::new("boltmux"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Connection pooler and proxy for Neo4j's Bolt protocol")
        .after_help(
            "Without a command it serves clients. Every key of the file is also\n\
             --set section.key=value and BOLTMUX__SECTION__KEY; `boltmux check --keys`\n\
             lists them. Flags may have one dash or two.",
        )
        .no_binary_name(true)
        .bin_name("boltmux")
        .subcommand(demo)
        .subcommand(check)
        .subcommand(clap::Command::new("version").about("Print the version"))
}

/// The flags that say something about the settings.
fn with_settings(command: clap::Command) -> clap::Command {
    let command = command
        // As in Go, the last of several wins.
        .args_override_self(true)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .help("Read this file, JSON if it ends in .json, else TOML")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("SECTION.KEY=VALUE")
                .help("Set a key of the file; repeatable")
                .action(ArgAction::Append)
                .value_parser(ValueParser::string()),
        );
    LEGACY.iter().fold(command, |command, legacy| {
        let argument =
            Arg::new(legacy.flag).long(legacy.flag).help(legacy.help).value_name(legacy.value);
        command.arg(if legacy.flag == "debug" {
            argument.num_args(0..=1).require_equals(true).default_missing_value("true")
        } else {
            // A password may begin with a dash.
            argument.allow_hyphen_values(true)
        })
    })
}

/// Gives Go's single-dash flags the second dash. What follows a flag as its value stays as it is.
fn with_double_dashes(
    arguments: impl Iterator<Item = OsString>,
    grammar: &clap::Command,
) -> Vec<OsString> {
    let known: Vec<&Arg> = std::iter::once(grammar)
        .chain(grammar.get_subcommands())
        .flat_map(clap::Command::get_arguments)
        .collect();
    let mut is_value = false;
    let doubled = arguments.map(|argument| {
        if std::mem::take(&mut is_value) {
            return argument;
        }
        let Some(text) = argument.to_str() else { return argument };
        let name = text.trim_start_matches('-');
        let dashes = text.len() - name.len();
        let (name, has_value) =
            name.split_once('=').map_or((name, false), |(name, _)| (name, true));
        let found = known.iter().find(|known| known.get_long() == Some(name));
        let Some(found) = found.filter(|_| dashes == 1 || dashes == 2) else { return argument };
        is_value = !has_value && found.get_action().takes_values() && found.get_id() != "debug";
        if dashes == 1 { format!("-{text}").into() } else { argument }
    });
    doubled.collect()
}

fn settings_of(
    levels: &[&ArgMatches],
    environment: &dyn Environment,
    files: &dyn Files,
    problems: &mut Problems,
) -> Settings {
    let mut assignments = Vec::new();
    let config = levels.iter().rev().find_map(|level| level.get_one::<PathBuf>("config"));
    if let Some(path) = config {
        assignments.extend(from_file(Path::new(path), files, problems));
    }
    assignments.extend(from_environment(environment, problems));
    for level in levels {
        from_flags(level, &mut assignments, problems);
    }
    let mut settings = Settings::default();
    apply(assignments, &mut settings, problems);
    read_password(&mut settings, files, problems);
    settings
}

/// What an editor puts behind the last line is no part of the password.
fn read_password(settings: &mut Settings, files: &dyn Files, problems: &mut Problems) {
    let Some(path) = &settings.uplink.password_file else { return };
    let text = match files.read(path).map(Zeroizing::new) {
        Ok(text) => keys::parse_secret(text.trim_end_matches(['\r', '\n'])),
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    let found = text.and_then(|found| found.ok_or("expected a password, it is empty".into()));
    match found {
        Ok(password) => settings.uplink.password = Some(password),
        Err(text) => {
            let place = Place::Line { file: path.display().to_string(), line: None };
            problems.add(place, format!("{text} (uplink.password_file)"));
        }
    }
}

/// The Go bolt-proxy's flags first, so that `--set` wins over them.
fn from_flags(matches: &ArgMatches, assignments: &mut Vec<Assignment>, problems: &mut Problems) {
    for legacy in &LEGACY {
        let Some(value) = matches.get_one::<String>(legacy.flag) else { continue };
        let place = Place::Flag(format!("-{}", legacy.flag));
        let Some(key) = keys::find(legacy.key) else { continue };
        // Go's forms of a boolean.
        let text = match (legacy.flag, value.as_str()) {
            ("debug", "1" | "t" | "T" | "TRUE" | "True") => "true",
            ("debug", "0" | "f" | "F" | "FALSE" | "False") => "false",
            (_, other) => other,
        };
        assignments.push(Assignment { key, text: Zeroizing::new(text.into()), place, item: None });
    }
    for written in matches.get_many::<String>("set").into_iter().flatten() {
        // Without "=" it may be anything, a password too: not shown.
        let Some((name, value)) = written.split_once('=') else {
            let place = Place::Flag("--set".into());
            problems.add(place, "expected section.key=value, but the \"=\" is missing");
            continue;
        };
        let place = Place::Flag(format!("--set {}", name.trim()));
        match keys::find(name.trim()) {
            Some(key) => {
                let text = Zeroizing::new(value.into());
                assignments.push(Assignment { key, text, place, item: None });
            }
            None => problems.add(place, suggest::unknown_key(name.trim())),
        }
    }
}

/// Reads each text, also those that a later one overrides: a mistake is one wherever it stands.
/// Then the rules over several keys are checked as far as their keys could be read.
fn apply(assignments: Vec<Assignment>, settings: &mut Settings, problems: &mut Problems) {
    let mut failed = Vec::new();
    let mut written: Vec<(&str, Place)> = Vec::new();
    if let Some(last) = assignments.iter().filter_map(|assignment| assignment.item).max() {
        keys::reset_listeners(settings, last + 1);
    }
    for assignment in assignments {
        let Assignment { key, text, place, item } = assignment;
        let outcome = match item {
            Some(index) => keys::set_one(key, settings, index, &text),
            None => (key.set)(settings, &text),
        };
        match outcome {
            Ok(()) => written.push((key.name, place)),
            Err(error) => {
                failed.push(key.name);
                problems.add(place, error);
            }
        }
    }
    for rule in RULES {
        if rule.keys.iter().any(|key| failed.contains(key)) {
            continue;
        }
        let Some(text) = (rule.broken)(settings) else { continue };
        let place_of = |key: &&str| written.iter().rev().find(|(name, _)| name == key);
        let place = rule.keys.iter().find_map(place_of).map(|(_, place)| place.clone());
        problems.add(place.unwrap_or(Place::Together), text);
    }
}

/// Without its default where a mistake has cut the arguments off.
fn is_set(matches: &ArgMatches, flag: &str) -> bool {
    matches.get_one::<bool>(flag).copied().unwrap_or_default()
}

fn demo_of(matches: &ArgMatches) -> Demo {
    let count = |name: &str| matches.get_one::<u32>(name).copied();
    Demo {
        seconds: count("seconds"),
        clients: count("clients"),
        pool: count("pool"),
        shards: count("shards"),
        once: is_set(matches, "once"),
        json: matches.get_one::<PathBuf>("json").cloned(),
    }
}

/// Refuses settings in front of a word that would ignore them.
fn without_settings(root: &ArgMatches, word: &str, problems: &mut Problems) {
    for id in root.ids() {
        let place = Place::Flag(format!("--{id}"));
        problems.add(place, format!("`boltmux {word}` takes no settings, leave it out"));
    }
}
