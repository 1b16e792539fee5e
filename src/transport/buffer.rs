//! Provided buffers: memory the kernel picks from when bytes arrive, and the values that lend it
//! out.
//!
//! A `Pool` is one buffer ring. A buffer is in exactly one place: in the ring (the kernel may write
//! it), in the reserve, or lent (one or more `Chunk`s may read it). The last `Chunk` of a buffer
//! gives it back.
//!
//! The kernel takes buffers first in, first out: with all of them in the ring even a ping-pong
//! touches every one in turn, and finds none in the cache. So the ring is kept shallow and the
//! reserve is a stack.

use crate::transport::heap::{HeapBudget, Held};
use crate::transport::options::Planted;
use bytes::{Bytes, BytesMut};
use io_uring::types::BufRingEntry;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use zeroize::Zeroize;

/// What a returned buffer is filled with in test builds, so that a late reader shows.
pub const POISON: u8 = 0xDB;

/// Buffers in the ring while little happens. One enter runs about 20 receives (the kernel's limit
/// for deferred work); behind a row of sends it runs as many, and where that is more than these the
/// ring gets deeper.
const DEPTH_MIN: u16 = 64;

pub struct Pool {
    /// `entries` ring entries, page-aligned; the kernel reads them, only we write them.
    ring: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    entries: u16,
    buffer_bytes: u32,
    tail: Cell<u16>,
    /// How many chunks hold each buffer; 0 while it is in the ring. A buffer of 1 MiB has room for
    /// more than 65,535 of them.
    holders: Box<[Cell<u32>]>,
    /// Where in the ring each buffer was last put. With the entries themselves this is the mirror
    /// of the ring's order: a bundle continues with the *next entry*, not with the next id.
    positions: Box<[Cell<u16>]>,
    lent: Cell<u16>,
    /// Buffers in the ring, and how many that should be; the others wait in `reserve`.
    in_ring: Cell<u16>,
    depth: Cell<u16>,
    reserve: RefCell<Vec<u16>>,
    /// The most that was missing at a refill since `settle_depth`.
    peak: Cell<u16>,
    planted: Planted,
}

