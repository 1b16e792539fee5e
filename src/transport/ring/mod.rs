//! The kernel's side: one io_uring, its set-up ladder, its entries, and `enter`.
//!
//! Owns the ring and the memory its entries point to. Knows nothing of tasks or connections: a
//! completion is a `Cqe` with the `user_data` its entry was given.
//!
//! Every entry is submitted once and in order, also while the kernel refuses some: it takes fewer
//! than there are, or none with EAGAIN, when it has no memory for requests. Such a call neither
//! waits nor runs deferred work (Linux 6.1 to 6.18), so requests in flight could not end and give
//! theirs back: another call does that, with a short wait. Completions have no limit: those that do
//! not fit the queue the kernel keeps in a list, until an enter finds room.

mod complaint;
mod system;

use crate::transport::buffer::Chunk;
use complaint::Complaints;
use io_uring::types::{CancelBuilder, Fd, TimeoutFlags, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;
use system::Door;

pub use complaint::explain;
#[cfg(test)]
pub use system::bounded;
pub use system::{glommio_file, glommio_listener, monotonic, new_eventfd};
pub use system::{raise_locked_memory_limit, raise_open_files_limit};

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

/// The pause when the kernel takes nothing: a thousand tries a second cost next to nothing, and who
/// waits for a task of this shard does not notice a millisecond.
const REST: Duration = Duration::from_millis(1);

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
    door: Door,
    /// Read by the kernel while it submits a timeout; only then, but a fixed place is simplest.
    tick: Box<Timespec>,
    deadline: Box<Timespec>,
    mail: Box<[u8; MAIL_BYTES]>,
    /// Read by `push`, not taken by `completions` yet.
    completions: Vec<Cqe>,
    /// Entries behind a submission queue that the kernel does not empty. Each is one of a socket's
    /// or listener's few operations, of which it starts none twice: their number is its bound.
    backlog: VecDeque<squeue::Entry>,
    /// The last enter left entries behind: to be called again soon, and not to be slept on.
    pub is_short: bool,
    complaints: Complaints,
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
        let door = Door::of(io.as_raw_fd());
        let zero = Timespec::new;
        Ok(Ring {
            io,
            door,
            tick: Box::new(zero()),
            deadline: Box::new(zero()),
            mail: Box::new([0; MAIL_BYTES]),
            completions: Vec::with_capacity(CQ_FACTOR as usize * 64),
            backlog: VecDeque::new(),
            is_short: false,
            complaints: Complaints::default(),
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

    /// Submits what is queued, runs the kernel's deferred work and waits for `want` completions:
    /// not for long, and maybe for none, while the kernel is short of memory.
    pub fn enter(&mut self, want: u32) -> io::Result<()> {
        self.enters += 1;
        self.take_backlog();
        // Who has something to read or to submit does not wait.
        let may_wait = self.completions.is_empty() && self.backlog.is_empty();
        loop {
            let queued = self.io.submission().len() as u32;
            match self.door.enter(queued, if may_wait { want } else { 0 }, None) {
                Ok(taken) => {
                    self.is_short = taken < queued;
                    return Ok(());
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // EBUSY: older kernels, while completions did not fit; an enter without entries
                    // makes room for them as well.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => {
                        self.rest(&error);
                        return Ok(());
                    }
                    Some(libc::EBADR) => {
                        self.complaints.tell_of_loss();
                        return Ok(());
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Nothing was taken: does what the kernel then does not, and waits a moment for a completion.
    fn rest(&mut self, error: &io::Error) {
        self.is_short = true;
        self.complaints.tell_of_shortage(error);
        let want = u32::from(self.completions.is_empty());
        // Whether a completion came or the time passed: the caller looks.
        if let Err(error) = self.door.enter(0, want, Some(REST))
            && error.raw_os_error() == Some(libc::EBADR)
        {
            self.complaints.tell_of_loss();
        }
    }

    /// Entries that no enter has submitted.
    pub fn queued(&mut self) -> usize {
        self.io.submission().len() + self.backlog.len()
    }

    /// Whether an enter now would find completions, or deferred work that makes some.
    pub fn has_work(&mut self) -> bool {
        let is_read = self.completions.is_empty() && self.io.completion().is_empty();
        !is_read || self.has_deferred() || self.io.submission().cq_overflow()
    }

    /// How many completions `completions` would return now.
    pub fn ready(&mut self) -> usize {
        self.completions.len() + self.io.completion().len()
    }

    /// Whether the kernel has deferred work that an enter would run; no system call.
    pub fn has_deferred(&mut self) -> bool {
        self.io.submission().taskrun()
    }

    /// Takes all completions that are there; give the vector back with `recycle`.
    pub fn completions(&mut self) -> Vec<Cqe> {
        self.read_completions();
        std::mem::take(&mut self.completions)
    }

    pub fn recycle(&mut self, mut list: Vec<Cqe>) {
        list.clear();
        // What a `push` has read meanwhile.
        list.append(&mut self.completions);
        self.completions = list;
    }

    fn read_completions(&mut self) {
        self.completions.extend(self.io.completion().map(|entry| Cqe {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
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

    /// Never waits for the kernel to take entries, but for one `REST`: whoever pushes holds up the
    /// completions that may be what the kernel is waiting for.
    fn push(&mut self, entry: squeue::Entry, user_data: u64) {
        let entry = entry.user_data(user_data);
        if self.backlog.is_empty() {
            if self.queue(&entry) {
                return;
            }
            self.enter(0).expect("a full submission queue can be submitted");
            // Many full queues make more completions than their queue holds.
            self.read_completions();
            if self.queue(&entry) {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    /// From now on the kernel seems to have memory for so many entries per enter only.
    #[cfg(test)]
    pub fn starve(&mut self, appetite: u32) {
        self.door.appetite = appetite;
    }

    fn take_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.queue(&entry) {
                return self.backlog.push_front(entry);
            }
        }
    }

    /// False if the submission queue is full.
    fn queue(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: every entry above points to nothing, to a box of this ring, or to a frame, chunk
        // or address that its socket's slot keeps until the completion.
        unsafe { self.io.submission().push(entry) }.is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    #[test]
    fn a_ring_submits_and_completes() {
        let mut ring = Ring::new().unwrap();
        assert!(ring.door.is_registered());
        ring.start_deadline(monotonic() + Duration::from_millis(20), 42);
        let started = monotonic();
        ring.enter(1).unwrap();
        let seen: Vec<_> =
            ring.completions().iter().map(|cqe| (cqe.user_data, cqe.result)).collect();
        assert_eq!(seen, [(42, -libc::ETIME)]);
        assert!(monotonic() - started >= Duration::from_millis(19));
    }

    /// Reads what there is and enters again, while `Ring::has_work` says so. Bounded: what does not
    /// end is a mistake.
    fn drain(ring: &mut Ring) -> Vec<u64> {
        let mut seen = Vec::new();
        for _ in 0..2000 {
            let completions = ring.completions();
            seen.extend(completions.iter().map(|cqe| cqe.user_data));
            ring.recycle(completions);
            if !ring.has_work() && ring.queued() == 0 {
                return seen;
            }
            ring.enter(0).unwrap();
        }
        panic!("no end after {} completions", seen.len());
    }

    /// An entry that completes as it is submitted: there is nothing to cancel.
    fn push_instant(ring: &mut Ring, user_data: u64) {
        ring.cancel(u64::MAX, user_data);
    }

    #[test]
    fn entries_of_many_full_queues_complete_in_order_and_in_their_queue() {
        bounded(|| {
            let mut ring = Ring::with_entries(8).unwrap();
            (0..1000).for_each(|number| push_instant(&mut ring, number));
            assert!(!ring.io.submission().cq_overflow(), "the kernel has to keep completions");
            assert!(drain(&mut ring).into_iter().eq(0..1000));
        });
    }

    #[test]
    fn completions_that_did_not_fit_are_work_to_be_seen() {
        let mut ring = Ring::with_entries(8).unwrap();
        for number in 0..200 {
            push_instant(&mut ring, number);
            ring.enter(0).unwrap();
        }
        let first = ring.completions();
        assert!(first.len() < 200 && ring.has_work(), "{} of 200 fit the queue", first.len());
        let mut seen: Vec<_> = first.iter().map(|cqe| cqe.user_data).collect();
        ring.recycle(first);
        seen.extend(drain(&mut ring));
        assert!(seen.into_iter().eq(0..200));
    }

    #[test]
    fn what_a_push_has_read_is_not_lost_when_a_list_comes_back() {
        bounded(|| {
            let mut ring = Ring::with_entries(8).unwrap();
            push_instant(&mut ring, 0);
            ring.enter(0).unwrap();
            let list = ring.completions();
            assert_eq!(list.len(), 1);
            (1..20).for_each(|number| push_instant(&mut ring, number));
            ring.recycle(list);
            assert!(ring.has_work());
            // There is something to read: nobody waits for more than there will ever be.
            ring.enter(100).unwrap();
            assert!(drain(&mut ring).into_iter().eq(1..20));
        });
    }

    #[test]
    fn refused_entries_wait_in_order_and_completions_still_come() {
        bounded(|| {
            let mut ring = Ring::with_entries(8).unwrap();
            let (mut writer, reader) = UnixStream::pair().unwrap();
            ring.read_mail(reader.as_raw_fd(), u64::MAX);
            ring.enter(0).unwrap();
            ring.starve(0);
            let (started, enters) = (monotonic(), ring.enters);
            (0..300).for_each(|number| push_instant(&mut ring, number));
            assert_eq!(
                (ring.queued(), ring.enters - enters),
                (300, 1),
                "one try, not one per entry"
            );
            for _ in 0..9 {
                ring.enter(1).unwrap();
            }
            assert!(ring.is_short && monotonic() - started >= 10 * REST, "it pauses");
            assert!(ring.completions().is_empty());
            // What is in flight must end, or its memory never comes back.
            writer.write_all(b"1").unwrap();
            ring.enter(1).unwrap();
            let list = ring.completions();
            assert_eq!(list.iter().map(|cqe| cqe.user_data).collect::<Vec<_>>(), [u64::MAX]);
            ring.recycle(list);
            ring.starve(3);
            ring.enter(1).unwrap();
            assert_eq!((ring.queued(), ring.is_short), (297, true));
            ring.starve(u32::MAX);
            assert!(drain(&mut ring).into_iter().eq(0..300));
            assert!(!ring.is_short);
        });
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
