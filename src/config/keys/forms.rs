//! How the values of keys are read and shown where a kind alone does not say it.

use crate::backend::permits::SHARDS_MAX;
use crate::config::keys::{Key, TLS_MODES};
use crate::config::settings::{Bind, BindHost, Listen, Secret, Settings, TlsMode};
use crate::config::values::{AUTO, OFF, parse_bind, parse_number, parse_word, show_bind};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;

/// A longer user name or password is a file given by mistake.
const TEXT_BYTES_MAX: usize = 4096;
/// Listening sockets per shard; each costs a descriptor and a ring entry.
const LISTEN_MAX: usize = 16;
/// Certificates of a listener, or names of its clients: more belong to another program.
const LIST_MAX: usize = 1024;

/// Replaces all listeners by those named, separated by commas. Each keeps what else is said of the
/// listener in its place; further ones are like the first.
pub fn set_listen(settings: &mut Settings, text: &str) -> Result<(), String> {
    let binds: Vec<_> = text.split(',').map(parse_bind).collect::<Result<_, _>>()?;
    if binds.len() > LISTEN_MAX {
        return Err(format!("expected at most {LISTEN_MAX} addresses, not {}", binds.len()));
    }
    let first = settings.listen.first().cloned().unwrap_or_default();
    settings.listen.resize(binds.len(), first);
    let places = settings.listen.iter_mut().zip(binds);
    places.for_each(|(listen, bind)| listen.bind = bind);
    Ok(())
}

/// Sets a key of one listener only, that at `index`.
pub fn set_one(key: &Key, settings: &mut Settings, index: usize, text: &str) -> Result<(), String> {
    let Some(place) = settings.listen.get_mut(index) else {
        return Err(format!("expected at most {LISTEN_MAX} listeners"));
    };
    let mut alone = Settings { listen: vec![place.clone()], ..Settings::default() };
    (key.set)(&mut alone, text)?;
    match alone.listen.pop() {
        Some(listen) if alone.listen.is_empty() => *place = listen,
        _ => return Err("expected one address for each section of its own".into()),
    }
    Ok(())
}

/// Makes as many listeners as the file has sections for them.
pub fn reset_listeners(settings: &mut Settings, count: usize) {
    settings.listen = vec![Listen::default(); count.min(LISTEN_MAX)];
}

pub fn parse_tls_mode(text: &str) -> Result<Option<TlsMode>, String> {
    if text.trim() == AUTO {
        return Ok(None);
    }
    parse_word(text, &TLS_MODES).map(Some).map_err(|error| or_word(&error, AUTO))
}

/// An empty one is none.
pub fn parse_file(text: &str) -> Result<Option<PathBuf>, String> {
    let path = text.trim();
    Ok(if path.is_empty() { None } else { parse_text(path).map(PathBuf::from).map(Some)? })
}

pub fn show_file(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(String::new, |path| path.display().to_string())
}

pub fn parse_files(text: &str) -> Result<Vec<PathBuf>, String> {
    Ok(parse_list(text)?.into_iter().map(PathBuf::from).collect())
}

pub fn show_files(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(",")
}

/// Words between commas; none in an empty text.
pub fn parse_list(text: &str) -> Result<Vec<String>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let words: Vec<String> = text.split(',').map(|word| word.trim().to_owned()).collect();
    if words.len() > LIST_MAX
        || words.iter().any(|word| word.is_empty() || word.len() > TEXT_BYTES_MAX)
    {
        return Err(format!(
            "expected up to {LIST_MAX} values between commas, none of them empty, not {text:?}"
        ));
    }
    Ok(words)
}

/// What browsers say in `Origin`: a scheme and a host, no path; `null` for pages without a place.
pub fn parse_origins(text: &str) -> Result<Vec<String>, String> {
    let origins = parse_list(text)?;
    let is_origin = |text: &str| match text.split_once("://") {
        Some((scheme, host)) => {
            let is_odd = |letter: char| letter.is_whitespace() || "/?#@".contains(letter);
            !scheme.is_empty() && !host.is_empty() && !host.contains(is_odd)
        }
        None => text == "null",
    };
    match origins.iter().find(|origin| !is_origin(origin)) {
        None => Ok(origins),
        Some(other) => Err(format!(
            "expected a scheme and a host, such as https://browser.example, not {other:?}"
        )),
    }
}

