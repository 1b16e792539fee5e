//! The handshake of a relayed session: followed as far as it takes to know the version, and where
//! the messages begin.

use super::*;
use crate::wire::handshake::{self, Choice, HandshakeError};
use crate::wire::limits::VARINT_BYTES_MAX;

/// Longest client's answer to a manifest: a version and the capabilities.
const CHOICE_BYTES_MAX: usize = 4 + VARINT_BYTES_MAX;

impl Passthrough {
    /// The server's answer goes on in one piece: some drivers read it out of a single buffer.
    pub(super) fn server_handshake(&mut self, input: &[u8], pipes: &mut impl Pipes) {
        let before = self.stash.len();
        self.stash.extend_from_slice(input);
        let Some(answer) = self.stash.first_chunk::<4>() else { return };
        let (length, phase) = match handshake::parse_answer(answer) {
            Ok(Choice::Version(version)) => (4, Phase::Messages(version)),
            // One that is newer than boltmux has the messages that the newest known one has.
            Err(HandshakeError::UnknownVersion { major: major @ 1..=0xFE, minor }) => {
                (4, Phase::Messages(Version::new(major, minor)))
            }
            Ok(Choice::Manifest) => match handshake::parse_manifest(&self.stash) {
                Ok(None) => return, // its length is bounded by the number of entries
                Ok(Some((length, _))) => (length, Phase::Choice),
                Err(_) => (self.stash.len(), Phase::Unfollowed),
            },
            Ok(Choice::None) | Err(_) => (self.stash.len(), Phase::Unfollowed),
        };
        self.stash.truncate(length);
        self.flush(pipes);
        self.phase = if self.proposals_left == 0 { phase } else { Phase::Unfollowed };
        let unread = mem::take(&mut self.unread);
        self.client_handshake(&unread);
        let at = length - before;
        if at < input.len() {
            match self.phase {
                Phase::Messages(version) => self.relay_replies(version, input, at, pipes),
                _ => pipes.to_client(at..input.len()),
            }
        }
    }

    /// Looks at what the client sends before messages can be read.
    pub(super) fn client_handshake(&mut self, input: &[u8]) {
        let skipped = self.proposals_left.min(input.len());
        self.proposals_left -= skipped;
        let mut rest = &input[skipped..];
        while self.phase == Phase::Choice
            && let [byte, more @ ..] = rest
        {
            rest = more;
            self.unread.push(*byte);
            self.read_choice();
        }
        match self.phase {
            Phase::Messages(_) => self.read_requests(rest),
            Phase::Answer if self.unread.len() + rest.len() <= REQUEST_READ_MAX => {
                if !rest.is_empty() {
                    // At once in full size, so that no copy of a secret is left behind.
                    let room = REQUEST_READ_MAX - self.unread.len();
                    self.unread.reserve_exact(room);
                    self.unread.extend_from_slice(rest);
                }
            }
            Phase::Answer => {
                self.phase = Phase::Unfollowed;
                self.unread = Zeroizing::new(Vec::new());
            }
            Phase::Choice | Phase::Unfollowed => {}
        }
    }

    fn read_choice(&mut self) {
        let Some(([_, _, minor, major], mask)) = self.unread.split_first_chunk::<4>() else {
            return;
        };
        let is_whole = mask.last().is_some_and(|byte| byte & 0x80 == 0);
        if !is_whole && self.unread.len() < CHOICE_BYTES_MAX {
            return;
        }
        let is_version = is_whole && *major > 0;
        let version = Version::new(*major, *minor);
        self.phase = if is_version { Phase::Messages(version) } else { Phase::Unfollowed };
        self.unread = Zeroizing::new(Vec::new());
    }
}
