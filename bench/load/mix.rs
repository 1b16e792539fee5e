//! A mix: queries with weights and parameters from a small file, one of which is every request.
//! Pure; the file is read elsewhere.

use crate::wire::packstream::Writer;
use serde::Deserialize;
use std::collections::BTreeMap;

/// How deep values may lie in each other: PackStream has no bound, the stack has one.
const DEPTH_MAX: usize = 32;
/// The parameter that each request gets by itself.
pub const NONCE: &str = "nonce";
/// What the parser of TOML makes of dates, which Bolt has as structures only.
const TOML_DATE: &str = "$__toml_private_datetime";

/// One query of a mix.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixQuery {
    pub text: String,
    /// How often it is drawn, relative to the others.
    #[serde(default = "one")]
    pub weight: u32,
    /// Marks its transaction as reading.
    #[serde(default)]
    pub read: bool,
    #[serde(default)]
    pub parameters: BTreeMap<String, Value>,
}

fn one() -> u32 {
    1
}

/// A parameter: what TOML, JSON and PackStream have in common.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    query: Vec<MixQuery>,
}

/// Reads a mix; all that is wrong with it is told at once.
pub fn parse(text: &str, is_json: bool) -> Result<Vec<MixQuery>, Vec<String>> {
    let file: Result<File, String> = if is_json {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        // The parser's text has lines with a picture of the place; here one line is wanted.
        toml::from_str(text).map_err(|error: toml::de::Error| one_line(&error.to_string()))
    };
    let queries = file.map_err(|error| vec![error])?.query;
    let mistakes = mistakes(&queries);
    if mistakes.is_empty() { Ok(queries) } else { Err(mistakes) }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is wrong with queries, each with its number in the file, from 1.
pub fn mistakes(queries: &[MixQuery]) -> Vec<String> {
    if queries.is_empty() {
        return vec!["a mix without queries; give at least one".into()];
    }
    let mut mistakes = Vec::new();
    for (number, query) in (1..).zip(queries) {
        let mut tell = |text: &str| mistakes.push(format!("query {number}: {text}"));
        if query.text.trim().is_empty() {
            tell("its text is empty");
        }
        if query.text.len() > super::plan::QUERY_BYTES_MAX {
            tell(&format!("its text is longer than {} bytes", super::plan::QUERY_BYTES_MAX));
        }
        if query.weight == 0 {
            tell("a weight of 0; leave the query out instead");
        }
        if query.parameters.contains_key(NONCE) {
            tell("the parameter nonce is given by boltload itself; take another name");
        }
        for (name, value) in &query.parameters {
            if let Err(mistake) = check(value, DEPTH_MAX) {
                tell(&format!("parameter {name}: {mistake}"));
            }
        }
    }
    mistakes
}

fn check(value: &Value, depth: usize) -> Result<(), String> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(format!("more than {DEPTH_MAX} values in each other"));
    };
    match value {
        Value::List(values) => values.iter().try_for_each(|value| check(value, depth)),
        Value::Map(values) if values.contains_key(TOML_DATE) => {
            Err("dates are not supported; give a text, and use date($it) in the query".into())
        }
        Value::Map(values) => values.values().try_for_each(|value| check(value, depth)),
        _ => Ok(()),
    }
}

impl Value {
    pub fn write(&self, writer: &mut Writer) {
        match self {
            Value::Null => _ = writer.null(),
            Value::Boolean(value) => _ = writer.bool(*value),
            Value::Integer(value) => _ = writer.int(*value),
            Value::Float(value) => _ = writer.float(*value),
            Value::Text(value) => _ = writer.string(value),
            Value::List(values) => {
                writer.list_header(values.len());
                values.iter().for_each(|value| value.write(writer));
            }
            Value::Map(values) => {
                writer.map_header(values.len());
                for (name, value) in values {
                    writer.string(name);
                    value.write(writer);
                }
            }
        }
    }
}

/// Whether every record of the query holds the nonce: its last RETURN names `$nonce`.
pub fn returns_nonce(text: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let lower = text.to_ascii_lowercase();
    let is_keyword = |(at, _): &(usize, &str)| {
        let (before, behind) = (&lower[..*at], &lower[at + "return".len()..]);
        !before.ends_with(|letter: char| is_word(letter) || letter == '$')
            && !behind.starts_with(is_word)
    };
    let Some((at, _)) = lower.rmatch_indices("return").find(is_keyword) else { return false };
    // The name of a parameter has to be written as it is.
    text[at..].match_indices("$nonce").any(|(place, found)| {
        let behind = &text[at..][place + found.len()..];
        !behind.starts_with(is_word)
    })
}

