//! WebSocket frames of either side: whatever the cuts, the payloads, the control frames and the
//! verdict are the same.

use super::pieces;
use boltmux::transport::websocket::codec::{Decoder, Event, Fault, MESSAGE_BYTES_MAX};

/// What a stream of frames held.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    payload: Vec<u8>,
    events: Vec<(u8, Vec<u8>)>,
    fault: Option<Fault>,
    has_ended: bool,
}

/// The first byte says whose frames these are and how they are cut.
pub fn websocket(data: &[u8]) {
    let Some((&seed, bytes)) = data.split_first() else { return };
    let decoder = if seed & 1 == 0 { Decoder::of_client() } else { Decoder::of_server() };
    let whole = read(decoder.clone(), [bytes].into_iter());
    assert!(whole.payload.len() <= bytes.len());
    assert_eq!(whole.has_ended, whole.fault.is_some() || whole.events.iter().any(is_close));
    assert_eq!(read(decoder.clone(), pieces(bytes, seed | 1)), whole, "cut by {seed}");
    assert_eq!(read(decoder.clone(), bytes.chunks(1)), whole, "byte by byte");
    if seed & 1 == 0 {
        assert!(whole.payload.len() <= MESSAGE_BYTES_MAX || bytes.len() > MESSAGE_BYTES_MAX);
    }
}

fn is_close(event: &(u8, Vec<u8>)) -> bool {
    event.0 == 8
}

fn read<'a>(mut decoder: Decoder, pieces: impl Iterator<Item = &'a [u8]>) -> Read {
    let mut read = Read::default();
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let decoded = decoder.decode(&mut bytes, |event| {
            read.events.push(match event {
                Event::Ping(payload) => (9, payload.to_vec()),
                Event::Pong(payload) => (10, payload.to_vec()),
                Event::Close(code) => (8, code.unwrap_or(0).to_be_bytes().to_vec()),
            });
        });
        assert!(decoded.payload.end <= bytes.len());
        read.payload.extend_from_slice(&bytes[decoded.payload]);
        assert!(decoded.fault.is_none() || read.fault.is_none(), "a fault is told once");
        read.fault = read.fault.or(decoded.fault);
    }
    read.has_ended = decoder.has_ended();
    read
}
