//! A configuration file, TOML or JSON, to assignments. Knows the shape of sections; what a value
//! means is the keys' affair.
//!
//! Errors name the line (TOML) or the key's path (JSON), and never show the line itself: it may
//! hold a password.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use crate::config::keys::{self, Key};
use crate::config::problem::{Place, Problems};
use crate::config::sources::{Assignment, Files};
use crate::config::suggest;

/// Both formats as one: what stands under a name, and at which line.
struct Node {
    line: Option<usize>,
    value: Value,
}

enum Value {
    Table(Vec<(String, Node)>),
    List(Vec<Node>),
    Quoted(Zeroizing<String>),
    Plain(String),
}

/// Reads a file: JSON if it ends in `.json`, else TOML.
pub fn from_file(path: &Path, files: &dyn Files, problems: &mut Problems) -> Vec<Assignment> {
    let file = path.display().to_string();
    let text = match files.read(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) => {
            let text = format!("cannot be read: {error}");
            problems.add(Place::Line { file, line: None }, text);
            return Vec::new();
        }
    };
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let sections = if is_json {
        sections_of_json(&text, &file, problems)
    } else {
        sections_of_toml(&text, &file, problems)
    };
    let mut reader = FileReader { file, assignments: Vec::new(), problems };
    reader.read_top(sections);
    reader.assignments
}

/// Every mistake of the text is reported; what could be understood is still looked at.
fn sections_of_toml(text: &str, file: &str, problems: &mut Problems) -> Vec<(String, Node)> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().map(|span| line_at(text, span.start));
        let place = Place::Line { file: file.into(), line };
        problems.add(place, format!("not valid TOML: {}", error.message()));
    }
    from_toml_table(text, table.into_inner())
}

fn from_toml_table(text: &str, table: DeTable<'_>) -> Vec<(String, Node)> {
    let mut entries: Vec<(usize, String, Node)> = table
        .into_iter()
        .map(|(name, value)| {
            let start = name.span().start;
            let mut node = from_toml(text, value);
            // The key's line, not the value's: a table's value may span many.
            node.line = Some(line_at(text, start));
            (start, name.into_inner().into_owned(), node)
        })
        .collect();
    entries.sort_by_key(|(start, ..)| *start);
    entries.into_iter().map(|(_, name, node)| (name, node)).collect()
}

fn from_toml(text: &str, value: Spanned<DeValue<'_>>) -> Node {
    let line = Some(line_at(text, value.span().start));
    let value = match value.into_inner() {
        DeValue::Table(table) => Value::Table(from_toml_table(text, table)),
        DeValue::Array(array) => {
            Value::List(array.into_iter().map(|item| from_toml(text, item)).collect())
        }
        DeValue::String(string) => Value::Quoted(Zeroizing::new(string.into_owned())),
        DeValue::Integer(integer) => Value::Plain(integer.to_string()),
        DeValue::Float(float) => Value::Plain(float.to_string()),
        DeValue::Boolean(boolean) => Value::Plain(boolean.to_string()),
        DeValue::Datetime(datetime) => Value::Plain(datetime.to_string()),
    };
    Node { line, value }
}

fn sections_of_json(text: &str, file: &str, problems: &mut Problems) -> Vec<(String, Node)> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(object)) => from_json_object(object),
        Ok(_) => {
            let place = Place::Line { file: file.into(), line: None };
            problems.add(place, "expected a JSON object of sections");
            Vec::new()
        }
        Err(error) => {
            let place = Place::Line { file: file.into(), line: Some(error.line()) };
            problems.add(place, format!("not valid JSON: {error}"));
            Vec::new()
        }
    }
}

fn from_json_object(object: serde_json::Map<String, serde_json::Value>) -> Vec<(String, Node)> {
    object.into_iter().map(|(name, value)| (name, from_json(value))).collect()
}

fn from_json(value: serde_json::Value) -> Node {
    use serde_json::Value as Json;
    let value = match value {
        Json::Object(object) => Value::Table(from_json_object(object)),
        Json::Array(array) => Value::List(array.into_iter().map(from_json).collect()),
        Json::String(string) => Value::Quoted(Zeroizing::new(string)),
        other @ (Json::Null | Json::Bool(_) | Json::Number(_)) => Value::Plain(other.to_string()),
    };
    Node { line: None, value }
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|byte| **byte == b'\n').count()
}

struct FileReader<'a> {
    file: String,
    assignments: Vec<Assignment>,
    problems: &'a mut Problems,
}

