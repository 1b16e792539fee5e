//! Mistakes in the configuration, each with its place, collected so that all are shown at once.
//!
//! A text here never holds a value of a secret key.

use std::fmt;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the command line: the flag as it is documented (`-bind`, `--set pool.size`).
    Flag(String),
    /// In the environment: the variable's name.
    Variable(String),
    /// In a file whose format gives lines (counted from 1; `None`: the file as a whole).
    Line { file: String, line: Option<usize> },
    /// In a file whose format gives none: the key's path.
    Path { file: String, path: String },
    /// Nowhere in particular: what several values, or defaults, make together.
    Together,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => formatter.write_str(name),
            Self::Line { file, line: Some(line) } => write!(formatter, "{file}:{line}"),
            Self::Line { file, line: None } => formatter.write_str(file),
            Self::Path { file, path } => write!(formatter, "{file}: {path}"),
            Self::Together => formatter.write_str("settings"),
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub place: Place,
    /// What was expected, what came, what to do; one line.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.text)
    }
}

/// All mistakes of one start, in the order files, environment, flags, cross checks. Printed one
/// per line. As an error it is never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Adds one more.
    pub fn add(&mut self, place: Place, text: impl Into<String>) {
        self.0.push(Problem { place, text: text.into() });
    }

    /// Adds all of these.
    pub fn append(&mut self, mut others: Problems) {
        self.0.append(&mut others.0);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each mistake.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
