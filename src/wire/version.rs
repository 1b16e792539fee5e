//! Bolt versions, and what each one switches on (Bolt specification, version appendices).

use crate::wire::error::VersionError;
use std::fmt;
use std::str::FromStr;

/// A version of the Bolt protocol; ordered as released. Made of any two numbers, so that what a
/// peer says can be held; `is_known` tells whether boltmux speaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u8,
    pub minor: u8,
}

const V4_1: Version = Version::new(4, 1);
const V4_3: Version = Version::new(4, 3);
const V4_4: Version = Version::new(4, 4);
const V5_1: Version = Version::new(5, 1);
const V5_2: Version = Version::new(5, 2);
const V5_3: Version = Version::new(5, 3);
const V5_4: Version = Version::new(5, 4);
const V5_6: Version = Version::new(5, 6);
const V5_7: Version = Version::new(5, 7);
const V5_8: Version = Version::new(5, 8);
const V6_0: Version = Version::new(6, 0);
const V6_1: Version = Version::new(6, 1);

impl Version {
    /// Every version boltmux speaks, ascending. 5.5 was never released.
    pub const ALL: [Version; 16] = [
        Version::new(3, 0),
        Version::new(4, 0),
        V4_1,
        Version::new(4, 2),
        V4_3,
        V4_4,
        Version::new(5, 0),
        V5_1,
        V5_2,
        V5_3,
        V5_4,
        V5_6,
        V5_7,
        V5_8,
        V6_0,
        V6_1,
    ];

    /// What to offer while the servers' versions are unknown, highest first: what every server from
    /// 4.4 to the 2025 line has some of, and every driver in support knows.
    pub const DEFAULT_OFFER: [Version; 9] =
        [V5_8, V5_7, V5_6, V5_4, V5_3, V5_2, V5_1, Version::new(5, 0), V4_4];

    pub const fn new(major: u8, minor: u8) -> Version {
        Version { major, minor }
    }

    /// Whether boltmux speaks this version.
    pub fn is_known(self) -> bool {
        Version::ALL.contains(&self)
    }

    /// No-op chunks between messages may be sent to such a peer.
    pub fn has_noop(self) -> bool {
        self >= V4_1
    }

    /// Requests name a database; PULL and DISCARD have `n` and `qid`.
    pub fn has_database(self) -> bool {
        self.major >= 4
    }

    /// HELLO may carry the routing context.
    pub fn has_routing_context(self) -> bool {
        self >= V4_1
    }

    /// ROUTE exists.
    pub fn has_route(self) -> bool {
        self >= V4_3
    }

    /// ROUTE's third field is a map; impersonation exists; routing tables name their database.
    pub fn has_route_extra(self) -> bool {
        self >= V4_4
    }

    /// HELLO's answer may carry connection hints.
    pub fn has_hints(self) -> bool {
        self >= V4_3
    }

    /// UTC date-times are negotiated by `patch_bolt`; later they are the only form.
    pub fn has_utc_patch(self) -> bool {
        self == V4_3 || self == V4_4
    }

    /// LOGON and LOGOFF exist; HELLO carries no authentication.
    pub fn has_logon(self) -> bool {
        self >= V5_1
    }

    /// Notification filters exist in HELLO, RUN and BEGIN.
    pub fn has_notification_filter(self) -> bool {
        self >= V5_2
    }

    /// HELLO must carry `bolt_agent`.
    pub fn has_bolt_agent(self) -> bool {
        self >= V5_3
    }

    /// TELEMETRY exists.
    pub fn has_telemetry(self) -> bool {
        self >= V5_4
    }

    /// Notification categories are called classifications; summaries carry `statuses`.
    pub fn has_classifications(self) -> bool {
        self >= V5_6
    }

    /// FAILURE carries GQL status and diagnostic record.
    pub fn has_gql_errors(self) -> bool {
        self >= V5_7
    }

    /// Answers to RUN and BEGIN name the home database; LOGON's the advertised address.
    pub fn has_resolved_database(self) -> bool {
        self >= V5_8
    }

    /// As proposed or answered in the handshake, with no range: `00 00 minor major`.
    pub fn to_bytes(self) -> [u8; 4] {
        [0, 0, self.minor, self.major]
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    /// Reads `5.4`; also `3`, as that version is commonly written. Only known versions are read.
    fn from_str(text: &str) -> Result<Version, VersionError> {
        let known = Version::ALL.into_iter().find(|version| version.to_string() == text);
        known
            .or((text == "3").then_some(Version::ALL[0]))
            .ok_or_else(|| VersionError { text: text.to_owned() })
    }
}
