//! The kernel's side: one io_uring, its set-up ladder, its entries, and `enter`.
//!
//! Owns the ring and the memory its entries point to. Knows nothing of tasks or connections: a
//! completion is a `Cqe` with the `user_data` its entry was given.

use crate::transport::buffer::Chunk;
use glommio::io::BufferedFile;
use io_uring::types::{CancelBuilder, Fd, TimeoutFlags, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Submission entries wanted; one turn of a busy shard fills a few hundred. Halved on ENOMEM.
const SQ_ENTRIES: u32 = 512;
const SQ_ENTRIES_MIN: u32 = 64;
/// Completions per submission entry: one multishot entry completes many times (4096 for 512).
const CQ_FACTOR: u32 = 8;
/// A predecessor's rings are given back asynchronously: a quick restart sees ENOMEM for about a
/// second.
const ENOMEM_PATIENCE: Duration = Duration::from_secs(1);
/// Spans gathered into one SENDMSG: some credits of four full buffers, or sixteen small messages.
pub const GATHER_MAX: usize = 16;

/// A byte is a wake; this many rings of a mailbox become one completion.
const MAIL_BYTES: usize = 64;

const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: u32 = 20;
/// Where `optlen` lies in `struct io_uring_sqe` (the crate has no setter): for a multishot receive
/// the kernel (6.18) takes it as the total number of bytes after which the receive ends by itself.
const SQE_OPTLEN_OFFSET: usize = 44;

#[derive(Clone, Copy, Debug)]
pub struct Cqe {
    pub user_data: u64,
    pub result: i32,
    pub flags: u32,
}

impl Cqe {
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// The descriptor an accept completed with. To be called once per completion.
    pub fn accepted(&self) -> Option<OwnedFd> {
        // SAFETY: an accept's non-negative result is a fresh descriptor that nobody else owns.
        (self.result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(self.result) })
    }
}

/// What a send does when the socket's buffer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Waits in the kernel until all of it has left: one completion, whenever that is.
    Whole,
    /// Takes what there is room for, maybe nothing (EAGAIN): its completion is there when the enter
    /// that submits it has submitted it.
    AtOnce,
}

/// How a receive is armed. Which of these the kernel has is found out by `selftest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Multishot until `total` bytes have come (6.18).
    Limited { bundle: bool, total: u32 },
    /// One completion of at most one buffer.
    Single,
}

pub struct Ring {
    io: IoUring,
    /// The descriptor `enter` uses: a registered index if the kernel gave one.
    enter_fd: RawFd,
    enter_flags: u32,
    /// Read by the kernel while it submits a timeout; only then, but a fixed place is simplest.
    tick: Box<Timespec>,
    deadline: Box<Timespec>,
    mail: Box<[u8; MAIL_BYTES]>,
    completions: Vec<Cqe>,
    pub enters: u64,
}

impl Ring {
    /// Sets up a ring, with fewer entries or after a wait if memory is short. The error is one line
    /// for the operator.
    pub fn new() -> Result<Ring, String> {
        let (mut entries, started) = (SQ_ENTRIES, monotonic());
        loop {
            match Self::with_entries(entries) {
                Ok(ring) => return Ok(ring),
                Err(error) if error.raw_os_error() != Some(libc::ENOMEM) => {
                    return Err(explain(&error));
                }
                Err(_) if entries > SQ_ENTRIES_MIN => entries /= 2,
                Err(error) if monotonic() - started > ENOMEM_PATIENCE => {
                    return Err(explain(&error));
                }
                // At start only: this executor has nothing else to do yet.
                Err(_) => std::thread::park_timeout(ENOMEM_PATIENCE / 20),
            }
        }
    }

