//! The rules one by one, every cut, and the twin: another implementation reads the same bytes.

use super::*;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A client's frame.
fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = binary_header(payload.len()).as_ref().to_vec();
    bytes[0] = first;
    bytes[1] |= MASKED;
    bytes.extend(mask);
    let start = bytes.len();
    bytes.extend(payload);
    apply_mask(&mut bytes[start..], mask, 0);
    bytes
}

/// What a decoder made of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    data: Vec<u8>,
    pings: Vec<Vec<u8>>,
    pongs: usize,
    close: Option<Option<u16>>,
    fault: Option<Fault>,
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    read_with(Decoder::of_client(), pieces)
}

fn read_with<'a>(mut decoder: Decoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut seen = Seen::default();
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let Seen { pings, pongs, close, .. } = &mut seen;
        let decoded = decoder.decode(&mut bytes, |event| match event {
            Event::Ping(payload) => pings.push(payload.to_vec()),
            Event::Pong(_) => *pongs += 1,
            Event::Close(code) => *close = Some(code),
        });
        assert!(decoded.moved <= decoded.payload.len());
        seen.data.extend(&bytes[decoded.payload]);
        seen.fault = seen.fault.or(decoded.fault);
        assert_eq!(decoder.has_ended(), seen.fault.is_some() || seen.close.is_some());
    }
    seen
}

#[test]
fn the_example_of_the_specification_is_read() {
    // RFC 6455, 5.7: "Hello" masked, here as a binary frame.
    let bytes = [0x82, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58];
    assert_eq!(frame(0x82, b"Hello", MASK), bytes);
    assert_eq!(read([&bytes[..]]).data, b"Hello");
}

#[test]
fn fragments_and_control_frames_are_read_in_every_cut() {
    let stream = [
        frame(0x02, b"\x00\x03ab", MASK),
        frame(0x89, b"are you there", [1, 2, 3, 4]),
        frame(0x00, b"", MASK),
        frame(0x8A, b"", MASK),
        frame(0x80, b"c\x00\x00", [0xFF, 0, 0x80, 7]),
        frame(0x82, b"", MASK),
        frame(0x82, &[7; 200], [9, 8, 7, 6]),
        frame(0x89, b"", MASK),
        frame(0x88, b"\x03\xE8bye", MASK),
    ];
    let stream = stream.concat();
    let expected = Seen {
        data: [&b"\x00\x03abc\x00\x00"[..], &[7; 200]].concat(),
        pings: vec![b"are you there".to_vec(), Vec::new()],
        pongs: 1,
        close: Some(Some(1000)),
        fault: None,
    };
    assert_eq!(read([&stream[..]]), expected);
    assert_eq!(read(stream.chunks(1)), expected);
    for cut in 0..=stream.len() {
        let (front, back) = stream.split_at(cut);
        assert_eq!(read([front, back]), expected, "cut at {cut}");
    }
}

#[test]
fn payloads_of_one_slice_come_in_one_piece() {
    // The shorter of both is moved: the later one down, or the earlier one up.
    for (payloads, moved, start) in
        [([&b"abcd"[..], b"e"], 1, 6), ([b"a", b"bcde"], 1, 12), ([b"abc", b"de"], 2, 6)]
    {
        let mut bytes = payloads.map(|payload| frame(0x82, payload, MASK)).concat();
        let decoded = Decoder::of_client().decode(&mut bytes, |_| {});
        assert_eq!((&bytes[decoded.payload.clone()], decoded.moved), (&b"abcde"[..], moved));
        assert_eq!(decoded.payload.start, start);
    }
    let frames = [(0x02, &b"abc"[..]), (0x89, b"ping"), (0x00, b"d"), (0x80, b"efghij")];
    let mut bytes = frames.map(|(first, payload)| frame(first, payload, MASK)).concat();
    let decoded = Decoder::of_client().decode(&mut bytes, |_| {});
    assert_eq!((&bytes[decoded.payload.clone()], decoded.moved), (&b"abcdefghij"[..], 1 + 4));
}

