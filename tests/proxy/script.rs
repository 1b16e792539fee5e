//! The language of `tests/scripts/*.bolt`: conversations with the whole proxy, line by line.
//!
//! ```text
//! # a comment; an indented line goes on where the one before it ended
//! set KEY=VALUE             a setting of the proxy; before the first conversation line
//! server WORD=VALUE         an option of the synthetic server: versions, hint_seconds, noops,
//!                           run_delay_ms, login_delay_ms, loses_reset_race, home, fail, expired,
//!                           utc_patch, agent,
//!                           login (SCHEME PRINCIPAL CREDENTIALS REALM USER, - for none)
//! C: SAID ; SAID            what a client says, in one write; C2: is a second client
//! S: HEARD ; HEARD          what it hears next, in this order; S2: for the second
//! ! ORDER                   what else happens, or must be so
//!
//! SAID    PROPOSE 5.8-2 4.4 manifest    the handshake; 5.8-2 is the range down to 5.6
//!         CHOOSE 5.8                    the answer to a manifest
//!         LOGIN 5.4 [USER PASSWORD]     handshake and login, answers included
//!         HELLO, LOGON, RUN, PULL ...   a message; fields left out are the usual ones
//!         HALF MESSAGE                  the first half of its bytes
//!         HEX 00 01 ...    TEXT "GET / HTTP/1.1\r\n"    NOOP
//!         FRAGMENT n       later bytes are written so many at a time
//!         CHUNK n          later messages have chunks of so many bytes
//!         PAUSE n          milliseconds of nothing
//!         FIN, RST         the end of the connection; HALFCLOSE only of its own side
//! HEARD   VERSION 5.4, NONE, MANIFEST 5.8 5.4   the handshake's answer
//!         SUCCESS {}, FAILURE {}, IGNORED, RECORD []   a message; maps may have more keys
//!         CODE Neo.Error...             a FAILURE with this code in either shape
//!         NOOP, HEX 00 01, LINE text, EOF, SILENCE
//! ORDER   kill, stop, restart, password USER WORD
//!         wait METRIC NUMBER            until a metric is so
//!         metric METRIC NUMBER          it is so now
//!         ledger NONCE committed | undone | unknown to it: none
//!         executed NONCE USER           once, as this user
//!         logins ACCEPTED REFUSED       what the server has counted
//!         fault die | stall | extra MESSAGE, fault fail MESSAGE CODE    at the next such message
//!         fault none
//! ```

use crate::client::{Client, Message, SILENCE, Said, Way, chunked, hello, logon, proposals};
use crate::stage::{Stage, until_metrics};
use crate::value::{Value, hex, map};
use boltmux::synthetic::{Faults, Login, Misdeed, Options, Outcome};
use boltmux::wire::handshake;
use boltmux::wire::message::tag;
use boltmux::wire::version::Version;
use std::collections::BTreeMap;
use std::time::Duration;

type Done = Result<(), String>;

/// Plays a whole script; the error names the line.
pub fn play(text: &str, way: Way) -> Done {
    let mut play = Play { way, ..Play::default() };
    for (number, line) in joined(text) {
        play.line(&line).map_err(|error| format!("line {number}: {line}: {error}"))?;
    }
    play.end()
}

/// Lines with their numbers, from 1, without comments; an indented one belongs to the one before.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let told = text.lines().enumerate();
    for (index, line) in told.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        match lines.last_mut().filter(|_| line.starts_with(' ')) {
            Some((_, last)) => last.extend([" ", line.trim()]),
            None => lines.push((index + 1, line.trim().into())),
        }
    }
    lines
}

#[derive(Default)]
struct Play {
    way: Way,
    pairs: Vec<String>,
    options: Options,
    stage: Option<Stage>,
    actors: BTreeMap<String, Actor>,
}

struct Actor {
    client: Client,
    fragment: Option<usize>,
    chunk: usize,
}

