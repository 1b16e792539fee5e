//! What this kernel can do, found out on a socket pair before the first client.

use crate::transport::buffer::{Chunk, Pool};
use crate::transport::options::Planted;
use crate::transport::ring::{Receive, Ring};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::OnceLock;

const BUFFERS: u16 = 8;
const BUFFER_SIZE: u32 = 4096;
/// One byte, exact buffers, short last buffers, and all buffers but one; with an odd number of
/// rounds per cycle the bundles begin at ever different places of the ring.
const LENGTHS: [usize; 7] = [1, 4096, 5000, 12_289, 100, 8192, 27_000];
const ROUNDS: usize = 70;

#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// A multishot receive ends by itself after a total number of bytes (6.18).
    pub limited: bool,
    /// Several buffers per completion arrive in the ring's order, whatever order they were returned
    /// in (6.10+).
    pub bundles: bool,
}

/// What this kernel can do; tried once per process.
pub fn abilities() -> Abilities {
    static FOUND: OnceLock<Abilities> = OnceLock::new();
    *FOUND.get_or_init(probe)
}

/// Never fails: what does not work is not used.
fn probe() -> Abilities {
    let limited = ends_at_total().unwrap_or(false);
    let keeps = || keeps_contents(true, Planted::Nothing).unwrap_or(false);
    Abilities { limited, bundles: limited && keeps() }
}

impl Receive {
    /// The best way to receive with these abilities.
    pub fn choose(abilities: Abilities, wants_bundles: bool, credit_bytes: u32) -> Receive {
        if abilities.limited {
            let bundle = wants_bundles && abilities.bundles;
            Receive::Limited { bundle, total: credit_bytes }
        } else {
            Receive::Single
        }
    }
}

/// Four buffers' worth is there, two are allowed: exactly two must come, and the second must say it
/// was the last.
fn ends_at_total() -> io::Result<bool> {
    let mut bench = Bench::new(Planted::Nothing)?;
    let total = 2 * BUFFER_SIZE;
    bench.writer.write_all(&vec![7; 2 * total as usize])?;
    bench.ring.receive(bench.reader.as_raw_fd(), 0, Receive::Limited { bundle: false, total }, 0);
    bench.ring.enter(1)?;
    bench.ring.enter(0)?;
    let completions = bench.ring.completions();
    let seen: Vec<_> = completions.iter().map(|cqe| (cqe.result, cqe.more())).collect();
    Ok(seen == [(BUFFER_SIZE as i32, true), (BUFFER_SIZE as i32, false)])
}

/// Writes a running pattern, returns the buffers in changing order, and compares every byte.
fn keeps_contents(bundle: bool, planted: Planted) -> io::Result<bool> {
    let mut bench = Bench::new(planted)?;
    let receive = Receive::Limited { bundle, total: 4 * BUFFER_SIZE };
    let (mut position, mut armed) = (0usize, false);
    for round in 0..ROUNDS {
        let sent: Vec<u8> =
            (position..position + LENGTHS[round % LENGTHS.len()]).map(pattern).collect();
        position += sent.len();
        bench.writer.write_all(&sent)?;
        let mut chunks: Vec<Chunk> = Vec::new();
        while chunks.iter().map(|chunk| chunk.len()).sum::<usize>() < sent.len() {
            if !armed {
                bench.ring.receive(bench.reader.as_raw_fd(), 0, receive, 0);
            }
            bench.pool.refill();
            bench.ring.enter(1)?;
            armed = true;
            let completions = bench.ring.completions();
            for cqe in &completions {
                let (Some(first), 1..) = (cqe.buffer(), cqe.result) else { return Ok(false) };
                bench.pool.lend(first, cqe.result as u32, |chunk| chunks.push(chunk));
                armed = cqe.more();
            }
            bench.ring.recycle(completions);
        }
        if chunks.iter().flat_map(|chunk| chunk.iter()).ne(sent.iter()) {
            return Ok(false);
        }
        let rotate = round % chunks.len();
        chunks.rotate_left(rotate);
        if round % 2 == 1 {
            chunks.reverse();
        }
    }
    Ok(bench.pool.lent() == 0)
}

fn pattern(position: usize) -> u8 {
    (position.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// A small ring and pool, and a socket pair to try them on. The ring first: it is dropped first.
struct Bench {
    ring: Ring,
    pool: Rc<Pool>,
    writer: UnixStream,
    reader: UnixStream,
}

impl Bench {
    fn new(planted: Planted) -> io::Result<Bench> {
        let (mut ring, pool) =
            (Ring::with_entries(u32::from(BUFFERS))?, Pool::new(BUFFERS, BUFFER_SIZE, planted)?);
        ring.register_pool(&pool, 0)?;
        let (writer, reader) = UnixStream::pair()?;
        Ok(Bench { ring, pool, writer, reader })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_way_that_works_is_chosen() {
        let choose = |limited, bundles, wants_bundles| {
            Receive::choose(Abilities { limited, bundles }, wants_bundles, 1000)
        };
        let limited = |bundle| Receive::Limited { bundle, total: 1000 };
        assert_eq!(choose(false, false, true), Receive::Single);
        assert_eq!(choose(true, true, false), limited(false));
        assert_eq!(choose(true, false, true), limited(false));
        assert_eq!(choose(true, true, true), limited(true));
    }

    #[test]
    fn contents_are_kept_and_a_planted_mistake_shows() {
        let abilities = abilities();
        if !abilities.limited {
            return eprintln!("skipped: no limited receive on this kernel");
        }
        assert!(keeps_contents(false, Planted::Nothing).unwrap());
        if abilities.bundles {
            assert!(!keeps_contents(true, Planted::ConsecutiveBundles).unwrap());
        }
    }
}
