//! The client's half of WebSocket: one masked frame per write, and the payloads of what comes.

use boltmux::transport::websocket::codec::{Decoder, Event, apply_mask, binary_header};
use std::io::{Read, Write};

/// The key of RFC 6455, 1.3, and its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;

/// An upgrade as a browser asks for it, without its end.
pub fn request() -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nOrigin: https://browser.example\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    )
}

/// One frame of a client; `first` has the final bit and the opcode.
pub fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = binary_header(payload.len()).as_ref().to_vec();
    bytes[0] = first;
    bytes[1] |= 0x80;
    bytes.extend(mask);
    let start = bytes.len();
    bytes.extend(payload);
    apply_mask(&mut bytes[start..], mask, 0);
    bytes
}

/// Where a connection is within its frames.
pub struct Frames {
    decoder: Decoder,
    masks: u32,
    pub pings: usize,
    pub pongs: Vec<Vec<u8>>,
    /// The code of the server's Close.
    pub close: Option<Option<u16>>,
}

impl Frames {
    /// Asks for the upgrade on a fresh connection, and reads its answer.
    pub fn upgrade(stream: &mut (impl Read + Write)) -> Frames {
        stream.write_all((request() + "\r\n").as_bytes()).unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("a whole answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(&format!("Sec-WebSocket-Accept: {ACCEPT}\r\n")), "{head}");
        assert!(!head.to_ascii_lowercase().contains("extensions"), "{head}");
        let decoder = Decoder::of_server();
        Frames { decoder, masks: 0, pings: 0, pongs: Vec::new(), close: None }
    }

    /// One frame for one write.
    pub fn pack(&mut self, payload: &[u8]) -> Vec<u8> {
        self.masks = self.masks.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        frame(BINARY, payload, self.masks.to_be_bytes())
    }

    /// The payloads in what came.
    pub fn unpack(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let Frames { decoder, pings, pongs, close, .. } = self;
        let decoded = decoder.decode(&mut bytes, |event| match event {
            Event::Ping(_) => *pings += 1,
            Event::Pong(payload) => pongs.push(payload.to_vec()),
            Event::Close(code) => *close = Some(code),
        });
        assert_eq!(decoded.fault, None, "the server keeps the rules");
        bytes[decoded.payload].to_vec()
    }
}