impl Play {
    fn line(&mut self, line: &str) -> Done {
        if let Some(rest) = line.strip_prefix("set ") {
            self.pairs.push(rest.trim().into());
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("server ") {
            return self.option(rest.trim());
        }
        self.open();
        if let Some(order) = line.strip_prefix("! ") {
            return self.order(order);
        }
        let (who, what) = line.split_once(": ").ok_or("expected C:, S:, set, server or !")?;
        let (side, name) = who.split_at(1);
        let name = name.to_owned();
        let parts = what.split(" ; ").map(str::trim);
        match side {
            "C" => self.say(&name, parts),
            "S" => parts.into_iter().try_for_each(|part| self.actor(&name).hear(part)),
            _ => Err("expected C: or S:".into()),
        }
    }

    fn option(&mut self, text: &str) -> Done {
        let (word, value) = text.split_once('=').ok_or("expected WORD=VALUE")?;
        let number = || value.parse::<u64>().map_err(|_| format!("no number: {value}"));
        let faults = &mut self.options.faults;
        match word {
            "versions" => self.options.versions = versions(value.split(','))?,
            "agent" => self.options.agent = value.into(),
            "hint_seconds" => self.options.recv_timeout_seconds = Some(number()?),
            "home" => self.options.home_database = value.into(),
            "utc_patch" => self.options.utc_patch = value == "true",
            "expired" => self.options.expired.push(value.into()),
            "login" => {
                let words: Vec<&str> = value.split(' ').collect();
                let [scheme, principal, credentials, realm, user] = words[..] else {
                    return Err("expected SCHEME PRINCIPAL CREDENTIALS REALM USER".into());
                };
                let [principal, credentials, realm] = [principal, credentials, realm]
                    .map(|word| Some(word.to_owned()).filter(|word| word != "-"));
                let (scheme, user) = (scheme.into(), user.into());
                self.options.logins.push(Login { scheme, principal, credentials, realm, user });
            }
            "noops" => faults.noops_before_answer = number()? as u32,
            "run_delay_ms" => faults.run_delay_ms = number()?,
            "login_delay_ms" => faults.login_delay_ms = number()?,
            "loses_reset_race" => faults.loses_reset_race = value == "true",
            "fail_begin" => *faults = Faults::failing(tag::BEGIN, value, 1),
            _ => return Err(format!("no such option: {word}")),
        }
        Ok(())
    }

    fn open(&mut self) {
        if self.stage.is_none() {
            let pairs: Vec<&str> = self.pairs.iter().map(String::as_str).collect();
            self.stage = Some(Stage::start(&pairs, self.options.clone()));
        }
    }

    fn stage(&self) -> &Stage {
        self.stage.as_ref().expect("opened by the first line")
    }

    /// Connects at its first word.
    fn actor(&mut self, name: &str) -> &mut Actor {
        let (address, way) = (self.stage().address(), self.way);
        self.actors.entry(name.into()).or_insert_with(|| Actor {
            client: Client::connect_by(way, address),
            fragment: None,
            chunk: 65_535,
        })
    }

    fn say<'a>(&mut self, name: &str, parts: impl Iterator<Item = &'a str>) -> Done {
        let mut bytes = Vec::new();
        for part in parts {
            let (word, rest) = part.split_once(' ').unwrap_or((part, ""));
            match word {
                "LOGIN" => {
                    let client = login(self.stage(), self.way, rest)?;
                    let actor = Actor { client, fragment: None, chunk: 65_535 };
                    self.actors.insert(name.into(), actor);
                }
                "PAUSE" => {
                    self.actor(name).write(&std::mem::take(&mut bytes))?;
                    let pause = rest.parse().map_err(|_| "expected milliseconds")?;
                    std::thread::sleep(Duration::from_millis(pause));
                }
                "FIN" | "RST" => {
                    self.actor(name).write(&std::mem::take(&mut bytes))?;
                    let actor = self.actors.remove(name).expect("spoke just now");
                    if word == "RST" {
                        actor.client.reset_connection();
                    }
                }
                _ => bytes.extend(self.actor(name).said(word, rest)?),
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.actor(name).write(&bytes)
    }

    fn order(&mut self, order: &str) -> Done {
        let words: Vec<&str> = order.split(' ').collect();
        let stage = self.stage();
        match words[..] {
            ["kill"] => stage.server.kill_all(),
            ["stop"] => stage.server.stop(),
            ["restart"] => stage.server.restart()?,
            ["password", user, word] => stage.server.set_password(user, word),
            ["wait", metric, number] => {
                let wanted = number.parse::<u64>().map_err(|_| "expected a number")?;
                until_metrics(stage.proxy.admin, order, |all| all.get(metric) == wanted);
            }
            ["metric", metric, number] => {
                let came = stage.proxy.metrics().get(metric);
                if number.parse() != Ok(came) {
                    return Err(format!("it is {came}"));
                }
            }
            ["executed", nonce, user] => return executed(stage, nonce, user),
            ["fault", "none"] => stage.server.set_faults(Faults::default()),
            ["fault", act, message] => {
                let misdeed = match act {
                    "die" => Misdeed::Die { after_bytes: 0 },
                    "stall" => Misdeed::Stall,
                    "extra" => Misdeed::Extra,
                    _ => return Err("expected die, stall, extra or fail".into()),
                };
                let tag = request_tag(message)?;
                stage.server.set_faults(Faults::spoiling(tag, misdeed, u64::MAX));
            }
            ["fault", "fail", message, code] => {
                let tag = request_tag(message)?;
                stage.server.set_faults(Faults::failing(tag, code, u64::MAX));
            }
            ["ledger", nonce, wanted] => return ledger(stage, nonce, wanted),
            ["logins", accepted, refused] => {
                let stats = stage.server.stats();
                let came = format!("{} {}", stats.logins_ok, stats.logins_failed);
                if came != format!("{accepted} {refused}") {
                    return Err(format!("they are {came}"));
                }
            }
            _ => return Err("no such order".into()),
        }
        Ok(())
    }

    /// After every script nobody holds anything, and the counts balance.
    fn end(self) -> Done {
        let stage = self.stage.ok_or("nothing is said in it")?;
        drop(self.actors);
        let admin = stage.proxy.admin;
        let metrics = until_metrics(admin, "everybody has gone", |all| {
            all.get("server_connections{leased}") == 0
                && all.get("server_connections{busy}") == 0
                && all.get("clients_waiting") == 0
                && all.get("client_connections{login}") == 0
                && all.get("client_connections{serving}") == 0
                && all.get("server_permits_taken") == all.get("server_connections{idle}")
        });
        let get = |name| metrics.get(name);
        let idle = get("server_connections{idle}");
        let closed: u64 = metrics.family("closed").iter().map(|(_, count)| count).sum();
        let balances = get("server_opened") == get("server_closed") + idle
            && get("leases_acquired") == get("leases_returned")
            && get("clients_accepted") == closed
            && get("heap_bytes") == 0;
        if balances { Ok(()) } else { Err(format!("the counts do not balance: {metrics:#?}")) }
    }
}

impl Actor {
    fn write(&mut self, bytes: &[u8]) -> Done {
        let size = self.fragment.unwrap_or(bytes.len().max(1));
        for part in bytes.chunks(size) {
            self.client.try_send(part).map_err(|error| format!("cannot send: {error}"))?;
            if self.fragment.is_some() {
                // Lets the proxy see this part alone, most of the time.
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// The bytes of one thing said.
    fn said(&mut self, word: &str, rest: &str) -> Result<Vec<u8>, String> {
        let number = || rest.parse::<usize>().map_err(|_| format!("no number: {rest:?}"));
        Ok(match word {
            "PROPOSE" => {
                let all: Result<Vec<_>, _> = rest.split(' ').map(proposal).collect();
                proposals(&all?)
            }
            "CHOOSE" => {
                self.client.version = version(rest)?;
                handshake::manifest_choice(self.client.version)
            }
            "HEX" => hex(rest)?,
            "TEXT" => rest.trim_matches('"').replace("\\r\\n", "\r\n").into_bytes(),
            "NOOP" => vec![0, 0],
            "FRAGMENT" => {
                self.fragment = Some(number()?);
                Vec::new()
            }
            "CHUNK" => {
                self.chunk = number()?;
                Vec::new()
            }
            "HALFCLOSE" => {
                let shut = self.client.stream.shutdown(std::net::Shutdown::Write);
                shut.map_err(|error| error.to_string())?;
                Vec::new()
            }
            "HALF" => {
                let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let mut bytes = self.said(word, rest)?;
                bytes.truncate(bytes.len() / 2);
                bytes
            }
            _ => self.message(word, rest)?,
        })
    }

    fn message(&self, word: &str, rest: &str) -> Result<Vec<u8>, String> {
        let mut fields = Value::parse_all(rest)?;
        let version = self.client.version;
        let password = crate::client::PASSWORD;
        let all = match version.has_database() {
            true => vec![Value::Map(vec![("n".into(), Value::Int(-1))])],
            false => vec![], // Bolt 3: PULL_ALL, DISCARD_ALL
        };
        let (tag, usual) = match word {
            "HELLO" if fields.is_empty() => return Ok(hello(version, "neo4j", password)),
            "LOGON" if fields.is_empty() => return Ok(logon("neo4j", password)),
            "HELLO" => (tag::HELLO, vec![]),
            "LOGON" => (tag::LOGON, vec![]),
            "LOGOFF" => (tag::LOGOFF, vec![]),
            "GOODBYE" => (tag::GOODBYE, vec![]),
            "RESET" => (tag::RESET, vec![]),
            "RUN" => (tag::RUN, vec!["RETURN 1".into(), map(&[]), map(&[])]),
            "PULL" => (tag::PULL, all),
            "DISCARD" => (tag::DISCARD, all),
            "BEGIN" => (tag::BEGIN, vec![map(&[])]),
            "COMMIT" => (tag::COMMIT, vec![]),
            "ROLLBACK" => (tag::ROLLBACK, vec![]),
            "TELEMETRY" => (tag::TELEMETRY, vec![Value::Int(0)]),
            "ROUTE" => (tag::ROUTE, vec![map(&[]), Value::List(vec![]), map(&[])]),
            _ => return Err(format!("no such message: {word}")),
        };
        let left_out = usual.into_iter().skip(fields.len());
        fields.extend(left_out);
        let mut payload = Vec::new();
        Value::Struct(tag, fields).pack(&mut payload);
        Ok(chunked(&payload, self.chunk))
    }

    fn hear(&mut self, part: &str) -> Done {
        let (word, rest) = part.split_once(' ').unwrap_or((part, ""));
        match word {
            "VERSION" => {
                self.client.version = version(rest)?;
                self.bytes(&self.client.version.to_bytes())
            }
            "NONE" => self.bytes(&[0; 4]),
            "NOOP" => self.bytes(&[0; 2]),
            "HEX" => self.bytes(&hex(rest)?),
            "MANIFEST" => self.manifest(&versions(rest.split(' '))?),
            "LINE" => self.text_line(rest),
            "EOF" => match self.client.next() {
                Said::EndOfFile => Ok(()),
                said => Err(format!("got {said:?}")),
            },
            "SILENCE" => self.silence(),
            "CODE" => {
                let failure = self.next()?;
                let came = Value::from(failure.code());
                let is_met = failure.tag == tag::FAILURE && Value::from(rest).is_met_by(&came);
                if is_met { Ok(()) } else { Err(format!("got {}", shown(&failure))) }
            }
            _ => {
                let wanted = match word {
                    "SUCCESS" => tag::SUCCESS,
                    "RECORD" => tag::RECORD,
                    "IGNORED" => tag::IGNORED,
                    "FAILURE" => tag::FAILURE,
                    _ => return Err(format!("no such thing to hear: {word}")),
                };
                let came = self.next()?;
                let fields = Value::parse_all(rest)?;
                let mut both = fields.iter().zip(&came.fields);
                let is_met = fields.len() <= came.fields.len()
                    && both.all(|(wanted, came)| wanted.is_met_by(came));
                let is_so = came.tag == wanted && is_met;
                if is_so { Ok(()) } else { Err(format!("got {}", shown(&came))) }
            }
        }
    }

    fn next(&mut self) -> Result<Message, String> {
        match self.client.next() {
            Said::Message(message) => Ok(message),
            said => Err(format!("got {said:?}")),
        }
    }

    fn bytes(&mut self, wanted: &[u8]) -> Done {
        let came = self.client.read(wanted.len()).map_err(|said| format!("got {said:?}"))?;
        if came == wanted { Ok(()) } else { Err(format!("got {came:02X?}, not {wanted:02X?}")) }
    }

    fn manifest(&mut self, wanted: &[Version]) -> Done {
        let mut bytes = Vec::new();
        let came = loop {
            bytes.extend(self.client.read(1).map_err(|said| format!("got {said:?}"))?);
            let parsed = handshake::parse_manifest(&bytes).map_err(|error| error.to_string())?;
            if let Some((_, versions)) = parsed {
                break versions;
            }
        };
        if came == wanted { Ok(()) } else { Err(format!("got {came:?}")) }
    }

    /// A line of an HTTP answer that begins so; others before it are skipped.
    fn text_line(&mut self, start: &str) -> Done {
        let mut line = Vec::new();
        loop {
            let byte = self.client.read(1).map_err(|said| format!("got {said:?}"))?[0];
            line.push(byte);
            let text = String::from_utf8_lossy(&line);
            if text.starts_with(start) {
                return Ok(());
            }
            if byte == b'\n' {
                line.clear();
            }
        }
    }

    fn silence(&mut self) -> Done {
        let stream = &self.client.stream;
        stream.set_read_timeout(Some(SILENCE)).map_err(|error| error.to_string())?;
        let said = self.client.next();
        let stream = &self.client.stream;
        let patience = Some(crate::client::PATIENCE);
        stream.set_read_timeout(patience).map_err(|error| error.to_string())?;
        if said == Said::Nothing { Ok(()) } else { Err(format!("got {said:?}")) }
    }
}

fn shown(message: &Message) -> String {
    let fields: Vec<String> = message.fields.iter().map(Value::to_string).collect();
    format!("{} {}", tag::name(message.tag), fields.join(" "))
}

fn login(stage: &Stage, way: Way, rest: &str) -> Result<Client, String> {
    let words: Vec<&str> = rest.split(' ').collect();
    let (version, user, password) = match words[..] {
        [text] => (version(text)?, "neo4j", crate::client::PASSWORD),
        [text, user, password] => (version(text)?, user, password),
        _ => return Err("expected LOGIN VERSION [USER PASSWORD]".into()),
    };
    let client = Client::connect_by(way, stage.address());
    let client = client.agree(version).log_in(user, password);
    client.map_err(|said| format!("got {said:?}"))
}

fn ledger(stage: &Stage, nonce: &str, wanted: &str) -> Done {
    let ledger = stage.server.ledger();
    let mut entries = ledger.iter().filter(|entry| entry.nonce.as_deref() == Some(nonce));
    let came = match entries.next().map(|entry| entry.outcome) {
        None => "none",
        Some(Outcome::Committed) => "committed",
        Some(Outcome::Open) => "open",
        Some(Outcome::RolledBack | Outcome::Failed) => "undone",
    };
    match entries.next() {
        Some(_) => Err("it was executed more than once".into()),
        None if came == wanted => Ok(()),
        None => Err(format!("it is {came}")),
    }
}

fn executed(stage: &Stage, nonce: &str, user: &str) -> Done {
    let ledger = stage.server.ledger();
    let entries = ledger.iter().filter(|entry| entry.nonce.as_deref() == Some(nonce));
    let users: Vec<&str> = entries.map(|entry| &*entry.user).collect();
    if users == [user] { Ok(()) } else { Err(format!("it was executed by {users:?}")) }
}

fn request_tag(name: &str) -> Result<u8, String> {
    let tags = [
        tag::HELLO,
        tag::LOGON,
        tag::LOGOFF,
        tag::RESET,
        tag::RUN,
        tag::PULL,
        tag::BEGIN,
        tag::COMMIT,
        tag::ROUTE,
    ];
    let found = tags.into_iter().find(|known| tag::name(*known) == name);
    found.ok_or_else(|| format!("no such message: {name}"))
}

fn version(text: &str) -> Result<Version, String> {
    text.parse().map_err(|_| format!("no version: {text:?}"))
}

fn versions<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<Version>, String> {
    texts.map(version).collect()
}

/// `5.8-2` is 5.8 and two minor versions below.
fn proposal(text: &str) -> Result<[u8; 4], String> {
    if text == "manifest" {
        return Ok([0, 0, 1, 0xFF]);
    }
    let (highest, range) = text.split_once('-').unwrap_or((text, "0"));
    let [_, _, minor, major] = match highest.split_once('.') {
        Some((major, minor)) => {
            let number = |text: &str| text.parse().map_err(|_| format!("no version: {text:?}"));
            [0, 0, number(minor)?, number(major)?]
        }
        None => return Err(format!("no version: {text:?}")),
    };
    Ok([0, range.parse().map_err(|_| format!("no range: {range:?}"))?, minor, major])
}
