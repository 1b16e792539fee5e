//! Texts for names that do not exist, with the nearest one that does.

use crate::config::keys::{KEYS, Key, VARIABLE_PREFIX};

/// The text for a name that no key has.
pub fn unknown_key(name: &str) -> String {
    let nearest = nearest(name, KEYS.iter().map(|key| key.name));
    text("key", name, nearest)
}

/// The text for a section without keys.
pub fn unknown_section(name: &str) -> String {
    let nearest = nearest(name, KEYS.iter().map(Key::section).filter(|name| !name.is_empty()));
    text("section", name, nearest)
}

/// The text for a variable with the prefix of this program that stands for no key.
pub fn unknown_variable(name: &str) -> String {
    let tail = name.strip_prefix(VARIABLE_PREFIX).unwrap_or(name);
    let key =
        nearest(&tail.replace("__", ".").to_ascii_lowercase(), KEYS.iter().map(|key| key.name));
    let variable = KEYS.iter().find(|known| Some(known.name) == key).map(Key::variable);
    text("variable", name, variable.as_deref())
}

fn text(what: &str, name: &str, nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("unknown {what} {name:?}, did you mean {nearest:?}?"),
        None => format!("unknown {what} {name:?}; `boltmux check --keys` lists the known ones"),
    }
}

/// The known name that looks most like this one, if any does: a letter in four may be wrong. The
/// right key in the wrong section counts as just near enough.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mistakes_max = (name.len() / 4).clamp(1, 4);
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    known
        .map(|known| {
            let mistakes = strsim::osa_distance(name, known);
            let is_moved = last(known) == last(name);
            (if is_moved { mistakes.min(mistakes_max) } else { mistakes }, known)
        })
        .filter(|(mistakes, _)| *mistakes <= mistakes_max)
        .min_by_key(|(mistakes, _)| *mistakes)
        .map(|(_, known)| known)
}