    /// Tries the newest flags first: NO_SQARRAY is 6.6; the others are 6.1, which is the floor.
    pub fn with_entries(entries: u32) -> io::Result<Ring> {
        let build = |no_sqarray: bool| {
            let mut builder = IoUring::builder();
            builder
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_coop_taskrun()
                .setup_taskrun_flag()
                .setup_submit_all();
            if no_sqarray {
                builder.setup_no_sqarray();
            }
            builder.setup_cqsize(entries * CQ_FACTOR).dontfork().build(entries)
        };
        let io = build(true).or_else(|error| {
            if error.raw_os_error() == Some(libc::EINVAL) { build(false) } else { Err(error) }
        })?;
        let (enter_fd, enter_flags) = match register_ring_fd(io.as_raw_fd()) {
            Ok(index) => (index, ENTER_REGISTERED_RING),
            // Seccomp may forbid it; then each enter looks the descriptor up.
            Err(_) => (io.as_raw_fd(), 0),
        };
        let zero = Timespec::new;
        Ok(Ring {
            io,
            enter_fd,
            enter_flags,
            tick: Box::new(zero()),
            deadline: Box::new(zero()),
            mail: Box::new([0; MAIL_BYTES]),
            completions: Vec::with_capacity(CQ_FACTOR as usize * 64),
            enters: 0,
        })
    }

    /// Registers a buffer ring under `group`.
    pub fn register_pool(
        &mut self,
        pool: &crate::transport::buffer::Pool,
        group: u16,
    ) -> io::Result<()> {
        // SAFETY: the pool's ring is mapped, page-aligned and has that many entries; the shard
        // keeps the pool until the ring is gone.
        unsafe {
            self.io.submitter().register_buf_ring_with_flags(
                pool.ring_address(),
                pool.entries(),
                group,
                0,
            )
        }
    }

    pub fn register_eventfd(&mut self, eventfd: RawFd) -> io::Result<()> {
        self.io.submitter().register_eventfd(eventfd)
    }

    /// Whether completions write the registered eventfd.
    pub fn signal_eventfd(&mut self, on: bool) {
        let completion = self.io.completion();
        if on { completion.enable_eventfd() } else { completion.disable_eventfd() }
    }

