//! Strings to typed settings, once, at start.
//!
//! Owns: the settings and their defaults (`settings`), the table of all keys (`keys`), how single
//! values are written (`values`), where they come from (`command`, `words`, `sources`, `file`), and
//! what must hold between them (`cross`). Does not own: what a setting means to a layer, the files
//! and the environment themselves (they come through the traits in `sources`), or any global.
//!
//! Invariants: a `Settings` out of `command::parse` has passed every check. All mistakes are
//! reported together (`problem`), each with its place. No secret is ever printed.

mod cross;
mod file;
mod suggest;

pub mod command;
pub mod exit;
pub mod keys;
pub mod output;
pub mod problem;
pub mod settings;
pub mod sources;
pub mod values;
pub mod words;

pub use command::{Command, Demo, parse, parse_and};
pub use keys::keys_markdown;
pub use problem::{Place, Problem, Problems};
pub use settings::{
    Admin, Bind, BindHost, Encryption, Limits, Listen, ListenTls, Log, LogLevel, Pool, PoolMode,
    Scheme, Secret, Settings, Timeouts, TlsMode, TlsVersion, Transport, Uplink,
};
pub use sources::{DiskFiles, Environment, Files, ProcessEnvironment};
