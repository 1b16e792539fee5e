//! What a fuzz target does with its input, one pure function each: the fuzzer in `fuzz/` calls
//! them with what it invents, and a test with what was kept of that.
//!
//! A panic is a finding. Each asserts more than that: another way to the same result, or a law.

mod conversation;
mod first_bytes;
mod frames;
mod scanning;
mod session;
mod values;

pub type Target = fn(&[u8]);

/// Every target and its name, which is also its corpus's.
pub const ALL: [(&str, Target); 8] = [
    ("handshake", first_bytes::handshake),
    ("http", first_bytes::http),
    ("websocket", frames::websocket),
    ("proxy", first_bytes::proxy),
    ("scanner", scanning::scanner),
    ("packstream", values::packstream),
    ("session_client", session::client),
    ("session_server", session::server),
];

/// The target of that name.
pub fn by_name(name: &str) -> Target {
    let found = ALL.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("expected one of the targets, got {name}")).1
}

/// Cuts bytes into pieces of a few bytes, as `seed` says; 0 leaves them whole.
pub fn pieces(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut state = u32::from(seed);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        // A linear congruential generator is random enough to vary the cuts.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wanted = if seed == 0 { rest.len() } else { 1 + (state >> 24) as usize % 7 };
        let (piece, more) = rest.split_at(wanted.min(rest.len()));
        rest = more;
        Some(piece)
    })
}
