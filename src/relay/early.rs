//! Clients that came before any server was reached, and are woken when there is news of one.
//!
//! Owns their wakers, one for each client however often it is polled, and none of those who left.

use slab::Slab;
use std::cell::RefCell;
use std::task::{Context, Waker};

/// Of one shard.
#[derive(Default)]
pub struct EarlyClients {
    wakers: RefCell<Slab<Waker>>,
}

/// A client's place among them; dropping it gives the place up.
pub struct EarlyClient<'a> {
    all: &'a EarlyClients,
    place: Option<usize>,
}

impl EarlyClients {
    pub fn enter(&self) -> EarlyClient<'_> {
        EarlyClient { all: self, place: None }
    }

    /// Wakes all of them; `note` is called before each.
    pub fn wake(&self, note: impl Fn()) {
        for (_, waker) in self.wakers.borrow().iter() {
            note();
            waker.wake_by_ref();
        }
    }
}

impl EarlyClient<'_> {
    /// To be woken at the next news.
    pub fn stay(&mut self, cx: &Context<'_>) {
        let mut wakers = self.all.wakers.borrow_mut();
        match self.place {
            Some(place) => wakers[place].clone_from(cx.waker()),
            None => self.place = Some(wakers.insert(cx.waker().clone())),
        }
    }
}

impl Drop for EarlyClient<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.all.wakers.borrow_mut().remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_client_has_one_place_and_gives_it_up() {
        let (all, woken) = (EarlyClients::default(), Cell::new(0));
        let mut clients: Vec<_> = (0..3).map(|_| all.enter()).collect();
        let cx = Context::from_waker(Waker::noop());
        for client in &mut clients {
            (0..100).for_each(|_| client.stay(&cx));
        }
        let wake = || {
            woken.set(0);
            all.wake(|| woken.set(woken.get() + 1));
            woken.get()
        };
        assert_eq!(wake(), 3);
        clients.remove(1);
        assert_eq!(wake(), 2);
        drop(clients);
        assert_eq!(wake(), 0);
    }
}