/// The rights of a file, as chmod takes them in octal.
pub fn parse_rights(text: &str) -> Result<u32, String> {
    let rights = u32::from_str_radix(text.trim(), 8).ok().filter(|rights| *rights <= 0o777);
    rights.ok_or_else(|| format!("expected rights in octal, such as 0660, not {text:?}"))
}

pub fn show_rights(rights: &u32) -> String {
    format!("{rights:04o}")
}

/// Networks such as `10.0.0.0/8`; an address alone is a network of one.
pub fn parse_networks(text: &str) -> Result<Vec<IpNet>, String> {
    let network = |word: &String| {
        let alone = word.parse::<IpAddr>().map(IpNet::from);
        let network = alone.or_else(|_| word.parse::<IpNet>());
        network.map_err(|_| format!("expected a network such as 10.0.0.0/8, not {word:?}"))
    };
    parse_list(text)?.iter().map(network).collect()
}

pub fn show_networks(networks: &[IpNet]) -> String {
    let shown: Vec<String> = networks.iter().map(IpNet::to_string).collect();
    shown.join(",")
}

pub fn parse_shards(text: &str) -> Result<Option<usize>, String> {
    if text.trim() == AUTO {
        return Ok(None);
    }
    let shards = parse_number(text, 1, SHARDS_MAX as u32).map_err(|error| or_word(&error, AUTO))?;
    Ok(usize::try_from(shards).ok())
}

pub fn show_shards(shards: &Option<usize>) -> String {
    shards.map_or_else(|| AUTO.into(), |shards| shards.to_string())
}

pub fn parse_clients(text: &str) -> Result<Option<u32>, String> {
    if text.trim() == AUTO {
        return Ok(None);
    }
    parse_number(text, 1, u32::MAX).map(Some).map_err(|error| or_word(&error, AUTO))
}

pub fn show_clients(clients: &Option<u32>) -> String {
    clients.map_or_else(|| AUTO.into(), |clients| clients.to_string())
}

pub fn parse_admin(text: &str) -> Result<Option<Bind>, String> {
    if text.trim() == OFF {
        return Ok(None);
    }
    match parse_bind(text) {
        Ok(Bind { host: BindHost::Unix(_), .. }) => {
            Err("expected an address and a port for operators, not a Unix socket".into())
        }
        bind => bind.map(Some).map_err(|error| or_word(&error, OFF)),
    }
}

pub fn show_admin(bind: &Option<Bind>) -> String {
    bind.as_ref().map_or_else(|| OFF.into(), show_bind)
}

pub fn parse_text(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return Err(format!("expected 1 to {TEXT_BYTES_MAX} bytes of text, not {}", text.len()));
    }
    Ok(text.into())
}

/// An empty one is none, so that a variable that is set to nothing means nothing.
pub fn parse_secret(text: &str) -> Result<Option<Secret>, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("expected at most {TEXT_BYTES_MAX} bytes, not {}", text.len()));
    }
    Ok((!text.is_empty()).then(|| Secret::new(text.into())))
}

pub fn show_secret(secret: &Option<Secret>) -> String {
    if secret.is_some() { "<secret>".into() } else { String::new() }
}

/// The kernel's rings of buffers are powers of two, at most 2^15 (`io_uring_buf_reg`).
pub fn parse_buffers(text: &str) -> Result<u16, String> {
    let number = text.trim().parse::<u16>().ok();
    number
        .filter(|number| number.is_power_of_two() && (16..=1 << 15).contains(number))
        .ok_or_else(|| format!("expected a power of two from 16 to 32768, not {text:?}"))
}

pub fn show_word<T: PartialEq>(value: T, words: &[(&str, T)]) -> String {
    let found = words.iter().find(|(_, known)| *known == value);
    found.map_or_else(String::new, |(word, _)| (*word).into())
}

pub fn or_word(error: &str, word: &str) -> String {
    format!("{error} (or {word:?})")
}
