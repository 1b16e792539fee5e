//! The kinds of values: what a key's text looks like, wherever it is written.

/// What a key's text looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `host:port`; several, separated by commas, where the section may be repeated.
    Bind,
    /// `bolt://host:port`.
    Uri,
    /// The path of a file.
    File,
    /// Paths of files, separated by commas, or a list.
    Files,
    /// Words, separated by commas, or a list.
    List,
    /// Any text.
    Text,
    /// Any text; never printed.
    Secret,
    /// `5s`.
    Duration,
    /// `5s` or `off`.
    OptionalDuration,
    /// `64KiB`.
    Size,
    /// `64`.
    Number,
    /// `10%`.
    Percent,
    /// `true` or `false`.
    Switch,
    /// One of a few words.
    Word,
    /// `5.8, 5.4`.
    Versions,
}

impl Kind {
    /// For the table's type column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "address",
            Self::Uri => "URI",
            Self::File => "file",
            Self::Files => "files",
            Self::List => "list",
            Self::Text => "text",
            Self::Secret => "secret",
            Self::Duration => "duration",
            Self::OptionalDuration => "duration or off",
            Self::Size => "size",
            Self::Number => "number",
            Self::Percent => "share",
            Self::Switch => "true or false",
            Self::Word => "word",
            Self::Versions => "versions",
        }
    }

    /// Whether a file may give several values as a list.
    pub fn is_list(self) -> bool {
        matches!(self, Self::Files | Self::List)
    }

    /// Whether a file must put the value in quotes: an unquoted one would have lost its form.
    pub fn needs_quotes(self) -> bool {
        !matches!(self, Self::Number | Self::Switch | Self::Duration | Self::OptionalDuration)
    }
}
