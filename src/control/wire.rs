//! A socket of the control core's executor, plain or with TLS over it.

use crate::transport::tls::client::Uplink;
use crate::transport::tls::{Fed, Session};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use std::io::{self, IoSlice};
use std::net::Shutdown;

/// Answers of a few hundred bytes are read with it.
const READ_BYTES: usize = 4 << 10;

pub struct Wire {
    stream: TcpStream,
    session: Option<Box<Session>>,
}

impl Wire {
    pub fn plain(stream: TcpStream) -> Wire {
        Wire { stream, session: None }
    }

    /// Makes the TLS handshake; nothing must have been read or written.
    pub async fn encrypt(&mut self, uplink: &Uplink) -> io::Result<()> {
        let tls = rustls::ClientConnection::new(uplink.config.clone(), uplink.name.clone());
        let session = Session::client(tls.map_err(io::Error::other)?);
        self.session = Some(Box::new(session));
        self.flush().await?;
        let mut early = Vec::new();
        while self.session.as_ref().is_some_and(|session| session.is_handshaking()) {
            if self.receive(&mut early).await? == 0 {
                let text = "the server ended the connection during the TLS handshake";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
        match early.is_empty() {
            true => Ok(()),
            false => Err(io::Error::other("expected the server to wait for us, it spoke first")),
        }
    }

    /// What was agreed on, for people.
    pub fn encryption(&self) -> Option<String> {
        self.session.as_ref().map(|session| session.describe())
    }

    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.session {
            None => self.stream.write_all(bytes).await,
            Some(session) => match session.write(&[IoSlice::new(bytes)]) {
                true => self.flush().await,
                false => Err(io::ErrorKind::BrokenPipe.into()),
            },
        }
    }

    /// Puts what comes next behind `received`; 0 is the end.
    pub async fn read(&mut self, received: &mut Vec<u8>) -> io::Result<usize> {
        let before = received.len();
        // Records may come that tell nothing, such as session tickets.
        while self.receive(received).await? > 0 {
            if received.len() > before {
                break;
            }
        }
        Ok(received.len() - before)
    }

    /// Ends our direction.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        if let Some(session) = &mut self.session {
            session.close();
            self.flush().await?;
        }
        self.stream.shutdown(Shutdown::Write).await.map_err(io::Error::from)
    }

    /// Reads once; 0 is the end, anything else need not have brought plaintext.
    async fn receive(&mut self, received: &mut Vec<u8>) -> io::Result<usize> {
        let mut buffer = [0; READ_BYTES];
        let count = self.stream.read(&mut buffer).await?;
        let Some(session) = &mut self.session else {
            received.extend_from_slice(&buffer[..count]);
            return Ok(count);
        };
        let fed = session.feed(&buffer[..count], received);
        self.flush().await?;
        match fed {
            Fed::Open => Ok(count),
            Fed::Closed => Ok(0),
            Fed::Failed(why) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let mut out = Vec::new();
        session.take_output(&mut out);
        match out.is_empty() {
            true => Ok(()),
            false => self.stream.write_all(&out).await,
        }
    }
}
