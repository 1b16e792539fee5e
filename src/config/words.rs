//! The words of a command line, understood to their end: clap stops at its first mistake, but all
//! mistakes are to be told at once. Used by every program.
//!
//! Owns: which words are left out so that the rest can be understood. Does not own: the grammar,
//! what a value means, and where mistakes are told.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command};

/// What came of a command line.
pub enum Understood {
    /// What is left without the mistakes; all of it, if there were none.
    Matches(ArgMatches),
    /// `--help`: this text was asked for, and nothing further.
    Help(String),
    /// `--version` was asked for, and nothing further.
    Version,
    /// Nothing can be said of the rest.
    Nothing,
}

/// Reads the words as `grammar` says, and tells every mistake in one line. What is not known, twice
/// there or without its value is told and left out, until the rest is understood.
pub fn understand(
    grammar: &mut Command,
    mut arguments: Vec<OsString>,
    tell: &mut dyn FnMut(String),
) -> Understood {
    grammar.build();
    // Ends: each turn but the last leaves out an argument.
    loop {
        let error = match grammar.try_get_matches_from_mut(&arguments) {
            Ok(matches) => return Understood::Matches(matches),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::DisplayHelp => return Understood::Help(error.to_string()),
            ErrorKind::DisplayVersion => return Understood::Version,
            _ => tell(usage_text(&error, grammar)),
        }
        if !leave_out(&mut arguments, &error, grammar) {
            // What comes before the mistake is understood all the same.
            let rest = grammar.clone().ignore_errors(true).try_get_matches_from(&arguments);
            return rest.map_or(Understood::Nothing, Understood::Matches);
        }
    }
}

/// Takes out the word that is the mistake, with what is or looks like its value; false if none is.
fn leave_out(arguments: &mut Vec<OsString>, error: &clap::Error, grammar: &Command) -> bool {
    let kind = match error.kind() {
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        _ => ContextKind::InvalidArg,
    };
    let Some(ContextValue::String(wrong)) = error.get(kind) else { return false };
    let is_unknown =
        matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand);
    // One that is known is named with its value: "--rate <PER_SECOND>".
    let known = wrong.split([' ', '=', '[']).next().filter(|_| !is_unknown);
    let word = known.unwrap_or(wrong);
    let is_that = |argument: &OsString| argument.to_str().is_some_and(|text| is_it(text, word));
    // Of one that is there twice the last one is the mistake.
    let place = match known {
        Some(_) => arguments.iter().rposition(is_that),
        None => arguments.iter().position(is_that),
    };
    let Some(place) = place else { return false };
    let left_out = arguments.remove(place);
    let may_have_value =
        left_out.to_str().is_some_and(|it| it.starts_with('-') && !it.contains('='));
    let is_value = |next: &OsString| {
        next.to_str()
            .is_some_and(|next| !next.starts_with('-') && grammar.find_subcommand(next).is_none())
    };
    let takes_none = grammar
        .get_arguments()
        .any(|argument| is_named(argument, word) && !argument.get_action().takes_values());
    if may_have_value && !takes_none && arguments.get(place).is_some_and(is_value) {
        arguments.remove(place);
    }
    true
}

/// Whether this word of the command line is the one that clap names.
fn is_it(text: &str, named: &str) -> bool {
    match text.strip_prefix(named) {
        // Short flags come several in one word.
        Some(rest) if named.starts_with('-') => {
            rest.is_empty() || rest.starts_with('=') || !named.starts_with("--")
        }
        Some(rest) => rest.is_empty(),
        None => false,
    }
}

fn is_named(argument: &clap::Arg, word: &str) -> bool {
    word.strip_prefix("--").is_some_and(|name| argument.get_long() == Some(name))
}

fn usage_text(error: &clap::Error, grammar: &Command) -> String {
    let full = error.to_string();
    // Behind the empty line stand tips and the usage; lists before it have a line for each item.
    let lines = full.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let first = lines.collect::<Vec<_>>().join(" ");
    let mut text = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
    for kind in [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand] {
        match error.get(kind) {
            Some(ContextValue::String(near)) => text.push_str(&format!(", did you mean {near}?")),
            Some(ContextValue::Strings(near)) => {
                text.push_str(&format!(", did you mean {}?", near.join(" or ")));
            }
            _ => {}
        }
    }
    format!("{text}; see {} --help", grammar.get_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, ArgAction};

    fn grammar() -> Command {
        let value = |name: &'static str| Arg::new(name).long(name).value_name("N");
        let flag = Arg::new("flag").long("flag").action(ArgAction::SetTrue);
        let other = value("other").conflicts_with("rate");
        let number = value("number").value_parser(clap::value_parser!(u32));
        Command::new("it").no_binary_name(true).args([value("rate"), other, number, flag])
    }

    fn mistakes(words: &str) -> (Vec<String>, Understood) {
        let mut told = Vec::new();
        let words = words.split_whitespace().map(OsString::from).collect();
        let understood = understand(&mut grammar(), words, &mut |text| told.push(text));
        (told, understood)
    }

    #[test]
    fn every_mistake_is_told_and_the_rest_is_understood() {
        let (told, understood) = mistakes(
            "--wrong 7 --flag stray --number x --rate 1 --more=2 --rate 3 --other 5 --flag --rate",
        );
        let parts =
            ["--wrong", "stray", "'x' for '--number", "--more", "--rate", "--other", "--flag"];
        for part in parts {
            assert!(told.iter().any(|text| text.contains(part)), "{part}: {told:#?}");
        }
        assert!(told.iter().all(|text| text.ends_with("; see it --help") && !text.contains('\n')));
        let Understood::Matches(matches) = understood else { panic!("{told:#?}") };
        assert!(matches.get_flag("flag"), "{told:#?}");
        // One of two that exclude each other is left.
        let is_there = |name: &str| matches.get_one::<String>(name).is_some();
        assert!(is_there("rate") != is_there("other"), "{told:#?}");
    }

    #[test]
    fn what_is_right_has_no_mistakes_and_help_is_its_text() {
        let (told, understood) = mistakes("--rate 1 --flag");
        assert!(told.is_empty() && matches!(understood, Understood::Matches(_)), "{told:?}");
        let (told, understood) = mistakes("--rate 1 --help");
        assert!(told.is_empty());
        assert!(matches!(understood, Understood::Help(text) if text.contains("--rate <N>")));
    }
}
