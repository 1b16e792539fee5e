//! Accepting: what came waits here, and a pause when descriptors run out.
//!
//! Invariant: a listener has one multishot accept armed, or a pause on the wheel, or was stopped.

use crate::transport::ring::{self, Cqe};
use crate::transport::socket::{Key, Operation, user_data};
use crate::transport::state::{State, Timer, millis};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::Waker;
use std::time::Duration;

/// After an error accept tries again so much later: out of descriptors, each try would fail at
/// once, and the clients that are in need the time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub struct Listening {
    /// `None` once it was stopped; what had been accepted is still handed out.
    socket: Option<OwnedFd>,
    pub accepted: VecDeque<OwnedFd>,
    pub waker: Option<Waker>,
}

impl State {
    /// Starts accepting on `socket`; returns its number.
    pub fn listen(&mut self, socket: OwnedFd) -> u32 {
        let number = self.listeners.len() as u32;
        let accepted = VecDeque::new();
        self.listeners.push(Listening { socket: Some(socket), accepted, waker: None });
        self.arm_accept(number);
        number
    }

    /// Ends accepting everywhere; connections that wait in the kernel are refused.
    pub fn stop_listening(&mut self) {
        for (number, listener) in (0..).zip(&mut self.listeners) {
            if listener.socket.take().is_some() {
                let silent = user_data(Operation::Silent, accept_key(number));
                self.ring.cancel(user_data(Operation::Accept, accept_key(number)), silent);
            }
        }
    }

    pub fn arm_accept(&mut self, number: u32) {
        if let Some(socket) = &self.listeners[number as usize].socket {
            let data = user_data(Operation::Accept, accept_key(number));
            self.ring.accept(socket.as_raw_fd(), data);
        }
    }

    pub fn on_accept(&mut self, number: u32, cqe: Cqe) {
        let listener = &mut self.listeners[number as usize];
        match cqe.accepted() {
            Some(socket) => {
                self.counters.accepted += 1;
                listener.accepted.push_back(socket);
            }
            // That client gave up; the others go on.
            None if cqe.result == -libc::ECONNABORTED => {}
            None if listener.socket.is_some() => {
                self.counters.accept_pauses += 1;
                let end = millis(ring::monotonic() + ACCEPT_PAUSE);
                self.wheel.insert(end, Timer::Accept(number));
                return;
            }
            None => return,
        }
        let waker = listener.waker.take();
        if !cqe.more() {
            self.arm_accept(number);
        }
        self.wake(waker);
    }
}

fn accept_key(number: u32) -> Key {
    Key { index: number, generation: 0 }
}
