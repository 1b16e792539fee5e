//! Where the server is and what it speaks, kept up to date: looks its name up, probes it, and
//! publishes a snapshot to the shards whenever something has changed.
//!
//! While all is well a probe is a handshake every few seconds, and HELLO with every look-up of the
//! name. A different answer, or one after a silence, makes it learn everything anew, so a rolling
//! upgrade is seen. What was learned is kept while the server cannot be reached.
//!
//! A probe holds one permit of the server from before the dial until the connection has ended, and
//! is left out when none is free: then the shards' own work shows whether the server is there.

use crate::control::link::Snapshot;
use crate::control::peer::Sighting;
use crate::control::probe::{self, Learned, Target};
use crate::control::{Core, Options};
use crate::transport::address::Address;
use crate::transport::ring::monotonic;
use crate::transport::runtime::{self, Task};
use crate::wire::error::{shown, shown_up_to};
use crate::wire::message::Auth;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

/// A look-up that is not done by then goes on beside the probes, if there are addresses already.
const LOOK_UP_PATIENCE: Duration = Duration::from_millis(100);
/// Addresses of one name that are asked in a turn: a dual-stacked name of a few machines fits.
pub(super) const ADDRESSES_MAX: usize = 8;
/// In connect timeouts: a server without a manifest takes a dozen connections, and one that is
/// late at each of them should not hold a permit for long.
pub(super) const LEARN_LIMIT_FACTOR: u32 = 4;
/// Of a trouble in the log: each address of a name may have one of its own.
const TROUBLE_LETTERS_MAX: usize = 1000;

/// Runs until it is dropped; `looked` hears when the shards have been told of the server for the
/// first time, and of every turn.
pub async fn run(core: Rc<Core>, looked: mpsc::Sender<()>) {
    let _unanswered = runtime::spawn_local(tell_unanswered(core.clone(), looked.clone()));
    let mut refresh = Refresh::new(core);
    loop {
        let pause = refresh.turn().await;
        refresh.publish();
        let _ = looked.send(()); // only the start listens, and only once
        runtime::sleep(pause).await;
    }
}

/// A server that is slow at the first look, or silent, must not keep clients waiting without a
/// word: who comes then is told that it cannot be reached.
async fn tell_unanswered(core: Rc<Core>, looked: mpsc::Sender<()>) {
    let limit = core.options.first_look;
    runtime::sleep(limit).await;
    if **core.snapshot.borrow() != Snapshot::default() {
        return;
    }
    let trouble = format!("it has not answered within {} s of the start", limit.as_secs_f64());
    let Options { host, port, .. } = &core.options;
    let name = Address { host: host.clone(), port: *port };
    tracing::warn!("the server {name}: {trouble}; clients are accepted all the same");
    let addresses = core.addresses.borrow().clone();
    core.publish(Snapshot { addresses, trouble, ..Snapshot::default() });
    let _ = looked.send(());
}

struct Refresh {
    core: Rc<Core>,
    name: Address,
    look_up: Option<Task<io::Result<Vec<SocketAddr>>>>,
    looked_up_at: Option<Duration>,
    /// For servers up to Bolt 5.0; gone once one has refused it.
    login: Option<Auth>,
    learned: Option<Learned>,
    learned_at: Duration,
    /// Whatever the time is: the addresses have changed.
    is_learning_due: bool,
    /// What is to be published.
    view: Snapshot,
    /// Failed probes in a row.
    failures: u32,
    /// What the shards had got done when a probe was left out; `None` since the last failed one.
    work_done: Option<u64>,
    random: RandomState,
}

impl Refresh {
    fn new(core: Rc<Core>) -> Refresh {
        let options = &core.options;
        let name = Address { host: options.host.clone(), port: options.port };
        let password = options.password.as_ref();
        let login =
            password.map(|password| Auth::from_parts("basic", &options.user, password.expose()));
        Refresh {
            core,
            name,
            look_up: None,
            looked_up_at: None,
            login,
            learned: None,
            learned_at: Duration::ZERO,
            is_learning_due: true,
            view: Snapshot::default(),
            failures: 0,
            work_done: None,
            random: RandomState::new(),
        }
    }

