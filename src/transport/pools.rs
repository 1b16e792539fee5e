//! The shard's receive buffers: large and small ones, for accepted and for dialed sockets.
//!
//! A short message in a large buffer has a page, and its place in the caches, for itself; and while
//! it waits for a server connection nobody else gets the rest. So who sends short messages has
//! small buffers. They are not needed to go on: who finds none takes a large one.

use crate::transport::buffer::Pool;
use crate::transport::options::Options;
use crate::transport::ring::Ring;
use crate::transport::socket::Side;
use std::io;
use std::rc::Rc;

/// Bytes of a small buffer: requests and answers of most small queries fit (100 to 300 bytes), and
/// four lie in a page.
pub const SMALL_BYTES: u32 = 1 << 10;
/// Small buffers for each large one; at the defaults they are a quarter more memory.
const SMALL_PER_LARGE: u16 = 4;
/// Entries of the kernel's largest buffer ring.
const ENTRIES_MAX: u16 = 1 << 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Small,
    Large,
}

/// By side.
pub struct Pools {
    pub large: [Rc<Pool>; 2],
    small: [Rc<Pool>; 2],
}

impl Pools {
    /// Memory of all of them; it is touched when it is needed.
    pub fn new(options: &Options) -> io::Result<Pools> {
        let large = |entries| Pool::new(entries, options.buffer_bytes, options.planted);
        let small = |entries: u16| {
            let entries = entries.saturating_mul(SMALL_PER_LARGE).min(ENTRIES_MAX);
            Pool::new(entries, SMALL_BYTES, options.planted)
        };
        let [accepted, dialed] = options.buffers;
        Ok(Pools {
            large: [large(accepted)?, large(dialed)?],
            small: [small(accepted)?, small(dialed)?],
        })
    }

    /// Shows them to the kernel, each under its `group`.
    pub fn register(&self, ring: &mut Ring) -> io::Result<()> {
        for side in [Side::Accepted, Side::Dialed] {
            for size in [Size::Small, Size::Large] {
                ring.register_pool(self.of(side, size), group(side, size))?;
            }
        }
        Ok(())
    }

    pub fn of(&self, side: Side, size: Size) -> &Rc<Pool> {
        match size {
            Size::Small => &self.small[side as usize],
            Size::Large => &self.large[side as usize],
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Rc<Pool>> {
        self.large.iter().chain(&self.small)
    }

    /// Buffers lent out, by side.
    pub fn lent(&self) -> [u16; 2] {
        [Side::Accepted, Side::Dialed].map(|side| self.lent_of(side))
    }

    pub fn lent_of(&self, side: Side) -> u16 {
        self.of(side, Size::Large).lent().saturating_add(self.of(side, Size::Small).lent())
    }
}

/// The kernel's name of a pool.
pub fn group(side: Side, size: Size) -> u16 {
    match size {
        Size::Large => side as u16,
        Size::Small => side as u16 + 2,
    }
}
