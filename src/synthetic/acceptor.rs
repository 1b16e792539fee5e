//! The thread that accepts connections. It can pause, and it can end with its listener closed.

use crate::synthetic::world::lock;
use socket2::SockRef;
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A rest after a failed accept: it may be a want of descriptors, and that passes.
const REST: Duration = Duration::from_millis(100);

/// A thread that blocks in `accept`; shutting the listener down ends that.
pub struct Acceptor {
    listener: Arc<TcpListener>,
    gate: Arc<Gate>,
    join: thread::JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    Open,
    Paused,
    Ended,
}

impl Acceptor {
    /// Gives each accepted socket to `deal`, until that returns false. The sockets reset when they
    /// are dropped.
    pub fn start(
        listener: TcpListener,
        deal: impl Fn(OwnedFd) -> bool + Send + 'static,
    ) -> Result<Acceptor, String> {
        let listener = Arc::new(listener);
        let gate = Arc::new(Gate { passage: Mutex::new(Passage::Open), changed: Condvar::new() });
        let (socket, passage) = (listener.clone(), gate.clone());
        let thread = thread::Builder::new().name("bolt-accept".into());
        let join = thread.spawn(move || accept_all(&socket, &passage, deal));
        let join = join.map_err(|error| format!("expected a thread for accepting: {error}"))?;
        Ok(Acceptor { listener, gate, join })
    }

    pub fn set(&self, passage: Passage) {
        *lock(&self.gate.passage) = passage;
        self.gate.changed.notify_all();
    }

    /// Closes the listener: what waited to be accepted is reset by the kernel.
    pub fn end(self) {
        self.set(Passage::Ended);
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        let _ = self.join.join();
    }
}

struct Gate {
    passage: Mutex<Passage>,
    changed: Condvar,
}

impl Gate {
    /// Waits out a pause; false at the end.
    fn pass(&self) -> bool {
        let is_paused = |passage: &mut Passage| *passage == Passage::Paused;
        let passage = self.changed.wait_while(lock(&self.passage), is_paused);
        *passage.unwrap_or_else(PoisonError::into_inner) == Passage::Open
    }

    fn rest(&self) {
        let is_open = |passage: &mut Passage| *passage == Passage::Open;
        drop(self.changed.wait_timeout_while(lock(&self.passage), REST, is_open));
    }
}

fn accept_all(listener: &TcpListener, gate: &Gate, deal: impl Fn(OwnedFd) -> bool) {
    loop {
        let accepted = listener.accept();
        if !gate.pass() {
            return;
        }
        let Ok((stream, _)) = accepted else {
            gate.rest();
            continue;
        };
        // Only a socket that is gone already refuses this, and that one needs no reset.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        if !deal(stream.into()) {
            return;
        }
    }
}