impl FileReader<'_> {
    fn read_top(&mut self, entries: Vec<(String, Node)>) {
        for (name, node) in entries {
            let place = self.place(&name, node.line);
            match node.value {
                _ if !keys::is_section(&name) && keys::find(&name).is_none() => {
                    let is_section = matches!(node.value, Value::Table(_) | Value::List(_));
                    let text =
                        if is_section { suggest::unknown_section } else { suggest::unknown_key }(
                            &name,
                        );
                    self.problems.add(place, text);
                }
                Value::Table(entries) if keys::is_section(&name) => {
                    self.read_section(&name, entries);
                }
                Value::List(items) if is_repeatable(&name) => {
                    self.read_repeated(&name, items, &place);
                }
                _ if keys::is_section(&name) => {
                    let text = format!("expected a section of keys under {name:?}, not a value");
                    self.problems.add(place, text);
                }
                value => self.read_key(&name, value, place, None),
            }
        }
    }

    fn read_section(&mut self, section: &str, entries: Vec<(String, Node)>) {
        for (name, node) in entries {
            let path = format!("{section}.{name}");
            let place = self.place(&path, node.line);
            self.read_key(&path, node.value, place, None);
        }
    }

    /// Sections of their own: what each says is for that one only.
    fn read_repeated(&mut self, section: &str, items: Vec<Node>, place: &Place) {
        if items.is_empty() {
            let text = format!("expected a section of keys in the list {section:?}, it is empty");
            self.problems.add(place.clone(), text);
        }
        for (index, item) in items.into_iter().enumerate() {
            let Value::Table(entries) = item.value else {
                let text = format!("expected sections of keys in the list {section:?}");
                self.problems.add(place.clone(), text);
                continue;
            };
            let path = format!("{section}[{index}]");
            // A key that is not known may be its bind, misspelt, and is told of by itself.
            let is_known = |name: &str| keys::find(&format!("{section}.{name}")).is_some();
            if entries.iter().all(|(name, _)| name != "bind" && is_known(name)) {
                let place = self.place(&path, item.line);
                self.problems.add(place, format!("{section:?} needs its bind, it has none"));
            }
            for (name, node) in entries {
                let place = self.place(&format!("{path}.{name}"), node.line);
                self.read_key(&format!("{section}.{name}"), node.value, place, Some(index));
            }
        }
    }

    fn read_key(&mut self, path: &str, value: Value, place: Place, item: Option<usize>) {
        let Some(key) = keys::find(path) else {
            self.problems.add(place, suggest::unknown_key(path));
            return;
        };
        match value {
            Value::Quoted(text) => {
                self.assignments.push(Assignment { key, text, place, item });
            }
            Value::Plain(text) if key.kind.needs_quotes() => {
                // An unquoted secret is a secret all the same: not shown.
                let text = match key.kind {
                    keys::Kind::Secret => String::new(),
                    _ => format!(", not {text}"),
                };
                let kind = key.kind.name();
                self.problems.add(place, format!("expected a {kind} in quotes{text}"));
            }
            Value::Plain(text) => {
                let text = Zeroizing::new(text);
                self.assignments.push(Assignment { key, text, place, item });
            }
            Value::List(nodes) if key.kind.is_list() => {
                self.read_list(key, nodes, place, item);
            }
            Value::Table(_) | Value::List(_) => {
                let text = format!("expected one value for {path:?}, not a table or a list");
                self.problems.add(place, text);
            }
        }
    }

    fn read_list(
        &mut self,
        key: &'static Key,
        nodes: Vec<Node>,
        place: Place,
        item: Option<usize>,
    ) {
        let mut words = Vec::new();
        for node in nodes {
            match node.value {
                Value::Quoted(text) if !text.contains(',') => words.push(text.to_string()),
                _ => {
                    let text = "expected texts in quotes in the list, without commas";
                    return self.problems.add(place, text);
                }
            }
        }
        let text = Zeroizing::new(words.join(","));
        self.assignments.push(Assignment { key, text, place, item });
    }

    fn place(&self, path: &str, line: Option<usize>) -> Place {
        let file = self.file.clone();
        match line {
            Some(_) => Place::Line { file, line },
            None => Place::Path { file, path: path.into() },
        }
    }
}

fn is_repeatable(section: &str) -> bool {
    keys::KEYS.iter().filter(|key| key.section() == section).any(Key::is_repeatable)
}