    /// Looks and probes once; how long to wait then.
    async fn turn(&mut self) -> Duration {
        self.look_up().await;
        let options = &self.core.options;
        if self.view.addresses.is_empty() {
            return self.failed(self.view.trouble.clone());
        }
        if !options.monitor {
            self.view.is_reachable = true;
            return options.resolve_interval;
        }
        if self.core.is_draining.get() {
            return options.probe_interval;
        }
        if !self.core.permits.try_take() {
            return self.left_out();
        }
        let outcome = self.probe_all().await;
        self.core.shards.borrow_mut().release();
        match outcome {
            Ok(()) => self.succeeded(),
            Err(trouble) => self.failed(trouble),
        }
    }

    /// No permit is free. A server that was lost would stay so for as long as its pool is full, so
    /// work that the shards got done since then counts as a probe that succeeded.
    fn left_out(&mut self) -> Duration {
        if self.view.is_reachable {
            return self.core.options.probe_interval;
        }
        let mut shards = self.core.shards.borrow_mut();
        shards.ask();
        let work = shards.work_done();
        drop(shards);
        if self.work_done.replace(work).is_some_and(|before| work > before) {
            return self.succeeded();
        }
        self.core.options.retry_min
    }

    /// Takes new addresses over if there are any; those known stay when a look-up fails.
    async fn look_up(&mut self) {
        let options = &self.core.options;
        let is_first = self.view.addresses.is_empty();
        let interval = if self.failures > 0 { options.retry_max } else { options.resolve_interval };
        let is_due = |at| monotonic().saturating_sub(at) >= interval;
        if self.look_up.is_none() && self.looked_up_at.is_none_or(is_due) {
            let name = self.name.clone();
            self.look_up = Some(runtime::spawn_local(async move { name.resolve().await }));
            self.looked_up_at = Some(monotonic());
        }
        let Some(task) = &mut self.look_up else { return };
        let patience = if is_first { options.connect_timeout } else { LOOK_UP_PATIENCE };
        let outcome = runtime::within(patience, task).await;
        if outcome.is_some() {
            self.look_up = None;
        }
        match outcome {
            Some(Ok(found)) => self.adopt(found),
            Some(Err(error)) if is_first => {
                self.view.trouble = format!("cannot resolve {}: {error}", self.name.host);
            }
            None if is_first => {
                self.view.trouble = format!("no answer of the resolver for {}", self.name.host);
            }
            Some(Err(_)) | None => {}
        }
    }

    /// The same addresses in another order are no change: resolvers turn their answers around.
    fn adopt(&mut self, found: Vec<SocketAddr>) {
        let known = &self.view.addresses;
        let is_same = known.len() == found.len() && found.iter().all(|one| known.contains(one));
        if !is_same {
            self.core.addresses.replace(found.clone());
            self.view.addresses = found;
            self.is_learning_due = true;
        }
    }

    /// Asks the addresses in turn until one answers, and puts that one first.
    async fn probe_all(&mut self) -> Result<(), String> {
        let mut troubles = Vec::new();
        for index in 0..self.view.addresses.len().min(ADDRESSES_MAX) {
            match self.probe(self.view.addresses[index]).await {
                Ok(()) => {
                    self.view.addresses[..=index].rotate_right(1);
                    return Ok(());
                }
                Err(trouble) => troubles.push(trouble),
            }
        }
        Err(troubles.join("; "))
    }

