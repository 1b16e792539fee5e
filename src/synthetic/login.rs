//! The requests with maps that a server must understand: HELLO, LOGON, the extras of RUN and BEGIN,
//! ROUTE. Pure, borrowed from the payload. A key may carry null, which is as good as absent; of
//! duplicates the last wins; unknown keys are skipped ("Bolt specification, messages").

use crate::synthetic::codec::{Malformed, Reader};
use crate::wire::version::Version;

/// Who says to be whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Token<'a> {
    pub scheme: Option<&'a str>,
    pub principal: Option<&'a str>,
    pub credentials: Option<&'a str>,
    pub realm: Option<&'a str>,
}

/// What HELLO says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hello<'a> {
    pub token: Token<'a>,
    pub wants_utc: bool,
}

/// Reads HELLO's map. `user_agent` is mandatory, from 5.3 on `bolt_agent` with a `product` too.
pub fn hello<'a>(version: Version, mut fields: Reader<'a>) -> Result<Hello<'a>, Malformed> {
    let mut hello = Hello::default();
    let (mut has_agent, mut has_product) = (false, !version.has_bolt_agent());
    for _ in 0..fields.map()? {
        match fields.string()? {
            "user_agent" => {
                fields.string()?;
                has_agent = true;
            }
            "bolt_agent" if version.has_bolt_agent() => has_product = strings(&mut fields)?,
            "routing" if !fields.is_null() => {
                strings(&mut fields)?;
            }
            "routing" => {}
            "patch_bolt" if version.has_utc_patch() => hello.wants_utc = has_utc(&mut fields)?,
            key => take_token(key, &mut fields, &mut hello.token)?,
        }
    }
    let is_whole = has_agent && has_product && fields.is_at_end();
    if is_whole { Ok(hello) } else { Err(Malformed::Type) }
}

/// Reads LOGON's map.
pub fn logon(mut fields: Reader<'_>) -> Result<Token<'_>, Malformed> {
    let mut token = Token::default();
    for _ in 0..fields.map()? {
        take_token(fields.string()?, &mut fields, &mut token)?;
    }
    if token.scheme.is_some() && fields.is_at_end() { Ok(token) } else { Err(Malformed::Type) }
}

fn take_token<'a>(
    key: &str,
    fields: &mut Reader<'a>,
    token: &mut Token<'a>,
) -> Result<(), Malformed> {
    match key {
        "scheme" => token.scheme = text(fields)?,
        "principal" => token.principal = text(fields)?,
        "credentials" => token.credentials = text(fields)?,
        "realm" => token.realm = text(fields)?,
        _ => {
            fields.value()?;
        }
    }
    Ok(())
}

/// A map of strings; whether it has the key `product`.
fn strings(fields: &mut Reader<'_>) -> Result<bool, Malformed> {
    let mut has_product = false;
    for _ in 0..fields.map()? {
        has_product |= fields.string()? == "product";
        text(fields)?;
    }
    Ok(has_product)
}

fn has_utc(fields: &mut Reader<'_>) -> Result<bool, Malformed> {
    let mut has_utc = false;
    if !fields.is_null() {
        for _ in 0..fields.list()? {
            has_utc |= fields.string()? == "utc";
        }
    }
    Ok(has_utc)
}

/// A string or null.
fn text<'a>(fields: &mut Reader<'a>) -> Result<Option<&'a str>, Malformed> {
    if fields.is_null() { Ok(None) } else { fields.string().map(Some) }
}

/// What RUN's or BEGIN's extra says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extra<'a> {
    pub is_read: bool,
    /// `None` and the empty name mean the home database.
    pub database: Option<&'a str>,
    pub impersonated: Option<&'a str>,
    pub timeout_ms: Option<u64>,
    /// A bookmark that no such server gives.
    pub has_foreign_bookmark: bool,
}

