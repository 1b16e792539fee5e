//! What a shard asks of the system beside the entries of its ring: how io_uring is called, limits,
//! the clock, and descriptors for the executor.
//!
//! Functions only. Knows nothing of what is in a ring, and keeps nothing.

use glommio::io::BufferedFile;
use io_uring::types::Timespec;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, IntoRawFd, RawFd};
use std::time::Duration;

const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: u32 = 20;

/// The way into a ring: its registered index if the kernel gave one, which saves looking the
/// descriptor up in each call.
pub struct Door {
    fd: RawFd,
    flags: u32,
    /// The most entries that the kernel is to take per call, as if it had no memory for more.
    #[cfg(test)]
    pub appetite: u32,
}

impl Door {
    pub fn of(ring: RawFd) -> Door {
        let (fd, flags) = match register_ring_fd(ring) {
            Ok(index) => (index, ENTER_REGISTERED_RING),
            // Seccomp may forbid it.
            Err(_) => (ring, 0),
        };
        Door {
            fd,
            flags,
            #[cfg(test)]
            appetite: u32::MAX,
        }
    }

    /// Submits `queued` entries, runs the kernel's deferred work and waits for `want` completions,
    /// at most for `patience` (ETIME then). Returns how many entries the kernel took. GETEVENTS is
    /// always set: without it a DEFER_TASKRUN ring does no deferred work.
    pub fn enter(&self, queued: u32, want: u32, patience: Option<Duration>) -> io::Result<u32> {
        #[cfg(test)]
        if queued > self.appetite {
            return self.enter_starved();
        }
        self.call(queued, want, ENTER_GETEVENTS, patience)
    }

    #[cfg(test)]
    pub fn is_registered(&self) -> bool {
        self.flags == ENTER_REGISTERED_RING
    }

    fn call(
        &self,
        queued: u32,
        want: u32,
        flags: u32,
        patience: Option<Duration>,
    ) -> io::Result<u32> {
        /// `struct io_uring_getevents_arg`.
        #[repr(C)]
        struct Argument {
            signal_mask: u64,
            signal_mask_bytes: u32,
            wait_us_min: u32,
            timeout: u64,
        }
        let timeout = patience.map(Timespec::from);
        let argument = timeout.as_ref().map(|timeout| Argument {
            signal_mask: 0,
            signal_mask_bytes: 0,
            wait_us_min: 0,
            timeout: std::ptr::from_ref(timeout) as u64,
        });
        let (pointer, bytes, more_flags) = match &argument {
            Some(argument) => (std::ptr::from_ref(argument), size_of::<Argument>(), ENTER_EXT_ARG),
            None => (std::ptr::null(), 0, 0),
        };
        // SAFETY: plain integers, and either no argument or one that lives across the call, as does
        // the timeout that it points to; the entries queued were vetted by `push`'s callers.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd,
                queued,
                want,
                flags | more_flags | self.flags,
                pointer,
                bytes,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as u32) }
    }

    /// What a kernel does that has memory for fewer entries than there are (6.1 to 6.18): it takes
    /// those, or says EAGAIN if they are none, and neither waits nor runs deferred work.
    #[cfg(test)]
    fn enter_starved(&self) -> io::Result<u32> {
        match self.appetite {
            0 => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            few => self.call(few, 0, 0, None),
        }
    }
}

/// Runs a test that would not end if it failed.
#[cfg(test)]
pub fn bounded(work: impl FnOnce() + Send + 'static) {
    let (done, end) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    let waited = end.recv_timeout(Duration::from_secs(30));
    assert_ne!(waited, Err(std::sync::mpsc::RecvTimeoutError::Timeout), "no end in sight");
    thread.join().unwrap();
}

/// Registers the ring's own descriptor; the crate's `Submitter` does it too, but forgets the index.
fn register_ring_fd(fd: RawFd) -> io::Result<RawFd> {
    #[repr(C)]
    struct Update {
        offset: u32,
        reserved: u32,
        data: u64,
    }
    let mut update = Update { offset: u32::MAX, reserved: 0, data: fd as u64 };
    // SAFETY: `update` has the layout of `io_uring_rsrc_update` and lives across the call.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, &raw mut update, 1)
    };
    if result == 1 { Ok(update.offset as RawFd) } else { Err(io::Error::last_os_error()) }
}

/// Raises the soft limit of open files to the hard one; returns the limit that holds now. Every
/// client is a descriptor, and the usual soft limit is 1024.
pub fn raise_open_files_limit() -> io::Result<u64> {
    raise_limit(libc::RLIMIT_NOFILE)
}

/// The same for locked memory: glommio looks at the soft limit and takes nothing below 512 KiB,
/// which is more than the usual 64 KiB of older systems.
pub fn raise_locked_memory_limit() -> io::Result<u64> {
    raise_limit(libc::RLIMIT_MEMLOCK)
}

/// As the C library calls the kinds of limits.
#[cfg(not(target_env = "musl"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(target_env = "musl")]
type Resource = libc::c_int;

fn raise_limit(resource: Resource) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place to write to.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid value to read.
    if unsafe { libc::setrlimit(resource, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// A blocking eventfd: `read_mail` and glommio wait for it, a write is one wake.
pub fn new_eventfd() -> io::Result<File> {
    // SAFETY: no pointers; a non-negative result is a fresh descriptor.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// A descriptor that glommio can wait for with its public `read_at`.
pub fn glommio_file(file: File) -> BufferedFile {
    // SAFETY: ownership of the descriptor moves over.
    unsafe { BufferedFile::from_raw_fd(file.into_raw_fd()) }
}

/// A listening socket that glommio accepts on. Its own ones leave ports behind that cannot be bound
/// for a minute after a connection was ended by this side.
pub fn glommio_listener(listener: TcpListener) -> glommio::net::TcpListener {
    // SAFETY: ownership of the descriptor moves over.
    unsafe { glommio::net::TcpListener::from_raw_fd(listener.into_raw_fd()) }
}

/// Now on CLOCK_MONOTONIC, the clock that absolute timeouts use.
pub fn monotonic() -> Duration {
    // SAFETY: `time` is a valid place to write to; this clock always exists.
    let time = unsafe {
        let mut time = std::mem::zeroed::<libc::timespec>();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