    async fn probe(&mut self, address: SocketAddr) -> Result<(), String> {
        let options = &self.core.options;
        let encryption = self.core.encryption.borrow().clone();
        let target = Target {
            address,
            step_limit: options.connect_timeout,
            tls: encryption.uplink.as_ref(),
            opening: options.proxy_protocol,
            login: self.login.as_ref(),
        };
        let before = self.learned.as_ref().filter(|_| self.failures == 0);
        let is_old = monotonic().saturating_sub(self.learned_at) >= options.resolve_interval;
        if let Some(before) = before.filter(|_| !is_old && !self.is_learning_due) {
            let sighting = probe::look(&target).await?;
            // Who closes in silence may have nobody behind it: only more questions tell.
            if sighting == before.sighting && sighting != Sighting::Closed {
                return Ok(());
            }
        }
        let limit = options.connect_timeout * LEARN_LIMIT_FACTOR;
        let learned = runtime::within(limit, probe::learn(&target, before)).await;
        let learned = learned.unwrap_or_else(|| {
            Err(format!("{address}: it took too long to learn what it speaks: is it overloaded?"))
        })?;
        self.remember(learned);
        Ok(())
    }

    fn remember(&mut self, learned: Learned) {
        if let Some(code) = learned.login_refused.as_deref().map(shown) {
            tracing::warn!(
                "the server {} refuses the monitor's login with {code}; it is not tried \
                 again: correct uplink.user and uplink.password, then restart",
                self.name
            );
            self.login = None;
        }
        let is_news = self.view.known.as_ref() != Some(&learned.known);
        self.view.known = Some(learned.known.clone());
        self.learned = Some(learned);
        self.learned_at = monotonic();
        self.is_learning_due = false;
        // After a failure `succeeded` tells the same.
        if is_news && self.failures == 0 {
            tracing::info!("the server {} is {}", self.name, self.describe());
        }
    }

    fn describe(&self) -> String {
        let Some(known) = &self.view.known else { return "not known yet".into() };
        let versions: Vec<String> = known.versions.iter().map(ToString::to_string).collect();
        format!("{}, Bolt {}", shown(&known.agent), versions.join(", "))
    }

    fn succeeded(&mut self) -> Duration {
        if self.failures > 0 {
            let (name, description) = (&self.name, self.describe());
            tracing::info!("the server {name} can be reached: it is {description}");
        }
        self.failures = 0;
        self.view.is_reachable = true;
        self.view.trouble.clear();
        self.core.options.probe_interval
    }

    fn failed(&mut self, trouble: String) -> Duration {
        // It may quote a server, for instance its certificate's names.
        let trouble = shown_up_to(&trouble, TROUBLE_LETTERS_MAX);
        if self.failures == 0 {
            tracing::warn!("the server {} cannot be reached: {trouble}; trying on", self.name);
        }
        self.failures = self.failures.saturating_add(1);
        self.view.is_reachable = false;
        self.view.trouble = trouble;
        // Should the next probe be left out, it can compare with these counts.
        self.work_done = None;
        self.core.shards.borrow_mut().ask();
        let options = &self.core.options;
        let random = self.random.hash_one(self.failures);
        pause_after(self.failures, options.retry_min, options.retry_max, random)
    }

    fn publish(&self) {
        if self.view != **self.core.snapshot.borrow() {
            self.core.publish(self.view.clone());
        }
    }
}

/// Doubles from `min` to `max`, less up to a quarter, so that many proxies do not ask at once.
fn pause_after(failures: u32, min: Duration, max: Duration, random: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let pause = min.saturating_mul(1 << doublings).min(max);
    pause.mul_f64(1.0 - 0.25 * (random as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_vary() {
        let (min, max) = (Duration::from_millis(250), Duration::from_secs(2));
        let longest = |failures| pause_after(failures, min, max, 0).as_millis();
        assert_eq!([1, 2, 3, 4, 5].map(longest), [250, 500, 1000, 2000, 2000]);
        assert_eq!(longest(u32::MAX), 2000);
        let shortest = pause_after(4, min, max, u64::MAX);
        assert_eq!(shortest.as_millis(), 1500);
    }
}
