//! A server that tells the truth to everyone but those who ask for Bolt 5.3: them it tells, at one
//! moment of the conversation, what it was given to say.

use crate::client::{V5_4, encode};
use crate::value::{Value, map};
use boltmux::wire::handshake;
use boltmux::wire::message::tag;
use boltmux::wire::version::Version;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Who asks for this is lied to.
pub const LIED_TO: Version = Version::new(5, 3);
/// So that what comes late is not read together with what came before it.
const LATE: Duration = Duration::from_millis(30);

/// What the lie takes the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The answer to the proposals.
    Handshake,
    Hello,
    Logon,
    Run,
    /// PULL's record and summary.
    Pull,
    Begin,
    Commit,
    Reset,
    Route,
    /// Said behind PULL's summary, a moment later.
    Idle,
}

/// What the server does after its lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    GoesOn,
    Closes,
    /// By a reset.
    Dies,
}

#[derive(Clone, Debug)]
pub struct Lie {
    pub moment: Moment,
    pub bytes: Vec<u8>,
    pub then: Then,
}

type Told = Arc<Mutex<Option<Lie>>>;

pub struct Liar {
    pub address: SocketAddr,
    lie: Told,
    lie_to_all: Told,
    is_over: Arc<AtomicBool>,
}

impl Liar {
    pub fn start() -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (lie, lie_to_all, is_over): (Told, Told, Arc<AtomicBool>) = Default::default();
        let (its_lies, its_end) = ([lie.clone(), lie_to_all.clone()], is_over.clone());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if its_end.load(Relaxed) {
                    return;
                }
                let lies = its_lies.clone();
                // A connection that ends in the middle ends its thread; that is all.
                std::thread::spawn(move || Serving::new(stream, lies).serve());
            }
        });
        Liar { address, lie, lie_to_all, is_over }
    }

    /// From now on; `None` is the truth.
    pub fn tell(&self, lie: Option<Lie>) {
        *self.lie.lock().unwrap() = lie;
    }

    /// To those, too, who do not ask for Bolt 5.3.
    pub fn tell_all(&self, lie: Option<Lie>) {
        *self.lie_to_all.lock().unwrap() = lie;
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

struct Serving {
    stream: TcpStream,
    /// To those who ask for Bolt 5.3, and to all others.
    lies: [Told; 2],
    is_lied_to: bool,
}

impl Serving {
    fn new(stream: TcpStream, lies: [Told; 2]) -> Serving {
        stream.set_nodelay(true).expect("a socket has this option");
        Serving { stream, lies, is_lied_to: false }
    }

    fn serve(&mut self) -> Option<()> {
        let mut proposals = [0; 20];
        self.stream.read_exact(&mut proposals).ok()?;
        self.is_lied_to = proposals[4..8] == LIED_TO.to_bytes();
        let is_manifest = proposals[7] == 0xFF;
        let version = if self.is_lied_to { LIED_TO } else { V5_4 };
        let truth = match is_manifest {
            true => handshake::manifest(&[V5_4, LIED_TO]),
            false => version.to_bytes().to_vec(),
        };
        self.say(Moment::Handshake, truth)?;
        if is_manifest {
            self.stream.read_exact(&mut [0; 5]).ok()?;
        }
        loop {
            let tag = self.message()?;
            self.answer(tag)?;
        }
    }

    fn answer(&mut self, tag: u8) -> Option<()> {
        let success = encode(tag::SUCCESS, &[map(&[])]);
        match tag {
            tag::HELLO => {
                let says = map(&[("server", "Neo4j/5.26.0"), ("connection_id", "bolt-1")]);
                self.say(Moment::Hello, encode(tag::SUCCESS, &[says]))
            }
            tag::LOGON => self.say(Moment::Logon, success),
            tag::RUN => {
                let fields = Value::Map(vec![("fields".into(), Value::List(vec!["n".into()]))]);
                self.say(Moment::Run, encode(tag::SUCCESS, &[fields]))
            }
            tag::PULL => {
                let row = encode(tag::RECORD, &[Value::List(vec!["well".into()])]);
                self.say(Moment::Pull, [row, success].concat())?;
                if self.lie(Moment::Idle).is_some() {
                    std::thread::sleep(LATE);
                    self.say(Moment::Idle, Vec::new())?;
                }
                Some(())
            }
            tag::BEGIN => self.say(Moment::Begin, success),
            tag::COMMIT => self.say(Moment::Commit, success),
            tag::RESET => self.say(Moment::Reset, success),
            tag::ROUTE => self.say(Moment::Route, success),
            tag::GOODBYE => None,
            _ => self.stream.write_all(&success).ok(),
        }
    }

    fn lie(&self, moment: Moment) -> Option<Lie> {
        let told = &self.lies[usize::from(!self.is_lied_to)];
        told.lock().unwrap().clone().filter(|lie| lie.moment == moment)
    }

    fn say(&mut self, moment: Moment, truth: Vec<u8>) -> Option<()> {
        let Some(lie) = self.lie(moment) else {
            return self.stream.write_all(&truth).ok();
        };
        self.stream.write_all(&lie.bytes).ok()?;
        match lie.then {
            Then::GoesOn => Some(()),
            Then::Closes => {
                let _ = self.stream.shutdown(Shutdown::Write);
                let _ = self.stream.read_to_end(&mut Vec::new());
                None
            }
            Then::Dies => {
                let socket = socket2::SockRef::from(&self.stream);
                socket.set_linger(Some(Duration::ZERO)).expect("a socket has this option");
                None
            }
        }
    }

    /// Reads one message and returns its tag.
    fn message(&mut self) -> Option<u8> {
        let mut payload = Vec::new();
        loop {
            let mut header = [0; 2];
            self.stream.read_exact(&mut header).ok()?;
            match usize::from(u16::from_be_bytes(header)) {
                0 if payload.is_empty() => {}
                0 => return payload.get(1).copied(),
                length => {
                    let start = payload.len();
                    payload.resize(start + length, 0);
                    self.stream.read_exact(&mut payload[start..]).ok()?;
                }
            }
        }
    }
}
