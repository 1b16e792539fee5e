//! What a query text asks of the synthetic server.
//!
//! Pure. A text is a number of misbehaviours, then what to answer:
//!
//! ```text
//! RETURN $name [AS alias]     one record with that parameter, bytes as they came
//! RETURN 1 [AS alias]         one record [1]
//! ROWS n size                 n records [parameter `nonce` or the index, a string of `size` bytes]
//! WRITE $nonce                no record, type "w"
//! CALL dbms.routing.getRoutingTable, CALL dbms.cluster.routing.getRoutingTable
//!                             one record [300, the servers], as ROUTE answers them
//! FAIL [AT moment] code       FAILURE with that code
//! anything else               one column "x", one record [1]
//!
//! SLEEP ms                    the answer to RUN comes later; RESET interrupts it
//! KEEPALIVE ms                no-ops that often while it sleeps
//! NOOP n                      n no-ops before each answer of this query
//! DIE [AT moment] [AT BYTE n] reset after n bytes of the answer
//! CLOSE [AT moment] [AT BYTE n]   the same with an orderly end
//! STALL [AT moment]           nothing is sent any more, whatever comes
//! FREEZE [AT moment]          as STALL, and nothing is read any more
//! HALF [CLOSE] [AT moment]    half of the answer, then nothing or an orderly end
//! GARBAGE [AT moment]         a message no version knows instead of the answer
//! RESERVED [AT moment]        a record with a marker PackStream reserves instead of the answer
//! OVERSIZED [AT moment]       a chunk that claims more bytes than ever come
//! EXTRA [AT moment]           a SUCCESS nobody asked for behind the answer
//! CLOSE AFTER [AT moment]     an orderly end behind the answer
//! COMMIT SILENT               the commit is done, its answer never comes
//! COMMIT DIE                  the commit is done, then the connection is reset
//! ```
//!
//! A moment is `RUN`, `PULL` (or DISCARD) or `COMMIT`.

/// The request whose answer a misbehaviour spoils.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Run,
    /// PULL and DISCARD.
    Pull,
    Commit,
}

/// What is done to an answer. Where nothing else is said the connection lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdeed {
    /// A connection reset after so many bytes of the answer.
    Die { after_bytes: u64 },
    /// An orderly end after so many bytes of the answer.
    Close { after_bytes: u64 },
    /// The request is carried out; nothing is sent any more.
    Stall,
    /// As `Stall`, and nothing is read any more either.
    Freeze,
    /// Half of the answer, then nothing, or an orderly end.
    Half { close: bool },
    /// A message with a tag no version knows, in place of the answer.
    Garbage,
    /// A record with a reserved PackStream marker, in place of the answer.
    ReservedMarker,
    /// The answer's first chunk claims more bytes than ever come.
    OversizedChunk,
    /// A SUCCESS nobody asked for, behind the answer.
    Extra,
    /// An orderly end behind the answer.
    CloseAfter,
}

/// What to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    Echo { parameter: &'a str, alias: &'a str },
    One { alias: &'a str },
    Rows { count: u64, size: usize },
    Write,
    Table,
    Fail { code: &'a str, moment: Moment },
}

/// One query text, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    pub answer: Answer<'a>,
    pub sleep_ms: u64,
    pub keepalive_ms: Option<u64>,
    pub noops: u32,
    pub misdeed: Option<(Moment, Misdeed)>,
}

/// The longest string `ROWS` makes: one answer must fit into memory many times.
pub const ROW_BYTES_MAX: usize = 64 << 20;
/// The most no-ops before one answer: 128 KiB of them.
pub const NOOPS_MAX: u32 = 65_536;
/// The longest `SLEEP`: a day.
pub const SLEEP_MS_MAX: u64 = 86_400_000;

/// Reads a query text. Everything means something: an unknown text is the canned one-row answer.
pub fn parse(text: &str) -> Query<'_> {
    let mut query = Query {
        answer: Answer::One { alias: "x" },
        sleep_ms: 0,
        keepalive_ms: None,
        noops: 0,
        misdeed: None,
    };
    let mut words = Words { rest: text };
    while words.take_misbehaviour(&mut query) {}
    query.answer = words.answer();
    query
}

struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    /// Takes one prefix; false when what is next is the answer. The first byte decides for the
    /// queries that matter for speed.
    fn take_misbehaviour(&mut self, query: &mut Query<'a>) -> bool {
        let before = self.rest;
        let misdeed = match self.word() {
            "RETURN" | "ROWS" | "WRITE" => None,
            "SLEEP" => {
                query.sleep_ms = self.number().min(SLEEP_MS_MAX);
                return true;
            }
            "KEEPALIVE" => {
                query.keepalive_ms = Some(self.number().max(1));
                return true;
            }
            "NOOP" => {
                query.noops = self.number().min(u64::from(NOOPS_MAX)) as u32;
                return true;
            }
            "DIE" => Some(self.ending(|after_bytes| Misdeed::Die { after_bytes })),
            "CLOSE" if self.takes("AFTER") => Some((Moment::Pull, Misdeed::CloseAfter)),
            "CLOSE" => Some(self.ending(|after_bytes| Misdeed::Close { after_bytes })),
            "STALL" => Some((Moment::Run, Misdeed::Stall)),
            "FREEZE" => Some((Moment::Run, Misdeed::Freeze)),
            "HALF" => Some((Moment::Pull, Misdeed::Half { close: self.takes("CLOSE") })),
            "GARBAGE" => Some((Moment::Pull, Misdeed::Garbage)),
            "RESERVED" => Some((Moment::Pull, Misdeed::ReservedMarker)),
            "OVERSIZED" => Some((Moment::Pull, Misdeed::OversizedChunk)),
            "EXTRA" => Some((Moment::Pull, Misdeed::Extra)),
            "COMMIT" if self.takes("SILENT") => Some((Moment::Commit, Misdeed::Stall)),
            "COMMIT" if self.takes("DIE") => {
                Some((Moment::Commit, Misdeed::Die { after_bytes: 0 }))
            }
            _ => None,
        };
        let Some((moment, misdeed)) = misdeed else {
            self.rest = before;
            return false;
        };
        query.misdeed = Some((self.moment().unwrap_or(moment), misdeed));
        true
    }

    /// `[AT moment] [AT BYTE n]`.
    fn ending(&mut self, misdeed: impl Fn(u64) -> Misdeed) -> (Moment, Misdeed) {
        let moment = self.moment().unwrap_or(Moment::Run);
        let before = self.rest;
        if self.takes("AT") && self.takes("BYTE") {
            return (moment, misdeed(self.number()));
        }
        self.rest = before;
        (moment, misdeed(0))
    }

    fn moment(&mut self) -> Option<Moment> {
        let before = self.rest;
        if self.takes("AT") {
            match self.word() {
                "RUN" => return Some(Moment::Run),
                "PULL" | "DISCARD" => return Some(Moment::Pull),
                "COMMIT" => return Some(Moment::Commit),
                _ => {}
            }
        }
        self.rest = before;
        None
    }

    fn answer(&mut self) -> Answer<'a> {
        match self.word() {
            "RETURN" => match self.word() {
                text if text.starts_with('$') => {
                    let alias = self.alias().unwrap_or(text);
                    Answer::Echo { parameter: &text[1..], alias }
                }
                "1" => Answer::One { alias: self.alias().unwrap_or("1") },
                _ => Answer::One { alias: "x" },
            },
            "ROWS" => {
                let (count, size) = (self.number(), self.number());
                Answer::Rows { count, size: size.min(ROW_BYTES_MAX as u64) as usize }
            }
            "WRITE" => Answer::Write,
            "CALL" => {
                let name = self.word();
                let procedures =
                    ["dbms.routing.getRoutingTable", "dbms.cluster.routing.getRoutingTable"];
                match procedures.iter().any(|procedure| name.starts_with(procedure)) {
                    true => Answer::Table,
                    false => Answer::One { alias: "x" },
                }
            }
            "FAIL" => {
                let moment = self.moment().unwrap_or(Moment::Run);
                Answer::Fail { code: self.word(), moment }
            }
            _ => Answer::One { alias: "x" },
        }
    }

    fn alias(&mut self) -> Option<&'a str> {
        if self.takes("AS") { Some(self.word()) } else { None }
    }

    /// The next word, empty at the end.
    fn word(&mut self) -> &'a str {
        let text = self.rest.trim_ascii_start();
        let is_space = |byte: &u8| byte.is_ascii_whitespace();
        let end = text.as_bytes().iter().position(is_space).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.rest = rest;
        word
    }

    fn takes(&mut self, word: &str) -> bool {
        let before = self.rest;
        let is_next = self.word() == word;
        if !is_next {
            self.rest = before;
        }
        is_next
    }

    /// A number that is missing or too large is 0.
    fn number(&mut self) -> u64 {
        self.word().parse().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let answer = |text| parse(text).answer;
        let echo = Answer::Echo { parameter: "nonce", alias: "nonce" };
        assert_eq!(answer("RETURN $nonce AS nonce"), echo);
        assert_eq!(answer("RETURN $x"), Answer::Echo { parameter: "x", alias: "$x" });
        assert_eq!(answer("RETURN 1"), Answer::One { alias: "1" });
        assert_eq!(answer("RETURN 1 AS n"), Answer::One { alias: "n" });
        assert_eq!(answer("ROWS 5 10"), Answer::Rows { count: 5, size: 10 });
        assert_eq!(answer("WRITE $nonce"), Answer::Write);
        assert_eq!(answer("FAIL A.B"), Answer::Fail { code: "A.B", moment: Moment::Run });
        let at_pull = Answer::Fail { code: "A.B", moment: Moment::Pull };
        assert_eq!(answer("FAIL AT PULL A.B"), at_pull);
        for text in ["", "  ", "SHOW DATABASES", "CALL dbms.components()", "\u{e9}\u{e9}"] {
            assert_eq!(answer(text), Answer::One { alias: "x" }, "{text:?}");
        }
    }

    #[test]
    fn misbehaviours() {
        let misdeed = |text| parse(text).misdeed;
        let die = |after_bytes| Misdeed::Die { after_bytes };
        assert_eq!(misdeed("DIE AT BYTE 9 RETURN 1"), Some((Moment::Run, die(9))));
        assert_eq!(misdeed("DIE AT PULL AT BYTE 9 RETURN 1"), Some((Moment::Pull, die(9))));
        assert_eq!(misdeed("DIE AT COMMIT RETURN 1"), Some((Moment::Commit, die(0))));
        assert_eq!(misdeed("STALL RETURN 1"), Some((Moment::Run, Misdeed::Stall)));
        assert_eq!(misdeed("STALL AT PULL RETURN 1"), Some((Moment::Pull, Misdeed::Stall)));
        assert_eq!(misdeed("HALF CLOSE X"), Some((Moment::Pull, Misdeed::Half { close: true })));
        assert_eq!(misdeed("COMMIT SILENT X"), Some((Moment::Commit, Misdeed::Stall)));
        assert_eq!(misdeed("CLOSE AFTER X"), Some((Moment::Pull, Misdeed::CloseAfter)));
        let query = parse("NOOP 3 KEEPALIVE 20 SLEEP 50 RETURN 1");
        assert_eq!((query.noops, query.keepalive_ms, query.sleep_ms), (3, Some(20), 50));
        assert_eq!(query.answer, Answer::One { alias: "1" });
    }
}