impl Pool {
    /// Memory for `entries` buffers; that must be a power of two up to 32,768, the kernel's rule.
    pub fn new(entries: u16, buffer_bytes: u32, planted: Planted) -> io::Result<Rc<Pool>> {
        if !entries.is_power_of_two() {
            let text = format!("expected a power of two as the number of buffers, not {entries}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let pool = Pool {
            ring: map_pages(usize::from(entries) * size_of::<BufRingEntry>())?.cast(),
            memory: map_pages(usize::from(entries) * buffer_bytes as usize)?,
            entries,
            buffer_bytes,
            tail: Cell::new(0),
            holders: vec![Cell::new(0); entries.into()].into(),
            positions: vec![Cell::new(0); entries.into()].into(),
            lent: Cell::new(0),
            in_ring: Cell::new(0),
            depth: Cell::new(DEPTH_MIN.min(entries)),
            reserve: RefCell::new((0..entries).rev().collect()),
            peak: Cell::new(0),
            planted,
        };
        pool.refill();
        Ok(Rc::new(pool))
    }

    pub fn ring_address(&self) -> u64 {
        self.ring.as_ptr() as u64
    }

    pub fn entries(&self) -> u16 {
        self.entries
    }

    pub fn lent(&self) -> u16 {
        self.lent.get()
    }

    /// Fills the ring to its depth; to be called before each enter.
    pub fn refill(&self) {
        self.peak.set(self.peak.get().max(self.depth.get().saturating_sub(self.in_ring.get())));
        while self.in_ring.get() < self.depth.get() {
            let Some(id) = self.reserve.borrow_mut().pop() else { return };
            self.push(id);
        }
    }

    /// After ENOBUFS: a deeper ring if there is a reserve; false if every buffer is out.
    pub fn deepen(&self) -> bool {
        let has_reserve = !self.reserve.borrow().is_empty();
        if has_reserve && self.in_ring.get() == 0 {
            self.depth.set((self.depth.get() * 2).min(self.entries));
        }
        self.refill();
        has_reserve
    }

    /// Now and then: half the depth if not a quarter of it was needed.
    pub fn settle_depth(&self) {
        if self.peak.replace(0) < self.depth.get() / 4 {
            self.depth.set((self.depth.get() / 2).max(DEPTH_MIN.min(self.entries)));
        }
    }

    /// Buffers the kernel can still take: an upper bound until all completions are read.
    pub fn free(&self) -> u16 {
        self.entries - self.lent.get()
    }

    /// Takes over the buffers of one receive completion: `length` bytes from buffer `first` on.
    pub fn lend(self: &Rc<Self>, first: u16, length: u32, mut each: impl FnMut(Chunk)) {
        let (mut position, mut left) = (self.positions[usize::from(first)].get(), length);
        let mut consecutive = first;
        while left > 0 {
            let id = self.id_at(position);
            let holders = &self.holders[usize::from(id)];
            debug_assert_eq!(holders.get(), 0, "the kernel filled a lent buffer");
            holders.set(1);
            self.lent.set(self.lent.get() + 1);
            self.in_ring.set(self.in_ring.get() - 1);
            let end = left.min(self.buffer_bytes);
            let chunk = Chunk { backing: Backing::Ring { pool: self.clone(), id }, start: 0, end };
            each(match self.planted {
                Planted::ConsecutiveBundles => self.misread(consecutive, end),
                _ => chunk,
            });
            left -= end;
            position = position.wrapping_add(1);
            consecutive = (consecutive + 1) & (self.entries - 1);
        }
    }

    /// The fault `Planted::ConsecutiveBundles`: the contents of a buffer that may be another's.
    fn misread(&self, id: u16, length: u32) -> Chunk {
        // SAFETY: the buffer lies inside the mapping, and `length` is at most a buffer. The kernel
        // may be writing it, so the bytes may be any; that is the fault, and only tests plant it.
        let bytes = unsafe { std::slice::from_raw_parts(self.buffer(id), length as usize) };
        Chunk::from(Bytes::copy_from_slice(bytes))
    }

    /// Puts a buffer behind the ring's tail and shows it to the kernel.
    fn push(&self, id: u16) {
        let tail = self.tail.get();
        // SAFETY: the index is masked to the mapped entries; between the kernel's head and our tail
        // the kernel only reads, and this entry lies outside: at most `entries` buffers exist.
        unsafe {
            let entry = &mut *self.ring.as_ptr().add(usize::from(tail & (self.entries - 1)));
            entry.set_addr(self.buffer(id) as u64);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(id);
        }
        self.positions[usize::from(id)].set(tail);
        self.in_ring.set(self.in_ring.get() + 1);
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: `tail` yields the address of the ring's tail word inside the mapping; it is
        // aligned, the kernel reads it with acquire, and nothing else writes it.
        unsafe {
            let word = BufRingEntry::tail(self.ring.as_ptr()).cast_mut();
            AtomicU16::from_ptr(word).store(self.tail.get(), Ordering::Release);
        }
    }

    fn give_back(&self, id: u16) {
        let holders = &self.holders[usize::from(id)];
        holders.set(holders.get() - 1);
        if holders.get() > 0 {
            return;
        }
        if cfg!(debug_assertions) {
            // SAFETY: no chunk holds the buffer and the kernel does not have it yet.
            unsafe { self.buffer(id).write_bytes(POISON, self.buffer_bytes as usize) };
        }
        self.lent.set(self.lent.get() - 1);
        self.reserve.borrow_mut().push(id);
    }

    fn id_at(&self, position: u16) -> u16 {
        // SAFETY: the index is masked to the mapped entries, all of which `new` initialised.
        unsafe { (*self.ring.as_ptr().add(usize::from(position & (self.entries - 1)))).bid() }
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        // SAFETY: ids come from `new` (0..entries), so the offset stays inside the mapping.
        unsafe { self.memory.as_ptr().add(usize::from(id) * self.buffer_bytes as usize) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: both came from `map_pages` with these lengths. Chunks hold the pool by `Rc`, and
        // the shard drops its ring (which ends every kernel access) before its pools.
        unsafe {
            libc::munmap(
                self.ring.as_ptr().cast(),
                usize::from(self.entries) * size_of::<BufRingEntry>(),
            );
            libc::munmap(
                self.memory.as_ptr().cast(),
                usize::from(self.entries) * self.buffer_bytes as usize,
            );
        }
    }
}

fn map_pages(length: usize) -> io::Result<NonNull<u8>> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh anonymous mapping overlaps nothing; pages appear when first touched.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(NonNull::new(address.cast()).expect("a mapping that worked is not at address 0"))
    }
}

/// A run of bytes, usually received. Reading is free; dropping the last chunk of a buffer returns
/// the buffer.
pub struct Chunk {
    backing: Backing,
    start: u32,
    end: u32,
}

