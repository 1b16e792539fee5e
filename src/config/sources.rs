//! Where texts come from: the process's environment and files, behind small traits so that
//! tests pass maps; and what was written for each key, before it is read.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use crate::config::keys::{self, KEYS, Key, VARIABLE_PREFIX};
use crate::config::problem::{Place, Problems};
use crate::config::suggest;

/// A file with every key and its documentation is far below this; more is a wrong file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The environment of the process, or of a test.
pub trait Environment {
    /// All variables, in any order.
    fn variables(&self) -> Vec<(OsString, OsString)>;
}

/// The files of the machine, or of a test.
pub trait Files {
    /// The whole text of a file.
    ///
    /// # Errors
    /// What the system says, and `InvalidData` for what is no UTF-8 or too large.
    fn read(&self, path: &Path) -> io::Result<String>;
}

/// The environment this process was started with.
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        std::env::vars_os().collect()
    }
}

/// The machine's file system; at most 1 MiB is read.
pub struct DiskFiles;

impl Files for DiskFiles {
    fn read(&self, path: &Path) -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            let message = format!("larger than {FILE_BYTES_MAX} bytes, expected a configuration");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(text)
    }
}

/// One text written for one key, not read yet. Wiped when dropped: it may be a password.
pub struct Assignment {
    /// For this key.
    pub key: &'static Key,
    /// What was written.
    pub text: Zeroizing<String>,
    /// Where it was written.
    pub place: Place,
    /// For this one of the sections that may be repeated; `None`: for all.
    pub item: Option<usize>,
}

/// A name of the Go bolt-proxy and the key it stands for.
pub struct Legacy {
    /// The flag, without dashes.
    pub flag: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// The key it stands for.
    pub key: &'static str,
    /// What the help calls its value.
    pub value: &'static str,
    /// One line of help.
    pub help: &'static str,
}

/// All names of the Go bolt-proxy.
pub const LEGACY: [Legacy; 7] = [
    Legacy {
        flag: "bind",
        variable: "BOLT_PROXY_BIND",
        key: "listen.bind",
        value: "ADDRESS",
        help: "Where clients are accepted, several separated by commas",
    },
    Legacy {
        flag: "uri",
        variable: "BOLT_PROXY_URI",
        key: "uplink.uri",
        value: "URI",
        help: "The servers, bolt:// or neo4j://",
    },
    Legacy {
        flag: "user",
        variable: "BOLT_PROXY_USER",
        key: "uplink.user",
        value: "USER",
        help: "The monitor's user",
    },
    Legacy {
        flag: "pass",
        variable: "BOLT_PROXY_PASSWORD",
        key: "uplink.password",
        value: "PASSWORD",
        help: "The monitor's password; seen by everybody on this machine, prefer the variable",
    },
    Legacy {
        flag: "cert",
        variable: "BOLT_PROXY_CERT",
        key: "listen.cert",
        value: "FILE",
        help: "The certificate for clients that encrypt; the others are served as before",
    },
    Legacy {
        flag: "key",
        variable: "BOLT_PROXY_KEY",
        key: "listen.key",
        value: "FILE",
        help: "The certificate's key",
    },
    Legacy {
        flag: "debug",
        variable: "BOLT_PROXY_DEBUG",
        key: "log.debug",
        value: "true|false",
        help: "Log more",
    },
];

/// What the environment says, the Go bolt-proxy's names first, so that boltmux's own win.
/// Variables set to nothing count as not set, as container files often leave them.
pub fn from_environment(environment: &dyn Environment, problems: &mut Problems) -> Vec<Assignment> {
    let mut variables = environment.variables();
    variables.sort();
    variables.retain(|(_, value)| !value.is_empty());
    let mut assignments = Vec::new();
    for (name, value) in &variables {
        let Some(legacy) = LEGACY.iter().find(|legacy| *name == *legacy.variable) else { continue };
        let place = Place::Variable(legacy.variable.into());
        let Some(key) = keys::find(legacy.key) else { continue };
        // Any value switches debugging on, as it always did.
        let value = if legacy.flag == "debug" { Some("true") } else { value.to_str() };
        push_text(&mut assignments, problems, key, value, place);
    }
    for (name, value) in &variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else {
            continue;
        };
        let place = Place::Variable(name.into());
        match KEYS.iter().find(|key| key.variable() == name) {
            Some(key) => push_text(&mut assignments, problems, key, value.to_str(), place),
            None => problems.add(place, suggest::unknown_variable(name)),
        }
    }
    assignments
}

fn push_text(
    assignments: &mut Vec<Assignment>,
    problems: &mut Problems,
    key: &'static Key,
    value: Option<&str>,
    place: Place,
) {
    match value {
        Some(value) => {
            let text = Zeroizing::new(value.to_owned());
            assignments.push(Assignment { key, text, place, item: None });
        }
        None => problems.add(place, "expected text in UTF-8"),
    }
}
