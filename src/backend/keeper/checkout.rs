//! Idle connections on their way to clients: looked at once more, so that nobody gets one that has
//! ended.

use super::*;

/// What the ring has told is believed for so long; then a checkout looks again, so that a server
/// that has ended is seen before the first byte. A busy shard looks much more often by itself.
const STALE_AFTER: Duration = Duration::from_millis(1);

/// When checkouts last looked at what the ring has to tell.
#[derive(Default)]
pub(super) struct Looked(Cell<Duration>);

impl Looked {
    /// Whether it is time to look again; if so, whoever asks does.
    fn is_due(&self, now: Duration) -> bool {
        let is_due = now.saturating_sub(self.0.get()) > STALE_AFTER;
        if is_due {
            self.0.set(now);
        }
        is_due
    }
}

impl Backend {
    /// An idle connection, if it is still quiet.
    pub(super) fn check_out(self: &Rc<Self>, id: ServerId) -> Option<Lease> {
        match self.take_quiet(id)? {
            Ok(lease) => Some(lease),
            Err((conn, why)) => {
                self.discard(id, conn, why);
                None
            }
        }
    }

    /// An idle connection, or why it is of no use; `None`: it is closed already.
    fn take_quiet(self: &Rc<Self>, id: ServerId) -> Option<Result<Lease, (Stream, Discard)>> {
        let now = self.now();
        if self.looked.is_due(now) {
            self.driver.catch_up();
        }
        let conn = self.conns.borrow_mut().remove(&id)?;
        if conn.is_quiet() {
            return Some(Ok(Lease::new(self.clone(), id, conn)));
        }
        let why = if conn.has_ended() { Discard::ServerClosed } else { Discard::Unread };
        Some(Err((conn, why)))
    }

    pub(super) fn grant(self: &Rc<Self>, ticket: Ticket, id: ServerId) {
        let lease = match self.take_quiet(id) {
            Some(Ok(lease)) => lease,
            lost => {
                // Nothing was sent on it: whoever waits for it waits for the next one. The pool
                // hears of that first: a close may end at once, and then nobody knows the grant.
                let (now, mut why) = (self.now(), Discard::ServerClosed);
                if let Some(Err((conn, found))) = lost {
                    self.conns.borrow_mut().insert(id, conn);
                    why = found;
                }
                self.pool.borrow_mut().close(id, why);
                let is_waiting = self.waiting.borrow().contains_key(&ticket);
                if is_waiting {
                    self.pool.borrow_mut().grant_lost(id, now);
                }
                return;
            }
        };
        let mut waiting = self.waiting.borrow_mut();
        let Some(slot) = waiting.get_mut(&ticket) else {
            drop(waiting); // whoever gets the connection now is woken through it
            return lease.check_in();
        };
        slot.result = Some(Ok(lease));
        if let Some(waker) = slot.waker.take() {
            self.driver.note_wake();
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkouts_in_quick_succession_look_now_and_then() {
        let looked = Looked::default();
        let step = STALE_AFTER / 2;
        let due = (1..=100).filter(|&count| looked.is_due(step * count)).count();
        assert!((30..=50).contains(&due), "{due} of 100 within 50 ms");
    }
}
