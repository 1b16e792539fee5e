//! A server connection that is one client's for a while: a value whose end always gives the
//! connection back.

use crate::backend::Discard;
use crate::backend::cleaner::Cleaner;
use crate::backend::keeper::Backend;
use crate::backend::pool::ServerId;
use crate::transport::stream::Stream;
use std::rc::Rc;

/// Dropped without a word, the connection is closed: nobody knows what is unread on it.
pub struct Lease {
    backend: Rc<Backend>,
    id: ServerId,
    conn: Option<Stream>,
}

impl Lease {
    pub(super) fn new(backend: Rc<Backend>, id: ServerId, conn: Stream) -> Lease {
        Lease { backend, id, conn: Some(conn) }
    }

    pub fn conn(&self) -> &Stream {
        self.conn.as_ref().expect("only the methods that end a lease take it")
    }

    /// READY, nothing owed, nothing unread.
    pub fn check_in(mut self) {
        if let Some(conn) = self.conn.take() {
            self.backend.check_in(self.id, conn);
        }
    }

    /// RESET and prove before anybody else has it; `rest` has come already.
    pub fn clean(mut self, cleaner: Cleaner, rest: &[u8]) {
        if let Some(conn) = self.conn.take() {
            self.backend.clean(self.id, conn, cleaner, rest);
        }
    }

    /// Of no more use.
    pub fn discard(mut self, why: Discard) {
        if let Some(conn) = self.conn.take() {
            self.backend.discard(self.id, conn, why);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.backend.discard(self.id, conn, Discard::HalfMessage);
        }
    }
}
