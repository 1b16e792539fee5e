//! Watches and steers: the control core, which no shard ever waits for.
//!
//! One unpinned executor beside the shards. `refresh` looks after the server (with `probe` and
//! `peer`) and publishes snapshots, `admin` answers operators (with `metrics`), `shards` holds the
//! links to the shards, `certificates` what they encrypt with, `places` where they listen.
//! `ask` is for `boltmux check`. Everything between cores is a value on a ring (`link`); if this
//! core dies, the shards serve on with the last snapshot.

pub mod admin;
pub mod ask;
pub mod certificates;
pub mod link;
pub mod metrics;
mod options;
mod peer;
pub mod places;
mod probe;
mod refresh;
mod shards;
mod wire;

pub use options::Options;

use crate::backend::permits::Permits;
use crate::control::certificates::{Certificates, Encryption, Status};
use crate::control::link::{ShardLink, Snapshot};
use crate::control::shards::Shards;
use crate::transport::runtime::{self, JoinHandle};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

/// How often the flags of `Shutdown` and orders kept back are looked at. Nobody notices a drain
/// that begins a tenth of a second later.
const TICK: Duration = Duration::from_millis(100);

/// Ticks between looks for new certificates: a second, so that a test of a rotation is not boring
/// and a hundred files cost nothing.
const CERTIFICATE_TICKS: u32 = 10;

/// The way out of the process, in two steps; plain flags, so that signal handlers can set them.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Drain, and tell operators that the program is about to end. Shards look at it, too, whenever
    /// they are woken: the control core may have died.
    pub drain: Arc<AtomicBool>,
    /// Read all certificates anew; taken back when that is done.
    pub reload: Arc<AtomicBool>,
    /// The shards have ended: stop the control core.
    pub end: Arc<AtomicBool>,
    /// Tests make a thread panic: 1 the control core, 2 the first shard.
    #[cfg(test)]
    pub planted_panic: Arc<std::sync::atomic::AtomicU8>,
}

/// A control core that runs.
pub struct Running {
    /// Where operators are answered.
    pub admin: Vec<SocketAddr>,
    /// Says that shards know of the server what there is to know at the start: that it was looked
    /// at, with or without success, or that this takes longer than `Options::first_look`.
    pub looked: mpsc::Receiver<()>,
    /// Ends after `Shutdown::end` is set.
    pub thread: JoinHandle<()>,
}

/// Why there is no control core, in one line for the operator.
#[derive(Debug)]
pub enum Trouble {
    /// The kernel has no ring for it.
    Refused(String),
    /// It cannot listen where it should.
    Failed(String),
}

/// Starts `run` on a thread of its own and waits until operators can be answered.
pub fn start(
    options: Options,
    links: Vec<ShardLink>,
    permits: Arc<Permits>,
    shutdown: Shutdown,
) -> Result<Running, Trouble> {
    let (sender, receiver) = mpsc::channel();
    let started = move |outcome| {
        // Nobody listens only if `start` has given up, and then nobody wants to know.
        let _ = sender.send(outcome);
    };
    let (looked_at, looked) = mpsc::channel();
    let start = move || run(options, links, permits, shutdown, looked_at, started);
    let thread = runtime::start_executor("control", None, start).map_err(refused)?;
    let (admin, thread) = wait(&receiver, thread)?;
    Ok(Running { admin, looked, thread })
}

/// Until the thread has said where operators are answered. One that ends without a word could not
/// make its executor, and says why to whoever joins it.
fn wait<T>(
    started: &mpsc::Receiver<Result<T, String>>,
    thread: JoinHandle<()>,
) -> Result<(T, JoinHandle<()>), Trouble> {
    match started.recv() {
        Ok(outcome) => Ok((outcome.map_err(Trouble::Failed)?, thread)),
        Err(_) => Err(match thread.join() {
            Ok(()) => Trouble::Failed("the control core ended at once".to_owned()),
            Err(error) => refused(error),
        }),
    }
}

fn refused(error: io::Error) -> Trouble {
    Trouble::Refused(format!("cannot start the control core: {error}"))
}

