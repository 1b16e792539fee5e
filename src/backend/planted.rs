//! Mistakes that tests switch on to prove that the simulation would see them. Release builds have
//! none.

#[cfg(debug_assertions)]
use std::rc::Rc;

/// One mistake, named by what it leaves out or does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A failed connection goes back to the pool without RESET.
    SkipReset,
    /// A connection with unread bytes is used again.
    ReuseUnread,
    /// After a local failure the rest of the pipeline is forwarded.
    ForwardAfterFailure,
    /// A RUN is sent again on another connection after a loss.
    ReplayRun,
    /// An IGNORED of the server is not relayed.
    DropIgnored,
    /// LOGOFF leaves the identity in place.
    ForgetLogoff,
    /// The pool's key leaves out the credentials.
    SharePool,
    /// A no-op chunk is taken for a summary.
    NoopAsMessage,
    /// A forwarded span ends one byte early and the byte is dropped.
    OffByOne,
    /// A connection is returned twice.
    DoubleReturn,
    /// LOGON is answered before the server has.
    AnswerBeforeLogon,
    /// A vanished client's connection is returned as clean.
    KeepVanished,
    /// A lost COMMIT is reported with a transient code.
    TransientCommit,
    /// A waiter does not look at the count again after saying that it waits.
    NoSecondLook,
    /// A connection is lent although a byte of it is unread.
    LendUnread,
    /// An approval lives on after the server said Unauthorized.
    StaleApproval,
    /// A connection that is turned over to another user is lent before LOGON is answered.
    SendBeforeLogon,
    /// A connection that is turned over logs on as the user it had before.
    KeepIdentity,
    /// A connection is turned over to a user whose approval has ended.
    TurnUnapproved,
}

impl Bug {
    pub const ALL: [Bug; 19] = [
        Bug::SkipReset,
        Bug::ReuseUnread,
        Bug::ForwardAfterFailure,
        Bug::ReplayRun,
        Bug::DropIgnored,
        Bug::ForgetLogoff,
        Bug::SharePool,
        Bug::NoopAsMessage,
        Bug::OffByOne,
        Bug::DoubleReturn,
        Bug::AnswerBeforeLogon,
        Bug::KeepVanished,
        Bug::TransientCommit,
        Bug::NoSecondLook,
        Bug::LendUnread,
        Bug::StaleApproval,
        Bug::SendBeforeLogon,
        Bug::KeepIdentity,
        Bug::TurnUnapproved,
    ];
}

/// The mistake that is switched on, if any. Compiled out without debug assertions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted(Option<Bug>);

impl Planted {
    pub fn bug(bug: Bug) -> Planted {
        Planted(Some(bug))
    }

    /// Whether the code should do this wrong.
    #[inline]
    pub fn has(self, bug: Bug) -> bool {
        cfg!(debug_assertions) && self.0 == Some(bug)
    }
}

/// What a test lets another core do in the midst of a step here. Compiled out without debug
/// assertions.
#[derive(Clone, Default)]
pub struct Interleave(#[cfg(debug_assertions)] Option<Rc<dyn Fn()>>);

impl Interleave {
    #[cfg(debug_assertions)]
    pub fn new(other: Rc<dyn Fn()>) -> Interleave {
        Interleave(Some(other))
    }

    #[inline]
    pub fn run(&self) {
        #[cfg(debug_assertions)]
        if let Some(other) = &self.0 {
            other();
        }
    }
}
