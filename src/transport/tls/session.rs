//! One TLS conversation without its socket: ciphertext in, plaintext out, and the other way round.
//!
//! Owns the rustls connection and its bounds. Does no input or output and reads no clock but
//! rustls' own for certificates. What peers send can only end it with an error.
//!
//! Invariants: nothing decrypted stays inside rustls (`feed` takes all of it out), and nothing
//! encrypted does (`take_output` empties it), so both of rustls' buffers are empty between calls.

use crate::transport::tls::explain;
use rustls::{ClientConnection, Connection, HandshakeKind, ServerConnection};
use std::io::{self, BufRead, IoSlice, Write};

/// Bytes that a peer may send before the handshake is done: rustls bounds one message at 64 KiB,
/// and no honest peer needs more than one of them.
const HANDSHAKE_BYTES_MAX: usize = 128 << 10;

/// See the module.
pub struct Session {
    tls: Connection,
    /// Bytes received while the handshake went on.
    handshake_bytes: usize,
}

/// What fed bytes have brought about, besides plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fed {
    /// More may come.
    Open,
    /// The peer has said that it sends nothing more.
    Closed,
    /// The peer is not believed; in one line why. An alert is in the output.
    Failed(String),
}

impl Session {
    /// Of an accepted client.
    pub fn server(tls: ServerConnection) -> Session {
        Session { tls: tls.into(), handshake_bytes: 0 }
    }

    /// Towards a server; the first output is the ClientHello.
    pub fn client(tls: ClientConnection) -> Session {
        Session { tls: tls.into(), handshake_bytes: 0 }
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the handshake went on from an earlier session; known once it is done.
    pub fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Takes ciphertext; what it decrypts to is put behind `plain`.
    pub fn feed(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Fed {
        let was_handshaking = self.tls.is_handshaking();
        if was_handshaking {
            self.handshake_bytes += bytes.len();
            if self.handshake_bytes > HANDSHAKE_BYTES_MAX {
                return Fed::Failed(format!(
                    "expected a TLS handshake of at most {HANDSHAKE_BYTES_MAX} bytes"
                ));
            }
        }
        while !bytes.is_empty() {
            match self.tls.read_tls(&mut bytes) {
                Ok(0) => return Fed::Closed,
                Ok(_) => {}
                Err(error) => return Fed::Failed(error.to_string()),
            }
            let state = match self.tls.process_new_packets() {
                Ok(state) => state,
                Err(error) => return Fed::Failed(explain::error(&error)),
            };
            let mut left = state.plaintext_bytes_to_read();
            plain.reserve(left);
            let mut reader = self.tls.reader();
            while left > 0 {
                let Ok(piece) = reader.fill_buf() else { break };
                let length = piece.len();
                plain.extend_from_slice(piece);
                reader.consume(length);
                left = left.saturating_sub(length.max(1));
            }
            if state.peer_has_closed() {
                return Fed::Closed;
            }
        }
        if was_handshaking && !self.tls.is_handshaking() {
            // From now on its output is taken after every write, so it needs no limit of its own.
            self.tls.set_buffer_limit(None);
        }
        Fed::Open
    }

    /// Encrypts spans; those of one call share records. During the handshake rustls keeps up to 64
    /// KiB of them. False if that is not enough, or the session has failed.
    #[must_use]
    pub fn write(&mut self, spans: &[IoSlice<'_>]) -> bool {
        let length: usize = spans.iter().map(|span| span.len()).sum();
        let taken = match spans {
            [span] => self.tls.writer().write(span),
            _ => self.tls.writer().write_vectored(spans),
        };
        taken.is_ok_and(|taken| taken == length)
    }

    /// Says that nothing more will be sent.
    pub fn close(&mut self) {
        self.tls.send_close_notify();
    }

    /// Whether `take_output` has something.
    pub fn has_output(&self) -> bool {
        self.tls.wants_write()
    }

    /// Puts what is to be sent behind `out`.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        let mut sink = Sink(out);
        while self.tls.wants_write() {
            self.tls.write_tls(&mut sink).expect("a vector takes everything");
        }
    }

    /// What was agreed on, for logs.
    pub fn describe(&self) -> String {
        let version = self.tls.protocol_version().and_then(|version| version.as_str());
        let suite = self.tls.negotiated_cipher_suite().and_then(|it| it.suite().as_str());
        format!("{} {}", version.unwrap_or("?"), suite.unwrap_or("?"))
    }
}

/// Takes all slices of a vectored write; that of `Vec` would, too, but asks for each of them.
struct Sink<'a>(&'a mut Vec<u8>);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        slices.iter().for_each(|slice| self.0.extend_from_slice(slice));
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