/// The control core, to be run on an unpinned executor. `started` is told where operators are
/// answered, or in one line why that cannot be; then `run` ends.
pub async fn run(
    mut options: Options,
    links: Vec<ShardLink>,
    permits: Arc<Permits>,
    shutdown: Shutdown,
    looked: mpsc::Sender<()>,
    started: impl FnOnce(Result<Vec<SocketAddr>, String>),
) {
    let listeners = match admin::bind(options.admin.as_ref()).await {
        Ok(listeners) => listeners,
        Err(trouble) => return started(Err(trouble)),
    };
    let certificates = options.certificates.take().filter(|all| !all.is_empty());
    let encryption = certificates.as_ref().map(Certificates::encryption).unwrap_or_default();
    let status = certificates.as_ref().map(|all| all.status().clone()).unwrap_or_default();
    let core = Rc::new(Core {
        encryption: RefCell::new(Arc::new(encryption)),
        certificates: RefCell::new(status),
        options,
        shards: RefCell::new(Shards::new(links, permits.clone())),
        permits,
        snapshot: RefCell::default(),
        addresses: RefCell::default(),
        is_draining: Cell::new(false),
        operators: Cell::new(0),
    });
    started(Ok(listeners.iter().map(|(address, _)| *address).collect()));
    let serve = |(_, listener)| runtime::spawn_local(admin::serve(core.clone(), listener));
    let _operators: Vec<_> = listeners.into_iter().map(serve).collect();
    let _refresh = runtime::spawn_local(refresh::run(core.clone(), looked));
    let watch = certificates.map(|all| watch(core.clone(), all, shutdown.reload.clone()));
    let _watch = watch.map(runtime::spawn_local);
    while !shutdown.end.load(Relaxed) {
        #[cfg(test)]
        assert_ne!(shutdown.planted_panic.load(Relaxed), 1, "planted");
        if shutdown.drain.load(Relaxed) && !core.is_draining.replace(true) {
            core.shards.borrow_mut().drain();
        }
        core.shards.borrow_mut().deliver();
        runtime::sleep(TICK).await;
    }
}

/// Looks for new certificates, now and then and when told to.
async fn watch(core: Rc<Core>, mut certificates: Certificates, reload: Arc<AtomicBool>) {
    loop {
        for _ in 0..CERTIFICATE_TICKS {
            runtime::sleep(TICK).await;
            if reload.load(Relaxed) {
                break;
            }
        }
        let is_forced = reload.swap(false, Relaxed);
        let look = move || {
            let has_changed = certificates.refresh(is_forced);
            (certificates, has_changed)
        };
        // A panic has been told; what was read last stays in use.
        let Ok((looked, has_changed)) = runtime::run_blocking(look).await else { return };
        certificates = looked;
        core.certificates.replace(certificates.status().clone());
        if has_changed {
            let encryption = Arc::new(certificates.encryption());
            core.encryption.replace(encryption.clone());
            core.shards.borrow_mut().encrypt(&encryption);
        }
    }
}

/// What the tasks of the control core share.
pub(crate) struct Core {
    pub options: Options,
    pub shards: RefCell<Shards>,
    pub permits: Arc<Permits>,
    /// As published last.
    pub encryption: RefCell<Arc<Encryption>>,
    /// What operators are told of certificates.
    pub certificates: RefCell<Status>,
    /// As published last; the default until then.
    pub snapshot: RefCell<Arc<Snapshot>>,
    /// Of the server's name, as soon as there are any.
    pub addresses: RefCell<Vec<SocketAddr>>,
    pub is_draining: Cell<bool>,
    /// Connections of operators now.
    pub operators: Cell<usize>,
}

impl Core {
    fn publish(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        self.shards.borrow_mut().publish(&snapshot);
        self.snapshot.replace(snapshot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ends_without_a_word_is_asked_why() {
        let (sender, receiver) = mpsc::channel::<Result<(), String>>();
        let start = move || async move {
            drop(sender);
            panic!("planted");
        };
        let thread = runtime::start_executor("control", None, start).expect("there are rings");
        let Err(Trouble::Refused(text)) = wait(&receiver, thread) else {
            panic!("expected it to be refused")
        };
        let reason = text.strip_prefix("cannot start the control core: ");
        assert!(reason.is_some_and(|reason| !reason.is_empty()), "{text}");
    }
}