/// Reads the extra of RUN or BEGIN, which ends the message.
pub fn extra<'a>(fields: &mut Reader<'a>) -> Result<Extra<'a>, Malformed> {
    let mut extra = Extra::default();
    for _ in 0..fields.map()? {
        match fields.string()? {
            "mode" => {
                extra.is_read = match text(fields)? {
                    Some("r") => true,
                    Some("w") | None => false,
                    Some(_) => return Err(Malformed::Type),
                }
            }
            "db" => extra.database = text(fields)?.filter(|name| !name.is_empty()),
            "imp_user" => extra.impersonated = text(fields)?,
            "tx_timeout" if !fields.is_null() => {
                let timeout = u64::try_from(fields.integer()?).map_err(|_| Malformed::Type)?;
                extra.timeout_ms = Some(timeout).filter(|timeout| *timeout > 0);
            }
            "bookmarks" if !fields.is_null() => {
                extra.has_foreign_bookmark = false;
                for _ in 0..fields.list()? {
                    extra.has_foreign_bookmark |= !fields.string()?.starts_with("FB:");
                }
            }
            "tx_metadata" if !fields.is_null() && !fields.is_map() => return Err(Malformed::Type),
            _ => {
                fields.value()?;
            }
        }
    }
    if fields.is_at_end() { Ok(extra) } else { Err(Malformed::Type) }
}

/// The fields of PULL and DISCARD: how many, of which result.
pub fn pull(mut fields: Reader<'_>) -> Result<(Option<u64>, i64), Malformed> {
    let (mut count, mut qid) = (None, -1);
    for _ in 0..fields.map()? {
        match fields.string()? {
            "n" => count = Some(fields.integer()?),
            "qid" if !fields.is_null() => qid = fields.integer()?,
            "qid" => {}
            _ => {
                fields.value()?;
            }
        }
    }
    match count.filter(|_| fields.is_at_end()) {
        Some(-1) => Ok((None, qid)),
        Some(count @ 1..) => Ok((Some(count as u64), qid)),
        _ => Err(Malformed::Type),
    }
}

/// What ROUTE asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route<'a> {
    pub address: Option<&'a str>,
    pub database: Option<&'a str>,
    pub impersonated: Option<&'a str>,
}

pub fn route<'a>(version: Version, mut fields: Reader<'a>) -> Result<Route<'a>, Malformed> {
    let mut route = Route::default();
    for _ in 0..fields.map()? {
        let (key, value) = (fields.string()?, text(&mut fields)?);
        if key == "address" {
            route.address = value;
        }
    }
    for _ in 0..fields.list()? {
        fields.string()?;
    }
    if version.has_route_extra() {
        let extra = extra(&mut fields)?;
        (route.database, route.impersonated) = (extra.database, extra.impersonated);
    } else {
        route.database = text(&mut fields)?.filter(|name| !name.is_empty());
    }
    if fields.is_at_end() { Ok(route) } else { Err(Malformed::Type) }
}

/// The raw bytes of the parameter `name` in a map's bytes; the last one if there are several.
pub fn parameter<'a>(map: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, Malformed> {
    let mut fields = Reader::new(map);
    let mut found = None;
    for _ in 0..fields.map()? {
        let (key, value) = (fields.string()?, fields.value()?);
        if key == name {
            found = Some(value);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras() {
        let read = |bytes: &[u8]| extra(&mut Reader::new(bytes)).map(|extra| extra.is_read);
        assert_eq!(read(b"\xA0"), Ok(false));
        assert_eq!(read(b"\xA1\x84mode\x81r"), Ok(true));
        assert_eq!(read(b"\xA2\x84mode\x81r\x84mode\x81w"), Ok(false));
        assert_eq!(read(b"\xA1\x84mode\x81x"), Err(Malformed::Type));
        assert_eq!(read(b"\xA1\x8Atx_timeout\xFF"), Err(Malformed::Type));
        assert_eq!(read(b"\xA0\x00"), Err(Malformed::Type));
    }

    #[test]
    fn pulls() {
        assert_eq!(pull(Reader::new(b"\xA1\x81n\xFF")), Ok((None, -1)));
        assert_eq!(pull(Reader::new(b"\xA2\x83qid\x02\x81n\x05")), Ok((Some(5), 2)));
        for bad in [&b"\xA0"[..], b"\xA1\x81n\x00", b"\xA1\x81n\xFE", b"\xA1\x81n\x811"] {
            assert_eq!(pull(Reader::new(bad)), Err(Malformed::Type), "{bad:?}");
        }
    }

    #[test]
    fn hello_wants_its_agents() {
        let old = b"\xA1\x8Auser_agent\x83a/1";
        assert!(hello(Version::new(5, 2), Reader::new(old)).is_ok());
        assert!(hello(Version::new(5, 3), Reader::new(old)).is_err());
        let new = b"\xA2\x8Auser_agent\x83a/1\x8Abolt_agent\xA1\x87product\x83a/1";
        assert!(hello(Version::new(5, 3), Reader::new(new)).is_ok());
    }
}
