//! Texts for names that do not exist, with the nearest one that does.

use crate::config::keys::{KEYS, Key};

/// The text for a name that no key has, with the nearest one that exists.
pub fn unknown_key(name: &str) -> String {
    let nearest = nearest(name, KEYS.iter().map(|key| key.name));
    match nearest {
        Some(nearest) => format!("unknown key {name:?}, did you mean {nearest:?}?"),
        None => format!("unknown key {name:?}; `boltmux check --keys` lists those there are"),
    }
}

/// The text for a section without keys, with the nearest one that exists.
pub fn unknown_section(name: &str) -> String {
    match nearest(name, KEYS.iter().map(Key::section).filter(|section| !section.is_empty())) {
        Some(nearest) => format!("unknown section {name:?}, did you mean {nearest:?}?"),
        None => format!("unknown section {name:?}; `boltmux check --keys` lists those there are"),
    }
}

/// The known name that looks most like this one, if any does. The right key in the wrong
/// section counts as near.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Below it, suggestions only mislead: "tls" is not "timeouts".
    const LIKENESS_MIN: f64 = 0.8;
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    known
        .map(|known| {
            let same_last = f64::from(u8::from(last(known) == last(name)));
            // Up to 1 for the whole name; a little more than that threshold for the last part.
            let likeness = strsim::jaro_winkler(name, known);
            (likeness.max(same_last * (LIKENESS_MIN + likeness / 100.0)), known)
        })
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, known)| known)
}