/// Draws by weight.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Where each one's part of the whole ends.
    ends: Vec<u64>,
}

impl Weights {
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Weights {
        let add = |sum: &mut u64, weight: u32| {
            *sum += u64::from(weight);
            Some(*sum)
        };
        Weights { ends: weights.into_iter().scan(0, add).collect() }
    }

    /// The place that `random` means; equal numbers mean the same.
    pub fn pick(&self, random: u64) -> usize {
        let Some(total) = self.ends.last().copied() else { return 0 };
        let at = ((u128::from(mixed(random)) * u128::from(total)) >> 64) as u64;
        self.ends.partition_point(|end| *end <= at)
    }
}

/// SplitMix64's last step (Steele, Lea, Flood 2014): neighbours become unlike.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_mix() {
        let queries = parse(include_str!("mix.toml"), false).unwrap();
        let weights: Vec<_> = queries.iter().map(|query| query.weight).collect();
        assert_eq!(weights, [7, 2, 1]);
        assert!(queries[0].read && !queries[1].read);
        let mut writer = Writer::new();
        queries[1].parameters["person"].write(&mut writer);
        let expected =
            b"\xA3\x84born\xC9\x07\x17\x84name\x83Ada\x84tags\x92\x85first\x8Aprogrammer";
        assert_eq!(writer.into_bytes(), expected);
    }

    #[test]
    fn json_is_the_same_mix() {
        let text = r#"{"query": [{"text": "RETURN 1", "parameters": {"a": [null, true, 1.5]}}]}"#;
        let queries = parse(text, true).unwrap();
        let values = vec![Value::Null, Value::Boolean(true), Value::Float(1.5)];
        assert_eq!(queries[0].parameters["a"], Value::List(values));
        assert_eq!(queries[0].weight, 1);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let text = "[[query]]\ntext = ' '\nweight = 0\n[[query]]\ntext = 'x'\n\
                    parameters = { nonce = 1, day = 2020-02-03 }";
        let mistakes = parse(text, false).unwrap_err();
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert!(mistakes[3].starts_with("query 2: parameter day: dates"), "{mistakes:?}");
        let nested =
            format!("[[query]]\ntext = 'x'\nparameters.a = {}1{}", "[".repeat(40), "]".repeat(40));
        assert!(parse(&nested, false).unwrap_err()[0].contains("32 values"));
        for (text, part) in [("query = []", "at least one"), ("[[query]]", "text"), ("[", "line 1")]
        {
            let mistakes = parse(text, false).unwrap_err();
            assert!(mistakes[0].contains(part) && !mistakes[0].contains('\n'), "{mistakes:?}");
        }
        assert!(parse("[[query]]\ntext = 'x'\nwieght = 1", false).is_err());
    }

    #[test]
    fn the_nonce_is_looked_for_behind_the_last_return() {
        for text in ["RETURN $nonce", "match (n) return n.name, $nonce as x LIMIT 3"] {
            assert!(returns_nonce(text), "{text}");
        }
        for text in [
            "CREATE (:A {id: $nonce})",
            "MATCH (n {id: $nonce}) RETURN n",
            "RETURN $nonces",
            "CALL { RETURN $nonce AS x } RETURN 1",
            "MATCH (n) SET n.returned = $nonce",
            "CREATE (:A {id: $return, of: $nonce})",
        ] {
            assert!(!returns_nonce(text), "{text}");
        }
    }

    #[test]
    fn queries_are_drawn_by_weight() {
        let weights = Weights::new([7, 2, 1]);
        let mut drawn = [0_u32; 3];
        (0..10_000).for_each(|number| drawn[weights.pick(number)] += 1);
        // Four standard deviations of a draw of 10,000 are at most 200.
        for (count, expected) in drawn.iter().zip([7000_u32, 2000, 1000]) {
            assert!(count.abs_diff(expected) < 200, "{drawn:?}");
        }
        assert_eq!(weights.pick(5), weights.pick(5));
        assert_eq!(Weights::new([1]).pick(u64::MAX), 0);
    }
}