#[test]
fn what_is_forbidden_is_refused_in_every_cut() {
    let open = |next: Vec<u8>| [frame(0x02, b"ab", MASK), next].concat();
    let unmasked = [0x82, 2, b'a', b'b'].to_vec();
    let long = |length: &[u8]| [&[0x82, 0x80 | 127][..], length, &MASK].concat();
    let rest = MESSAGE_BYTES_MAX - 1;
    for (stream, fault, code) in [
        (frame(0xC2, b"ab", MASK), Fault::ReservedBits, 1002),
        (frame(0xA2, b"ab", MASK), Fault::ReservedBits, 1002),
        (frame(0x92, b"ab", MASK), Fault::ReservedBits, 1002),
        (frame(0x83, b"ab", MASK), Fault::UnknownOpcode, 1002),
        (frame(0x8B, b"ab", MASK), Fault::UnknownOpcode, 1002),
        (open(frame(0x87, b"ab", MASK)), Fault::UnknownOpcode, 1002),
        (frame(0x81, b"text", MASK), Fault::Text, 1003),
        (frame(0x01, b"text", MASK), Fault::Text, 1003),
        (frame(0x09, b"", MASK), Fault::FragmentedControl, 1002),
        (frame(0x89, &[0; 126], MASK), Fault::LongControl, 1002),
        (frame(0x80, b"ab", MASK), Fault::NothingToContinue, 1002),
        (open(frame(0x82, b"ab", MASK)), Fault::MessageUnfinished, 1002),
        (open(frame(0x81, b"ab", MASK)), Fault::MessageUnfinished, 1002),
        (unmasked, Fault::Mask, 1002),
        (vec![0x82, 0x80 | 126, 0, 125, 0, 0, 0, 0], Fault::LengthNotMinimal, 1002),
        (long(&[0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), Fault::LengthNotMinimal, 1002),
        (long(&[0, 0, 0, 0, 0, 1, 0, 1]), Fault::TooLong, 1009),
        (long(&[0xFF; 8]), Fault::TooLong, 1009),
        (open(frame(0x80, &vec![0; rest], MASK)), Fault::TooLong, 1009),
        (frame(0x88, b"\x03", MASK), Fault::Close, 1002),
        (frame(0x88, b"\x03\xED", MASK), Fault::Close, 1002),
        (frame(0x88, b"\x03\xE8\xFF", MASK), Fault::Close, 1002),
    ] {
        let whole = read([&stream[..]]);
        assert_eq!(whole.fault, Some(fault), "{:02x?}", &stream[..stream.len().min(20)]);
        assert_eq!((fault.code() as u16, whole.close), (code, None));
        for cut in 0..stream.len().min(20) {
            let (front, back) = stream.split_at(cut);
            assert_eq!(read([front, back]), whole, "{fault:?} cut at {cut}");
        }
        assert_eq!(read(stream.chunks(1)), whole, "{fault:?} byte by byte");
    }
}

#[test]
fn the_longest_frame_and_message_are_taken() {
    let all: Vec<u8> = (0..MESSAGE_BYTES_MAX).map(|at| (at * 7) as u8).collect();
    let whole = frame(0x82, &all, MASK);
    let (front, back) = all.split_at(40_000);
    let parts = [frame(0x02, front, MASK), frame(0x89, b"", MASK), frame(0x80, back, MASK)];
    for stream in [whole.clone(), parts.concat(), [whole.clone(), whole].concat()] {
        for size in [1, 1000, 16 << 10, usize::MAX] {
            let seen = read(stream.chunks(size));
            assert_eq!(seen.fault, None);
            assert!(seen.data.chunks(all.len()).all(|message| message == all));
        }
    }
}

#[test]
fn masks_follow_their_phase() {
    let plain: Vec<u8> = (0..100).collect();
    for cut in 0..plain.len() {
        let mut bytes = plain.clone();
        let (front, back) = bytes.split_at_mut(cut);
        apply_mask(front, MASK, 0);
        apply_mask(back, MASK, cut);
        let expected: Vec<u8> =
            plain.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        assert_eq!(bytes, expected, "cut at {cut}");
    }
}

#[test]
fn what_a_server_sends_is_read_back() {
    for length in [0, 1, 125, 126, 65_535, 65_536, 200_000] {
        let payload = vec![5; length];
        let header = binary_header(length);
        let stream = [header.as_ref(), &payload, PING, &pong(b"x"), &close(None)].concat();
        let seen = read_with(Decoder::of_server(), stream.chunks(1000));
        assert_eq!((seen.fault, seen.close, seen.data.len()), (None, Some(None), length));
        assert_eq!((seen.pings.len(), seen.pongs), (1, 1));
    }
    let masked = frame(0x82, b"ab", MASK);
    assert_eq!(masked[..6], masked_header(2, MASK));
    let control = [masked_control(pong(b"x")), masked_control(close(Some(1000)))].concat();
    let seen = read([&control[..]]);
    assert_eq!((seen.pongs, seen.close), (1, Some(Some(1000))));
    assert_eq!(read_with(Decoder::of_server(), [&masked[..]]).fault, Some(Fault::Mask));
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    fn mask(&mut self) -> [u8; 4] {
        [(); 4].map(|()| self.below(256) as u8)
    }

    /// Mostly small, now and then at a border.
    fn length(&mut self) -> usize {
        match self.below(100) {
            0 => [125, 126, 127, 128, 1000][self.below(5)],
            1 if self.below(20) == 0 => [65_534, 65_535, 65_536, 40_000][self.below(4)],
            _ => self.below(40),
        }
    }
}

/// A stream of frames that are as they should be, and what they say.
#[derive(Default)]
struct Script {
    bytes: Vec<u8>,
    data: Vec<u8>,
    frames: u64,
    /// Where frames begin, and the length of the message that is open there.
    starts: Vec<usize>,
    open: Option<usize>,
}

impl Script {
    fn draw(random: &mut Random) -> Script {
        let mut script = Script::default();
        for _ in 0..1 + random.below(40) {
            script.starts.push(script.bytes.len());
            match random.below(10) {
                0 => script.control(0x89, random),
                1 => script.control(0x8A, random),
                _ => script.data(random),
            }
            script.frames += 1;
        }
        script
    }

    fn control(&mut self, first: u8, random: &mut Random) {
        let length = random.below(CONTROL_BYTES_MAX + 1);
        let payload = random.bytes(length);
        self.bytes.extend(frame(first, &payload, random.mask()));
    }

    fn data(&mut self, random: &mut Random) {
        let before = self.open.unwrap_or(0);
        let length = random.length().min(MESSAGE_BYTES_MAX - before);
        let payload = random.bytes(length);
        let is_final = random.below(3) > 0;
        let opcode = if self.open.is_some() { 0 } else { 2 };
        let first = opcode | if is_final { FINAL } else { 0 };
        self.bytes.extend(frame(first, &payload, random.mask()));
        self.data.extend(payload);
        self.open = if is_final { None } else { Some(before + length) };
    }

    /// Ends with a frame that must not be, whole, and says what is wrong with it.
    fn spoil(&mut self, random: &mut Random) -> Fault {
        let mask = random.mask();
        let data = if self.open.is_some() { 0x80 } else { 0x82 };
        let wrong = if self.open.is_some() { 0x82 } else { 0x80 };
        let short = random.bytes(3);
        let too_long = MESSAGE_BYTES_MAX - self.open.unwrap_or(0) + 1;
        let (bytes, fault) = match random.below(10) {
            0 => (frame(data | 0x40 >> random.below(3), &short, mask), Fault::ReservedBits),
            1 => (frame(0x83 + random.below(5) as u8, &short, mask), Fault::UnknownOpcode),
            2 => (frame(0x8B + random.below(5) as u8, &short, mask), Fault::UnknownOpcode),
            3 => (frame(0x09, &short, mask), Fault::FragmentedControl),
            4 => (frame(0x8A, &[0; 126], mask), Fault::LongControl),
            5 if self.open.is_some() => (frame(wrong, &short, mask), Fault::MessageUnfinished),
            5 => (frame(wrong, &short, mask), Fault::NothingToContinue),
            6 => (vec![data, 3, 1, 2, 3], Fault::Mask),
            7 => (frame(data, &vec![1; too_long], mask), Fault::TooLong),
            8 => (
                frame(0x88, &[[0x03, 0xEE], [0, 0], [0x07, 0xD0]][random.below(3)], mask),
                Fault::Close,
            ),
            _ => (frame(0x88, b"\x03\xE8\xC0", mask), Fault::Close),
        };
        self.bytes.extend(bytes);
        self.frames += 1;
        fault
    }

    fn pieces(&self, random: &mut Random) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut rest = &self.bytes[..];
        let most = [1, 7, 200, 20_000][random.below(4)];
        while !rest.is_empty() {
            let (piece, more) = rest.split_at((1 + random.below(most)).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = more;
        }
        pieces
    }
}

/// The other implementation's verdict.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    Close(Option<u16>),
    Refused,
}

