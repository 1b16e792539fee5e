//! PackStream values, written and read independently of the proxy, and as text in scripts.
//!
//! ```text
//! null  true  -7  "text"  #DEADBEEF  [1, 2]  {key: value}
//! *          anything at all
//! "text..."  a text that begins so
//! ```

use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Bytes(Vec<u8>),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
    Struct(u8, Vec<Value>),
    /// Only in expectations.
    Anything,
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.into())
    }
}

/// A map of texts.
pub fn map(pairs: &[(&str, &str)]) -> Value {
    Value::Map(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
}

impl Value {
    pub fn pack(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null | Value::Anything => out.push(0xC0),
            Value::Bool(value) => out.push(0xC2 | u8::from(*value)),
            Value::Int(value) => pack_int(*value, out),
            Value::Float(value) => {
                out.push(0xC1);
                out.extend(value.to_be_bytes());
            }
            Value::Bytes(bytes) => {
                out.push(0xCE);
                out.extend((bytes.len() as u32).to_be_bytes());
                out.extend(bytes);
            }
            Value::Text(text) => {
                pack_size(text.len(), 0x80, 0xD0, out);
                out.extend(text.as_bytes());
            }
            Value::List(items) => {
                pack_size(items.len(), 0x90, 0xD4, out);
                items.iter().for_each(|item| item.pack(out));
            }
            Value::Map(pairs) => {
                pack_size(pairs.len(), 0xA0, 0xD8, out);
                for (key, value) in pairs {
                    Value::from(&**key).pack(out);
                    value.pack(out);
                }
            }
            Value::Struct(tag, fields) => {
                out.extend([0xB0 | fields.len() as u8, *tag]);
                fields.iter().for_each(|field| field.pack(out));
            }
        }
    }

    /// Takes one value off the front; `None` if the bytes are no value.
    pub fn unpack(bytes: &mut &[u8]) -> Option<Value> {
        let marker = take(bytes, 1)?[0];
        let tiny = usize::from(marker & 15);
        Some(match marker {
            0xC0 => Value::Null,
            0xC1 => Value::Float(f64::from_be_bytes(take(bytes, 8)?.try_into().ok()?)),
            0xC2 | 0xC3 => Value::Bool(marker == 0xC3),
            0x00..=0x7F | 0xF0..=0xFF => Value::Int(i64::from(marker as i8)),
            0xC8..=0xCB => {
                let bytes = take(bytes, 1 << (marker - 0xC8))?;
                let start = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
                Value::Int(bytes.iter().fold(start, |sum, byte| sum << 8 | i64::from(*byte)))
            }
            0x80..=0x8F => text(bytes, tiny)?,
            0xD0..=0xD2 => {
                let length = size(bytes, marker - 0xD0)?;
                text(bytes, length)?
            }
            0xCC..=0xCE => {
                let length = size(bytes, marker - 0xCC)?;
                Value::Bytes(take(bytes, length)?.to_vec())
            }
            0x90..=0x9F => list(bytes, tiny)?,
            0xD4..=0xD6 => {
                let count = size(bytes, marker - 0xD4)?;
                list(bytes, count)?
            }
            0xA0..=0xAF => pairs(bytes, tiny)?,
            0xD8..=0xDA => {
                let count = size(bytes, marker - 0xD8)?;
                pairs(bytes, count)?
            }
            0xB0..=0xBF => {
                let tag = take(bytes, 1)?[0];
                let Value::List(fields) = list(bytes, tiny)? else { return None };
                Value::Struct(tag, fields)
            }
            _ => return None,
        })
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Map(pairs) = self else { return None };
        pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    /// Whether `self`, an expectation, is met: maps may have more keys, `!key: *` means none such.
    pub fn is_met_by(&self, came: &Value) -> bool {
        match (self, came) {
            (Value::Anything, _) => true,
            (Value::Text(expected), Value::Text(came)) => match expected.strip_suffix("...") {
                Some(start) => came.starts_with(start),
                None => expected == came,
            },
            (Value::List(expected), Value::List(came)) => are_met_by(expected, came),
            (Value::Struct(tag, expected), Value::Struct(other, came)) => {
                tag == other && are_met_by(expected, came)
            }
            (Value::Map(expected), Value::Map(_)) => {
                expected.iter().all(|(key, value)| match key.strip_prefix('!') {
                    Some(key) => came.get(key).is_none(),
                    None => came.get(key).is_some_and(|came| value.is_met_by(came)),
                })
            }
            _ => self == came,
        }
    }

    /// All values of a line, separated by spaces.
    pub fn parse_all(text: &str) -> Result<Vec<Value>, String> {
        let mut parser = Parser { rest: text.trim() };
        let mut values = Vec::new();
        while !parser.rest.is_empty() {
            values.push(parser.value()?);
            parser.skip_space();
        }
        Ok(values)
    }
}

fn are_met_by(expected: &[Value], came: &[Value]) -> bool {
    let mut both = expected.iter().zip(came);
    expected.len() == came.len() && both.all(|(expected, came)| expected.is_met_by(came))
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => formatter.write_str("null"),
            Value::Bool(value) => write!(formatter, "{value}"),
            Value::Int(value) => write!(formatter, "{value}"),
            Value::Float(value) => write!(formatter, "{value}"),
            Value::Bytes(bytes) => write!(formatter, "{} bytes", bytes.len()),
            Value::Text(text) => write!(formatter, "{text:?}"),
            Value::List(items) => formatter.debug_list().entries(items.iter().map(Shown)).finish(),
            Value::Map(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| (key, Shown(value)));
                formatter.debug_map().entries(pairs).finish()
            }
            Value::Struct(tag, fields) => write!(formatter, "{tag:02X} {fields:?}"),
            Value::Anything => formatter.write_str("*"),
        }
    }
}

