//! Strings to typed settings, once, at start.
//!
//! Owns: the settings and their defaults (`settings`). Does not own: what the settings mean to
//! a layer, or any global.

pub mod settings;

pub use settings::{
    Admin, Bind, BindHost, Limits, Listen, Log, LogLevel, Pool, PoolMode, Scheme, Secret, Settings,
    Timeouts, Transport, Uplink,
};
