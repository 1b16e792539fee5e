//! How rows of the table of keys are written. What they name is looked up where they stand.

/// A key whose field holds a value of one of the kinds with a parser and a printer.
macro_rules! key {
    ($name:literal, $kind:ident, $($field:ident).+, $parse:expr, $show:expr, $meaning:literal) => {
        Key {
            name: $name,
            kind: Kind::$kind,
            meaning: $meaning,
            set: |settings, text| {
                settings.$($field).+ = $parse(text)?;
                Ok(())
            },
            show: |settings| $show(&settings.$($field).+),
        }
    };
}

/// A key of every listener. A file may give each listener its own value; elsewhere it is for all of
/// them.
macro_rules! listener {
    ($name:literal, $kind:ident, $($field:ident).+, $parse:expr, $show:expr, $meaning:literal) => {
        Key {
            name: $name,
            kind: Kind::$kind,
            meaning: $meaning,
            set: |settings, text| {
                let value = $parse(text)?;
                settings.listen.iter_mut().for_each(|listen| listen.$($field).+ = value.clone());
                Ok(())
            },
            show: |settings| {
                settings.listen.first().map_or_else(String::new, |it| $show(&it.$($field).+))
            },
        }
    };
}

/// A duration above zero.
macro_rules! duration {
    ($name:literal, $($field:ident).+, $meaning:literal) => {
        key!($name, Duration, $($field).+, parse_duration_positive, |it: &_| show_duration(*it),
             $meaning)
    };
}

/// A duration that may be off.
macro_rules! optional_duration {
    ($name:literal, $($field:ident).+, $meaning:literal) => {
        key!($name, OptionalDuration, $($field).+, parse_duration_optional,
             |it: &_| show_duration_optional(*it), $meaning)
    };
}

/// A size within bounds.
macro_rules! size {
    ($name:literal, $($field:ident).+, $minimum:expr, $maximum:expr, $meaning:literal) => {
        key!($name, Size, $($field).+, |text| parse_size(text, $minimum, $maximum),
             |it: &u32| show_size(*it), $meaning)
    };
}

/// A plain `true` or `false`.
macro_rules! switch {
    ($name:literal, $($field:ident).+, $meaning:literal) => {
        key!($name, Switch, $($field).+, parse_switch, bool::to_string, $meaning)
    };
}