enum Backing {
    Ring {
        pool: Rc<Pool>,
        id: u16,
    },
    Heap(Rc<HeapBytes>),
    /// Counted again here: a chunk is moved often and kept in queues, so it is to be small.
    Own(Rc<Bytes>),
    Static(&'static [u8]),
}

/// Bytes copied out of ring buffers, and their share of the shard's budget.
struct HeapBytes {
    bytes: Vec<u8>,
    _held: Held,
}

impl Chunk {
    /// Bytes that live as long as the program: fixed answers, for instance a no-op chunk.
    pub fn from_static(bytes: &'static [u8]) -> Chunk {
        Chunk { start: 0, end: length_of(bytes), backing: Backing::Static(bytes) }
    }

    /// Copies `chunks`, `length` bytes together, into one heap chunk, if `budget` allows it.
    pub fn copied(
        chunks: &mut dyn Iterator<Item = Chunk>,
        length: usize,
        budget: &Rc<HeapBudget>,
    ) -> Option<Chunk> {
        let held = budget.try_hold(length)?;
        let mut bytes = Vec::with_capacity(length);
        chunks.for_each(|chunk| bytes.extend_from_slice(&chunk));
        debug_assert_eq!(bytes.len(), length);
        let end = length_of(&bytes);
        let backing = Backing::Heap(Rc::new(HeapBytes { bytes, _held: held }));
        Some(Chunk { backing, start: 0, end })
    }

    /// Bytes made here, TLS records for instance, on the shard's `budget` until they are dropped.
    pub fn on_budget(bytes: Vec<u8>, budget: &Rc<HeapBudget>) -> Option<Chunk> {
        let held = budget.try_hold(bytes.len())?;
        let end = length_of(&bytes);
        let backing = Backing::Heap(Rc::new(HeapBytes { bytes, _held: held }));
        Some(Chunk { backing, start: 0, end })
    }

    /// Where its buffer goes back to, if it is one of a ring.
    pub fn pool(&self) -> Option<&Rc<Pool>> {
        match &self.backing {
            Backing::Ring { pool, .. } => Some(pool),
            _ => None,
        }
    }

    /// Drops the first `count` bytes.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "a chunk of {} bytes has no {count} to drop", self.len());
        self.start += count as u32;
    }

    /// The first `count` bytes as a chunk of their own; the buffer is shared, not copied.
    pub fn split_to(&mut self, count: usize) -> Chunk {
        assert!(count <= self.len(), "a chunk of {} bytes has no {count} to split", self.len());
        let front = self.slice(0..count);
        self.advance(count);
        front
    }

    /// A part of the bytes as a chunk of its own; the buffer is shared, not copied.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Chunk {
        assert!(range.start <= range.end && range.end <= self.len(), "a part lies inside");
        let backing = match &self.backing {
            Backing::Ring { pool, id } => {
                let holders = &pool.holders[usize::from(*id)];
                holders.set(holders.get() + 1);
                Backing::Ring { pool: pool.clone(), id: *id }
            }
            Backing::Heap(bytes) => Backing::Heap(bytes.clone()),
            Backing::Own(bytes) => Backing::Own(bytes.clone()),
            Backing::Static(bytes) => Backing::Static(bytes),
        };
        let (start, end) = (self.start + range.start as u32, self.start + range.end as u32);
        Chunk { backing, start, end }
    }

    /// Takes in `next` if it lies right behind in the same buffer; else nothing changes.
    pub fn try_join(&mut self, next: &Chunk) -> bool {
        let is_same = match (&self.backing, &next.backing) {
            (Backing::Ring { pool, id }, Backing::Ring { pool: other, id: next }) => {
                Rc::ptr_eq(pool, other) && id == next
            }
            (Backing::Own(bytes), Backing::Own(next)) => Rc::ptr_eq(bytes, next),
            _ => false,
        };
        let is_next = is_same && self.end == next.start;
        self.end = if is_next { next.end } else { self.end };
        is_next
    }

    /// Changes the bytes, in place if nobody else reads this buffer, else in a copy. Returns what
    /// `body` returned, and how many bytes were copied.
    pub fn edit<T>(&mut self, body: impl FnOnce(&mut [u8]) -> T) -> (T, usize) {
        let (start, end) = (self.start as usize, self.end as usize);
        match &mut self.backing {
            Backing::Ring { pool, id } if pool.holders[usize::from(*id)].get() == 1 => {
                // SAFETY: this chunk is the buffer's only holder and is borrowed mutably, so nobody
                // else reads the bytes. The kernel does not either: it has no buffer that a chunk
                // holds, and what it sends is held by the queue. The range is as in `deref`.
                let bytes = unsafe {
                    std::slice::from_raw_parts_mut(pool.buffer(*id).add(start), end - start)
                };
                return (body(bytes), 0);
            }
            Backing::Own(bytes) => {
                if let Some(bytes) = Rc::get_mut(bytes) {
                    match std::mem::take(bytes).try_into_mut() {
                        Ok(mut own) => {
                            let result = body(&mut own[start..end]);
                            *bytes = own.freeze();
                            return (result, 0);
                        }
                        Err(shared) => *bytes = shared,
                    }
                }
            }
            Backing::Heap(heap) => {
                if let Some(heap) = Rc::get_mut(heap) {
                    return (body(&mut heap.bytes[start..end]), 0);
                }
            }
            Backing::Ring { .. } | Backing::Static(_) => {}
        }
        let mut copy = BytesMut::from(&**self);
        let result = body(&mut copy);
        *self = Chunk::from(copy.freeze());
        (result, end - start)
    }

    /// Overwrites the bytes with zeroes, if nobody else reads this buffer: they were a secret.
    pub fn wipe(&mut self) {
        let is_shared = match &self.backing {
            Backing::Ring { pool, id } => pool.holders[usize::from(*id)].get() > 1,
            Backing::Heap(heap) => Rc::strong_count(heap) > 1,
            Backing::Own(bytes) => Rc::strong_count(bytes) > 1,
            Backing::Static(_) => true,
        };
        if !is_shared {
            self.edit(|bytes| bytes.zeroize());
        }
    }

    /// Whether it keeps a buffer from its ring.
    pub fn is_on_ring(&self) -> bool {
        matches!(self.backing, Backing::Ring { .. })
    }
}