struct Pieces(std::vec::IntoIter<Vec<u8>>, Vec<u8>);

impl std::io::Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.1.is_empty() {
            self.1 = self.0.next().unwrap_or_default();
        }
        let count = self.1.len().min(into.len());
        into[..count].copy_from_slice(&self.1[..count]);
        self.1.drain(..count);
        Ok(count)
    }
}

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the twin reads: whole messages, Pings, and its verdict.
fn twin(pieces: Vec<Vec<u8>>) -> (Vec<u8>, Vec<Vec<u8>>, Verdict) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let pieces = Pieces(pieces.into_iter(), Vec::new());
    let mut socket = WebSocket::from_raw_socket(pieces, Role::Server, Some(config));
    let (mut data, mut pings) = (Vec::new(), Vec::new());
    let verdict = loop {
        match socket.read() {
            Ok(Message::Binary(bytes)) => data.extend(bytes),
            Ok(Message::Ping(bytes)) => pings.push(bytes.to_vec()),
            Ok(Message::Pong(_)) => {}
            // It answers a code that may not be sent with this one.
            Ok(Message::Close(Some(close))) if close.reason == "Protocol violation" => {
                break Verdict::Refused;
            }
            Ok(Message::Close(close)) => break Verdict::Close(close.map(|it| it.code.into())),
            Ok(_) => break Verdict::Refused,
            Err(Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => {
                break Verdict::Open;
            }
            Err(_) => break Verdict::Refused,
        }
    };
    (data, pings, verdict)
}