struct Shown<'a>(&'a Value);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

fn pack_int(value: i64, out: &mut Vec<u8>) {
    match value {
        -16..=127 => out.push(value as u8),
        -128..=127 => out.extend([0xC8, value as u8]),
        -32_768..=32_767 => {
            out.push(0xC9);
            out.extend((value as i16).to_be_bytes());
        }
        _ => {
            out.push(0xCB);
            out.extend(value.to_be_bytes());
        }
    }
}

fn pack_size(size: usize, tiny: u8, first: u8, out: &mut Vec<u8>) {
    match size {
        0..=15 => out.push(tiny | size as u8),
        16..=255 => out.extend([first, size as u8]),
        256..=65_535 => {
            out.push(first + 1);
            out.extend((size as u16).to_be_bytes());
        }
        _ => {
            out.push(first + 2);
            out.extend((size as u32).to_be_bytes());
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn size(bytes: &mut &[u8], power: u8) -> Option<usize> {
    let bytes = take(bytes, 1 << power)?;
    Some(bytes.iter().fold(0, |size, byte| size << 8 | usize::from(*byte)))
}

fn text(bytes: &mut &[u8], length: usize) -> Option<Value> {
    let text = take(bytes, length)?;
    Some(Value::Text(String::from_utf8_lossy(text).into_owned()))
}

fn list(bytes: &mut &[u8], count: usize) -> Option<Value> {
    (0..count).map(|_| Value::unpack(bytes)).collect::<Option<_>>().map(Value::List)
}

fn pairs(bytes: &mut &[u8], count: usize) -> Option<Value> {
    let pair = |_| match Value::unpack(bytes)? {
        Value::Text(key) => Some((key, Value::unpack(bytes)?)),
        _ => None,
    };
    (0..count).map(pair).collect::<Option<_>>().map(Value::Map)
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', ',']);
    }

    fn eats(&mut self, start: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(start) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.into()
    }

    fn value(&mut self) -> Result<Value, String> {
        if self.eats("{") {
            let mut pairs = Vec::new();
            while !self.eats("}") {
                let key = match self.eats("!") {
                    true => format!("!{}", self.word(is_key)),
                    false => self.word(is_key),
                };
                if !self.eats(":") {
                    return Err(format!("expected a colon behind {key:?} at {:?}", self.rest));
                }
                pairs.push((key, self.value()?));
            }
            return Ok(Value::Map(pairs));
        }
        if self.eats("[") {
            let mut items = Vec::new();
            while !self.eats("]") {
                items.push(self.value()?);
            }
            return Ok(Value::List(items));
        }
        if self.eats("\"") {
            let (text, rest) = self.rest.split_once('"').ok_or("expected a closing quote")?;
            self.rest = rest;
            return Ok(Value::from(text));
        }
        if self.eats("#") {
            let digits = self.word(|c| c.is_ascii_hexdigit());
            return hex(&digits).map(Value::Bytes);
        }
        if self.eats("*") {
            return Ok(Value::Anything);
        }
        match &*self.word(|c| c.is_alphanumeric() || c == '-' || c == '.') {
            "null" => Ok(Value::Null),
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            word if word.contains('.') => {
                word.parse().map(Value::Float).map_err(|_| format!("no number: {word:?}"))
            }
            word => {
                let wrong = |_| format!("expected a value, got {word:?} before {:?}", self.rest);
                word.parse().map(Value::Int).map_err(wrong)
            }
        }
    }
}

fn is_key(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

/// Hexadecimal digits, spaces between them at will.
pub fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs.collect::<Option<_>>().ok_or_else(|| format!("expected pairs of hex digits: {text:?}"))
}

#[test]
fn values_survive_packing_and_text() {
    let line = r#"null true -7 200 -40000 "text" #00FF [1 [] "a"] {key: {inner: 1}, other: 2.5}"#;
    let values = Value::parse_all(line).unwrap();
    assert_eq!(values.len(), 9);
    let mut bytes = Vec::new();
    values.iter().for_each(|value| value.pack(&mut bytes));
    let mut rest = &bytes[..];
    for value in &values {
        assert_eq!(Value::unpack(&mut rest).as_ref(), Some(value));
    }
    assert!(rest.is_empty());
}

#[test]
fn expectations_are_met_or_not() {
    let came = &Value::parse_all(r#"{code: "Neo.Error", n: [1 2], flag: true}"#).unwrap()[0];
    let met = |text: &str| Value::parse_all(text).unwrap()[0].is_met_by(came);
    assert!(met(r#"{code: "Neo..."}"#) && met("{n: [1 *]}") && met("{!other: *}") && met("*"));
    assert!(!met(r#"{code: "Neo"}"#) && !met("{n: [1]}") && !met("{!flag: *}") && !met("{a: *}"));
    assert!(Value::parse_all("{a 1}").is_err() && Value::parse_all("nonsense").is_err());
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}