    /// Submits what is queued, runs the kernel's deferred work and waits for `want` completions.
    /// GETEVENTS is always set: without it a DEFER_TASKRUN ring does no deferred work.
    pub fn enter(&mut self, want: u32) -> io::Result<()> {
        self.enters += 1;
        loop {
            let queued = self.queued() as u32;
            // SAFETY: plain integers and no argument; the entries queued were vetted by `push`'s
            // callers.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_io_uring_enter,
                    self.enter_fd,
                    queued,
                    want,
                    ENTER_GETEVENTS | self.enter_flags,
                    std::ptr::null::<u8>(),
                    0usize,
                )
            };
            if result >= 0 {
                return Ok(());
            }
            match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EINTR) => continue,
                // EBUSY: completions overflowed, read them first. EAGAIN: short of memory, try
                // again later.
                error if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => {
                    return Ok(());
                }
                error => return Err(error),
            }
        }
    }

    pub fn queued(&mut self) -> usize {
        self.io.submission().len()
    }

    /// Whether an enter now would find completions, or deferred work that makes some.
    pub fn has_work(&mut self) -> bool {
        !self.io.completion().is_empty() || self.io.submission().taskrun()
    }

    /// Takes all completions that are there; give the vector back with `recycle`.
    pub fn completions(&mut self) -> Vec<Cqe> {
        let mut list = std::mem::take(&mut self.completions);
        list.extend(self.io.completion().map(|entry| Cqe {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
        list
    }

    pub fn recycle(&mut self, mut list: Vec<Cqe>) {
        list.clear();
        self.completions = list;
    }

    pub fn accept(&mut self, listener: RawFd, user_data: u64) {
        self.push(
            opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build(),
            user_data,
        );
    }

    pub fn connect(&mut self, socket: RawFd, address: &socket2::SockAddr, user_data: u64) {
        // The address must stay where it is until the completion: the caller boxes it in the
        // socket's slot.
        self.push(
            opcode::Connect::new(Fd(socket), address.as_ptr().cast(), address.len()).build(),
            user_data,
        );
    }

    pub fn receive(&mut self, socket: RawFd, group: u16, how: Receive, user_data: u64) {
        let entry = match how {
            Receive::Limited { bundle: false, total } => {
                with_total(opcode::RecvMulti::new(Fd(socket), group).build(), total)
            }
            Receive::Limited { bundle: true, total } => {
                with_total(opcode::RecvMultiBundle::new(Fd(socket), group).build(), total)
            }
            Receive::Single => opcode::Recv::new(Fd(socket), std::ptr::null_mut(), 0)
                .buf_group(group)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        };
        self.push(entry, user_data);
    }

    /// Sends `frame`'s spans, in order. WAITALL: the kernel goes on after a short write.
    pub fn send(&mut self, socket: RawFd, frame: &SendFrame, how: Sending, user_data: u64) {
        let flags = match how {
            Sending::Whole => libc::MSG_WAITALL | libc::MSG_NOSIGNAL,
            Sending::AtOnce => libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        };
        let entry = match frame.header.msg_iovlen {
            1 => opcode::Send::new(
                Fd(socket),
                frame.spans[0].iov_base.cast(),
                frame.spans[0].iov_len as u32,
            )
            .flags(flags)
            .build(),
            _ => opcode::SendMsg::new(Fd(socket), &frame.header).flags(flags as u32).build(),
        };
        self.push(entry, user_data);
    }

    /// One completion when the peer hangs up (`events` 0: only when both directions are dead).
    pub fn poll(&mut self, socket: RawFd, events: u32, user_data: u64) {
        self.push(opcode::PollAdd::new(Fd(socket), events).build(), user_data);
    }

    pub fn cancel(&mut self, target: u64, user_data: u64) {
        self.push(opcode::AsyncCancel2::new(CancelBuilder::user_data(target)).build(), user_data);
    }

    /// Cancels everything armed on a descriptor.
    pub fn cancel_all(&mut self, socket: RawFd, user_data: u64) {
        self.push(
            opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(socket)).all()).build(),
            user_data,
        );
    }

    /// A completion every `period` until cancelled.
    pub fn start_tick(&mut self, period: Duration, user_data: u64) {
        *self.tick = period.into();
        let entry = opcode::Timeout::new(&*self.tick).flags(TimeoutFlags::MULTISHOT).build();
        self.push(entry, user_data);
    }

    /// One completion at `at` on CLOCK_MONOTONIC.
    pub fn start_deadline(&mut self, at: Duration, user_data: u64) {
        *self.deadline = at.into();
        let entry = opcode::Timeout::new(&*self.deadline).flags(TimeoutFlags::ABS).build();
        self.push(entry, user_data);
    }

    /// Ends a timeout. It completes once more, with ECANCELED; the removal itself is silent if it
    /// worked.
    pub fn stop_timeout(&mut self, target: u64, user_data: u64) {
        self.push(
            opcode::TimeoutRemove::new(target).build().flags(squeue::Flags::SKIP_SUCCESS),
            user_data,
        );
    }

    /// Waits for bytes of the mailbox, within this ring.
    pub fn read_mail(&mut self, mailbox: RawFd, user_data: u64) {
        let entry =
            opcode::Read::new(Fd(mailbox), self.mail.as_mut_ptr(), MAIL_BYTES as u32).build();
        self.push(entry, user_data);
    }

    /// Posts a completion with `their_user_data` in another ring; ours is silent if it worked.
    pub fn message(&mut self, ring: RawFd, their_user_data: u64, user_data: u64) {
        let entry = opcode::MsgRingData::new(Fd(ring), 0, their_user_data, None).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), user_data);
    }

    fn push(&mut self, entry: squeue::Entry, user_data: u64) {
        let entry = entry.user_data(user_data);
        // SAFETY: every entry above points to nothing, to a box of this ring, or to a frame, chunk
        // or address that its socket's slot keeps until the completion.
        while unsafe { self.io.submission().push(&entry) }.is_err() {
            self.enter(0).expect("a full submission queue can be submitted");
        }
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.io.as_raw_fd()
    }
}

/// The `msghdr` and spans of one send in flight. Boxed and reused: the kernel reads it after
/// submission too.
pub struct SendFrame {
    spans: [libc::iovec; GATHER_MAX],
    header: libc::msghdr,
}

impl SendFrame {
    pub fn new() -> Box<SendFrame> {
        // SAFETY: `iovec` and `msghdr` are plain C structs for which all zeroes is valid (null and
        // 0).
        unsafe { Box::new(std::mem::zeroed()) }
    }

