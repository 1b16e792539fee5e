//! What an operator is told of io_uring: why there is none, and what it cannot do for now.
//!
//! Owns the words and how often they are said; what follows from them is the ring's.

use crate::transport::ring::monotonic;
use std::io;
use std::time::Duration;

/// How often a shard complains of the same: whoever reads it needs no more than once a minute.
const PERIOD: Duration = Duration::from_secs(60);

/// One line for the operator: what refused, and what to change.
pub fn explain(error: &io::Error) -> String {
    let cure = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "allow it: sysctl kernel.io_uring_disabled=0, or a seccomp profile with io_uring"
        }
        Some(libc::ENOSYS) => {
            "the kernel or its seccomp profile has no io_uring; Linux 6.1 or newer is needed"
        }
        Some(libc::EINVAL) => "Linux 6.1 or newer is needed",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n)",
        Some(libc::ENOMEM) => {
            "raise the locked-memory limit (ulimit -l 8192, LimitMEMLOCK=8M; without a limit for \
             more than eight shards), take fewer shards, or free memory"
        }
        _ => "see io_uring_setup(2)",
    };
    format!("io_uring refused: {error}; {cure}")
}

/// When the operator was last told of what.
#[derive(Default)]
pub struct Complaints {
    shortage: Option<Duration>,
    loss: Option<Duration>,
}

impl Complaints {
    /// The kernel has taken no entries.
    pub fn tell_of_shortage(&mut self, error: &io::Error) {
        if is_due(&mut self.shortage, monotonic()) {
            tracing::warn!(
                "io_uring takes no entries: {error}; expected memory for requests; the shard is \
                 slow until there is some: give more to the process (its cgroup's memory.max) or \
                 to the machine"
            );
        }
    }

    /// Completions did not fit their queue, and there was no memory to keep them (the kernel says
    /// so once): their sockets wait for ever. All others are served.
    pub fn tell_of_loss(&mut self) {
        if is_due(&mut self.loss, monotonic()) {
            tracing::error!(
                "io_uring lost completions, as the kernel had no memory to keep them: connections \
                 may hang; give more memory to the process (its cgroup's memory.max) or to the \
                 machine, and restart it"
            );
        }
    }
}

/// Whether something told at `last` is to be told again `now`; then it counts as told.
fn is_due(last: &mut Option<Duration>, now: Duration) -> bool {
    let is_due = last.is_none_or(|at| now - at >= PERIOD);
    if is_due {
        *last = Some(now);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_change() {
        for (error, cure) in
            [(libc::EPERM, "io_uring_disabled"), (libc::ENOMEM, "ulimit -l"), (libc::EINVAL, "6.1")]
        {
            let line = explain(&io::Error::from_raw_os_error(error));
            assert!(line.contains(cure) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_complaint_is_made_once_a_minute() {
        let mut last = None;
        let told = (0..181).filter(|second| is_due(&mut last, Duration::from_secs(*second)));
        assert_eq!(told.collect::<Vec<_>>(), [0, 60, 120, 180]);
    }
}
