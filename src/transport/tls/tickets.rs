//! Session tickets: a client that comes back resumes on whichever shard it meets.
//!
//! A ticket is the session's state, sealed with a key that all shards share; servers keep nothing.
//! Keys are values in a configuration: a new one goes to the shards as part of a new configuration,
//! so no lock is asked at a handshake. A ticket is good for one to two rotations.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use rustls::server::ProducesTickets;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a key seals tickets. Whoever learns a key can read the recorded sessions that it
/// resumed, so it is hours, as in rustls' own ticketer.
pub const ROTATION: Duration = Duration::from_secs(6 * 60 * 60);
/// Which key sealed a ticket, so that the other one is not tried.
const KEY_NAME_BYTES: usize = 4;

/// The key in use and the one before it.
#[derive(Clone)]
pub struct Tickets {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
}

struct Key {
    name: [u8; KEY_NAME_BYTES],
    seal: RandomizedNonceKey,
}

impl Tickets {
    /// With a fresh key.
    pub fn new() -> Result<Tickets, String> {
        Ok(Tickets { current: Arc::new(Key::new()?), previous: None })
    }

    /// With a further fresh key; what the one before the last sealed is worth nothing from now on.
    pub fn rotated(&self) -> Result<Tickets, String> {
        Ok(Tickets { current: Arc::new(Key::new()?), previous: Some(self.current.clone()) })
    }
}

impl Key {
    fn new() -> Result<Key, String> {
        let failed = |_: Unspecified| String::from("the system gives no random bytes");
        let (mut name, mut key) = ([0; KEY_NAME_BYTES], Zeroizing::new([0; 32]));
        aws_lc_rs::rand::fill(&mut name).map_err(failed)?;
        aws_lc_rs::rand::fill(&mut *key).map_err(failed)?;
        let seal = RandomizedNonceKey::new(&AES_256_GCM, &*key).map_err(failed)?;
        Ok(Key { name, seal })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        2 * ROTATION.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = &self.current;
        let mut sealed = plain.to_vec();
        let nonce = key.seal.seal_in_place_append_tag(Aad::from(key.name), &mut sealed).ok()?;
        Some([&key.name, nonce.as_ref().as_slice(), &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(KEY_NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let mut keys = std::iter::once(&self.current).chain(&self.previous);
        let key = keys.find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = sealed.to_vec();
        let plain = key.seal.open_in_place(nonce, Aad::from(key.name), &mut bytes).ok()?;
        Some(plain.to_vec())
    }
}

impl fmt::Debug for Tickets {
    /// No key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tickets")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_open_until_the_second_rotation() {
        let first = Tickets::new().unwrap();
        let ticket = first.encrypt(b"state").unwrap();
        assert_eq!(first.clone().decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        let second = first.rotated().unwrap();
        assert_eq!(second.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        let third = second.rotated().unwrap();
        assert_eq!(third.decrypt(&ticket), None);
        assert_eq!(Tickets::new().unwrap().decrypt(&ticket), None);
    }

    #[test]
    fn a_changed_or_cut_ticket_opens_nothing() {
        let tickets = Tickets::new().unwrap();
        let ticket = tickets.encrypt(b"state").unwrap();
        for place in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[place] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "changed at {place}");
            assert_eq!(tickets.decrypt(&ticket[..place]), None, "cut at {place}");
        }
    }
}