    /// Points at the first chunks of a queue; returns how many. The caller keeps them in place
    /// until the completion.
    pub fn fill<'a>(self: &mut Box<Self>, chunks: impl Iterator<Item = &'a Chunk>) -> usize {
        let mut count = 0;
        for (span, chunk) in self.spans.iter_mut().zip(chunks) {
            *span =
                libc::iovec { iov_base: chunk.as_ptr().cast_mut().cast(), iov_len: chunk.len() };
            count += 1;
        }
        self.header.msg_iov = self.spans.as_mut_ptr();
        self.header.msg_iovlen = count;
        count
    }
}

/// Sets a multishot receive's total length.
fn with_total(mut entry: squeue::Entry, total: u32) -> squeue::Entry {
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: the entry is a `repr(C)` copy of the 64-byte `io_uring_sqe`; at this offset lies its
    // 32-bit `splice_fd_in`/`file_index`/`optlen` union, which the receive opcodes leave zero.
    unsafe { (&raw mut entry).cast::<u8>().add(SQE_OPTLEN_OFFSET).cast::<u32>().write(total) };
    entry
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
        Some(libc::ENOMEM) => "raise the locked-memory limit (ulimit -l 8192) or free memory",
        _ => "see io_uring_setup(2)",
    };
    format!("io_uring refused: {error}; {cure}")
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    #[test]
    fn a_ring_submits_and_completes() {
        let mut ring = Ring::new().unwrap();
        assert_eq!(ring.enter_flags, ENTER_REGISTERED_RING);
        ring.start_deadline(monotonic() + Duration::from_millis(20), 42);
        let started = monotonic();
        ring.enter(1).unwrap();
        let seen: Vec<_> =
            ring.completions().iter().map(|cqe| (cqe.user_data, cqe.result)).collect();
        assert_eq!(seen, [(42, -libc::ETIME)]);
        assert!(monotonic() - started >= Duration::from_millis(19));
    }

    #[test]
    fn refusals_say_what_to_change() {
        for (error, cure) in
            [(libc::EPERM, "io_uring_disabled"), (libc::ENOMEM, "ulimit -l"), (libc::EINVAL, "6.1")]
        {
            let line = explain(&io::Error::from_raw_os_error(error));
            assert!(line.contains(cure) && !line.contains('\n'), "{line}");
        }
    }

    /// How often out of three a ring that is not entered rings its eventfd when a pending read of
    /// `reader` gets bytes.
    fn rings_heard(reader: RawFd, mut write: impl FnMut()) -> usize {
        let mut ring = Ring::with_entries(8).unwrap();
        let bell = new_eventfd().unwrap();
        ring.register_eventfd(bell.as_raw_fd()).unwrap();
        let (heard, hearing) = mpsc::channel();
        let mut listener = bell.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            while listener.read(&mut [0; 8]).is_ok() && heard.send(()).is_ok() {}
        });
        let count = (0..3).filter(|_| {
            ring.read_mail(reader, 1);
            ring.enter(0).unwrap();
            while hearing.recv_timeout(Duration::from_millis(100)).is_ok() {}
            write();
            let is_heard = hearing.recv_timeout(Duration::from_millis(500)).is_ok();
            ring.enter(1).unwrap();
            is_heard
        });
        let count = count.count();
        drop(hearing);
        (&bell).write_all(&1u64.to_ne_bytes()).unwrap(); // lets the thread end
        thread.join().unwrap();
        count
    }

    /// Why the mailbox is a socket pair. From within an eventfd's wake-up the kernel signals
    /// another eventfd only later, and 6.18 does that once per ring: the second wake of an idle
    /// shard is lost.
    #[test]
    fn a_mailbox_must_not_be_an_eventfd() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        assert_eq!(rings_heard(reader.as_raw_fd(), || writer.write_all(b"1").unwrap()), 3);
        let eventfd = new_eventfd().unwrap();
        let count =
            rings_heard(eventfd.as_raw_fd(), || (&eventfd).write_all(&1u64.to_ne_bytes()).unwrap());
        println!(
            "of 3 writes to an eventfd read in the ring, the ring's own eventfd told of {count}"
        );
    }
}
