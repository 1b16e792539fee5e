//! Who a server connection belongs to: the whole identity that two clients must share to share it.
//!
//! A connection's version, credentials, routing context, notification filter and `patch_bolt` are
//! fixed when it logs in and shape every byte after that. Two clients that differ in any of them
//! never meet.

use crate::backend::planted::{Bug, Planted};
use crate::wire::message::{Auth, Hello, Notifications};
use crate::wire::version::Version;
use aws_lc_rs::hmac;
use std::fmt;

/// Names an identity without telling it: a MAC with a key of this process over everything it
/// consists of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The first eight bytes, for words that other cores read; never 0, which means "none".
    pub fn word(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(bytes).max(1)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Fingerprint({:016x})", self.word())
    }
}

/// What HELLO fixes for the life of a connection, besides the credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub version: Version,
    /// `None` is `bolt://`. The entries are without `address`: towards servers that is the server's
    /// own.
    pub routing: Option<Vec<(String, String)>>,
    pub notifications: Notifications,
    pub utc_patch: bool,
}

impl Profile {
    /// The part of a client's HELLO that its server connections must share.
    pub fn of(version: Version, hello: &Hello) -> Profile {
        Profile {
            version,
            routing: hello.routing.as_ref().map(|routing| routing.entries.clone()),
            notifications: hello.notifications.clone(),
            utc_patch: hello.utc_patch,
        }
    }

    /// An unambiguous encoding: every part has its length before it.
    fn write(&self, out: &mut Vec<u8>) {
        fn text(out: &mut Vec<u8>, text: &str) {
            out.extend_from_slice(&(text.len() as u64).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        fn count(out: &mut Vec<u8>, count: usize) {
            out.extend_from_slice(&(count as u64).to_le_bytes());
        }
        out.extend_from_slice(&[self.version.major, self.version.minor, self.utc_patch.into()]);
        out.push(self.routing.is_some().into());
        let entries = self.routing.as_deref().unwrap_or_default();
        count(out, entries.len());
        for (key, value) in entries {
            text(out, key);
            text(out, value);
        }
        out.push(self.notifications.minimum_severity.is_some().into());
        text(out, self.notifications.minimum_severity.as_deref().unwrap_or_default());
        out.push(self.notifications.disabled.is_some().into());
        let disabled = self.notifications.disabled.as_deref().unwrap_or_default();
        count(out, disabled.len());
        disabled.iter().for_each(|name| text(out, name));
    }
}

/// Profile, credentials and fingerprint of logged-in clients; shared by all that have the same.
pub struct Identity {
    pub fingerprint: Fingerprint,
    pub profile: Profile,
    pub auth: Auth,
    /// Belongs to one client alone: one-time tickets, unknown schemes, expired credentials.
    pub is_private: bool,
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Identity({:?}, {})", self.fingerprint, self.profile.version)
    }
}

/// Makes fingerprints with a key that only this process knows.
#[derive(Clone)]
pub struct FingerprintKey {
    key: hmac::Key,
    pub planted: Planted,
}

impl FingerprintKey {
    /// `secret` is 32 random bytes of this process; a simulation gives fixed ones.
    pub fn new(secret: &[u8; 32]) -> FingerprintKey {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        FingerprintKey { key, planted: Planted::default() }
    }

    /// The identity of session mode's connections, on which nothing is said before the client
    /// speaks.
    pub fn raw(&self) -> Identity {
        let profile = Profile {
            version: Version::new(0, 0),
            routing: None,
            notifications: Notifications::default(),
            utc_patch: false,
        };
        self.identity(profile, Auth::from_parts("none", "", ""), None)
    }

    /// `owner` is the client's serial number if the identity must be its own.
    pub fn identity(&self, profile: Profile, auth: Auth, owner: Option<u64>) -> Identity {
        let mut bytes = Vec::with_capacity(256);
        profile.write(&mut bytes);
        bytes.extend_from_slice(&owner.unwrap_or(0).to_le_bytes());
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&bytes);
        if !self.planted.has(Bug::SharePool) {
            context.update(auth.canonical());
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.sign().as_ref());
        let is_private = owner.is_some();
        Identity { fingerprint: Fingerprint(fingerprint), profile, auth, is_private }
    }
}

/// Whether clients with equal credentials of this scheme may share connections. Kerberos tickets
/// are for one use, and of a scheme we do not know we cannot say.
pub fn is_shareable(scheme: &str) -> bool {
    matches!(scheme, "none" | "basic" | "bearer")
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use std::rc::Rc;

    /// Differs from others only in its user.
    pub fn identity(user: &str) -> Rc<Identity> {
        let profile = Profile {
            version: Version::new(5, 4),
            routing: None,
            notifications: Notifications::default(),
            utc_patch: false,
        };
        let auth = Auth::from_parts("basic", user, "test-password");
        Rc::new(FingerprintKey::new(&[7; 32]).identity(profile, auth, None))
    }
}