/// For messages that the proxy makes itself.
impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Chunk {
        Chunk { start: 0, end: length_of(&bytes), backing: Backing::Own(Rc::new(bytes)) }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (start, end) = (self.start as usize, self.end as usize);
        match &self.backing {
            // SAFETY: while a chunk holds the buffer the kernel does not have it; `start <= end <=
            // buffer_bytes` since `lend`; the pool outlives the borrow.
            Backing::Ring { pool, id } => unsafe {
                std::slice::from_raw_parts(pool.buffer(*id).add(start), end - start)
            },
            Backing::Heap(heap) => &heap.bytes[start..end],
            Backing::Own(bytes) => &bytes[start..end],
            Backing::Static(bytes) => &bytes[start..end],
        }
    }
}

impl fmt::Debug for Chunk {
    /// The contents may be somebody's data: only their length.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Chunk({} bytes)", self.len())
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Backing::Ring { pool, id } = &self.backing {
            pool.give_back(*id);
        }
    }
}

/// Puts a chunk behind others. Most connections never have more than two waiting: so much room is
/// made first, since idle ones keep it.
pub fn enqueue(queue: &mut VecDeque<Chunk>, chunk: Chunk) {
    const FIRST_ROOM: usize = 2;
    if queue.capacity() == 0 {
        queue.reserve_exact(FIRST_ROOM);
    }
    queue.push_back(chunk);
}