fn verdict(seen: &Seen) -> Verdict {
    match (seen.fault, seen.close) {
        (Some(_), _) => Verdict::Refused,
        (None, Some(code)) => Verdict::Close(code),
        (None, None) => Verdict::Open,
    }
}

/// Reads so many frames with both; returns how many streams of each verdict there were.
fn compare(frames_wanted: u64, seed: u64) -> [u64; 3] {
    let (mut random, mut frames, mut verdicts) = (Random(seed), 0, [0; 3]);
    while frames < frames_wanted {
        let mut script = Script::draw(&mut random);
        let kind = random.below(3);
        let fault = match kind {
            0 => None,
            1 => {
                let code: &[u8] = [&b""[..], b"\x03\xE8", b"\x0F\xA0why"][random.below(3)];
                script.bytes.extend(frame(0x88, code, random.mask()));
                script.frames += 1;
                None
            }
            _ => Some(script.spoil(&mut random)),
        };
        frames += script.frames;
        verdicts[kind] += 1;
        let pieces = script.pieces(&mut random);
        let ours = read(pieces.iter().map(|piece| &piece[..]));
        let (data, pings, theirs) = twin(pieces);
        assert_eq!(verdict(&ours), theirs, "seed {seed}, frame {frames}");
        assert_eq!(ours.fault, fault, "seed {seed}, frame {frames}");
        assert_eq!(ours.pings, pings, "seed {seed}, frame {frames}");
        // We hand on the fragments of a message that never ends, too.
        assert!(ours.data == script.data, "seed {seed}, frame {frames}");
        let unfinished = script.open.unwrap_or(0);
        assert!(data == script.data[..script.data.len() - unfinished], "seed {seed}");
    }
    verdicts
}

/// The same for streams in which some bytes are any: zeros follow, so that what is refused is whole
/// and read by both.
fn compare_spoilt(frames_wanted: u64, seed: u64) {
    let (mut random, mut frames) = (Random(seed), 0);
    while frames < frames_wanted {
        let mut script = Script::draw(&mut random);
        for _ in 0..1 + random.below(3) {
            let start = script.starts[random.below(script.starts.len())];
            let at = (start + random.below(8)).min(script.bytes.len() - 1);
            script.bytes[at] = random.below(256) as u8;
        }
        frames += script.frames;
        script.bytes.resize(script.bytes.len() + MESSAGE_BYTES_MAX + HEADER_BYTES_MAX, 0);
        let pieces = script.pieces(&mut random);
        let ours = read(pieces.iter().map(|piece| &piece[..]));
        let (data, pings, theirs) = twin(pieces);
        // The twin takes text, and lengths that are longer than need be.
        if matches!(ours.fault, Some(Fault::Text | Fault::LengthNotMinimal)) {
            continue;
        }
        assert_eq!(verdict(&ours), theirs, "seed {seed}, frame {frames}");
        assert_eq!(ours.pings, pings, "seed {seed}, frame {frames}");
        assert!(ours.data.starts_with(&data), "seed {seed}, frame {frames}");
        assert!(ours.data.len() - data.len() <= MESSAGE_BYTES_MAX, "seed {seed}");
    }
}

/// `BOLTMUX_FRAMES` widens it, `BOLTMUX_FRAMES_SEED` shifts it.
#[test]
fn another_implementation_reads_the_same_frames_alike() {
    let number = |name: &str, otherwise: u64| {
        let text = std::env::var(name).ok();
        text.map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let frames = number("BOLTMUX_FRAMES", 6_000);
    let seed = number("BOLTMUX_FRAMES_SEED", 1);
    let verdicts = compare(frames * 2 / 3, seed);
    assert!(verdicts.iter().all(|count| *count > 20), "{verdicts:?}");
    compare_spoilt(frames / 3, seed);
}