/// Offsets are 32 bits wide: chunks are moved around a lot.
fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("queues and messages are bounded far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbours_in_one_buffer_are_joined() {
        let pool = Pool::new(2, 16, Planted::Nothing).unwrap();
        let mut lent = Vec::new();
        pool.lend(pool.id_at(0), 32, |chunk| lent.push(chunk));
        let mut front = lent[0].slice(0..4);
        assert!(!front.try_join(&lent[0].slice(5..6)), "a byte lies between them");
        assert!(!front.try_join(&lent[0].slice(0..4)), "the same bytes again");
        assert!(!front.try_join(&lent[1].slice(4..6)), "another buffer");
        let other = Pool::new(2, 16, Planted::Nothing).unwrap();
        other.lend(pool.id_at(0), 16, |chunk| {
            assert!(!front.try_join(&chunk.slice(4..6)), "the same number in another pool");
        });
        assert!(!front.try_join(&Chunk::from_static(b"efgh").slice(0..1)), "other memory");
        assert_eq!(front.len(), 4);
        assert!(front.try_join(&lent[0].slice(4..16)));
        assert_eq!((&*front, pool.lent()), (&*lent[0], 2));
        drop(lent);
        assert_eq!(pool.lent(), 1, "the joined chunk is one holder");
        drop(front);
        assert_eq!(pool.lent(), 0);
    }

    #[test]
    fn chunks_split_without_copying_whatever_they_lie_in() {
        let budget = HeapBudget::new(100);
        let text: &'static [u8] = b"0123456789";
        let copied = || Chunk::copied(&mut [Chunk::from_static(text)].into_iter(), 10, &budget);
        let own = Chunk::from(Bytes::copy_from_slice(text));
        for mut chunk in [Chunk::from_static(text), own, copied().unwrap()] {
            let address = chunk.as_ptr();
            let front = chunk.split_to(4);
            assert_eq!((&*front, &*chunk), (&text[..4], &text[4..]));
            assert_eq!(front.as_ptr(), address);
            chunk.advance(6);
            assert!(chunk.is_empty() && !chunk.is_on_ring());
        }
        assert_eq!(budget.bytes_held(), 0);
        let all: Vec<_> = (0..10).map_while(|_| copied()).collect();
        assert_eq!((all.len(), budget.bytes_held()), (10, 100));
        assert!(copied().is_none());
    }

    #[test]
    fn bytes_are_changed_where_they_lie_unless_somebody_else_reads_them() {
        let upper = |bytes: &mut [u8]| {
            bytes.make_ascii_uppercase();
            bytes.len()
        };
        let budget = HeapBudget::new(100);
        let ring = Pool::new(4, 4096, Planted::Nothing).unwrap();
        let mut lent = Vec::new();
        ring.lend(ring.id_at(0), 4, |chunk| lent.push(chunk));
        lent[0].edit(|bytes| bytes.copy_from_slice(b"abcd"));
        let own = Chunk::from(Bytes::from(b"abcd".to_vec()));
        let heap = Chunk::copied(&mut [Chunk::from_static(b"abcd")].into_iter(), 4, &budget);
        for mut chunk in [lent.remove(0), own, heap.unwrap()] {
            chunk.advance(1);
            let address = chunk.as_ptr();
            assert_eq!(chunk.edit(upper), (3, 0));
            assert_eq!((&*chunk, chunk.as_ptr()), (&b"BCD"[..], address));
            let other = chunk.slice(0..2);
            assert_eq!(chunk.edit(|bytes| bytes.fill(b'-')), ((), 3));
            assert_eq!((&*chunk, &*other), (&b"---"[..], &b"BC"[..]));
        }
        let mut fixed = Chunk::from_static(b"abcd");
        assert_eq!(fixed.edit(upper), (4, 4));
        assert_eq!((&*fixed, ring.lent(), budget.bytes_held()), (&b"ABCD"[..], 0, 0));
    }

    #[test]
    fn a_secret_is_wiped_where_it_lies_if_nobody_else_reads_it() {
        let pool = Pool::new(1, 4096, Planted::Nothing).unwrap();
        let mut lent = Vec::new();
        pool.lend(pool.id_at(0), 6, |chunk| lent.push(chunk));
        lent[0].edit(|bytes| bytes.copy_from_slice(b"secret"));
        let own = Chunk::from(Bytes::from(b"secret".to_vec()));
        for mut chunk in [lent.remove(0), own] {
            let (address, other) = (chunk.as_ptr(), chunk.slice(0..6));
            chunk.wipe();
            assert_eq!(&*other, b"secret", "it is still read");
            drop(other);
            chunk.wipe();
            assert_eq!((&*chunk, chunk.as_ptr()), (&[0; 6][..], address));
        }
    }

    #[test]
    fn a_large_buffer_may_have_very_many_holders() {
        const BYTES: u32 = 70_000;
        let pool = Pool::new(1, BYTES, Planted::Nothing).unwrap();
        let mut chunks = Vec::new();
        pool.lend(pool.id_at(0), BYTES, |chunk| chunks.push(chunk));
        for at in 0..BYTES as usize {
            let slice = chunks[0].slice(at..at + 1);
            chunks.push(slice);
        }
        chunks.truncate(1);
        assert_eq!((pool.lent(), chunks[0].len()), (1, BYTES as usize));
        drop(chunks);
        assert_eq!(pool.lent(), 0);
    }

    #[test]
    fn a_lent_buffer_comes_back_with_its_last_chunk() {
        let pool = Pool::new(4, 4096, Planted::Nothing).unwrap();
        let mut chunks = Vec::new();
        pool.lend(pool.id_at(0), 5000, |chunk| chunks.push(chunk));
        assert_eq!(chunks.iter().map(|chunk| chunk.len()).collect::<Vec<_>>(), [4096, 904]);
        assert_eq!((pool.lent(), pool.free()), (2, 2));
        let front = chunks[0].split_to(1);
        drop(chunks);
        assert_eq!(pool.lent(), 1);
        drop(front);
        assert_eq!((pool.lent(), pool.free()), (0, 4));
        assert!(Pool::new(3, 4096, Planted::Nothing).is_err());
    }
}
