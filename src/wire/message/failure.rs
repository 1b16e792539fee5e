//! FAILURE in both of its shapes: up to Bolt 5.6, and with GQL status from 5.7 on.

use crate::wire::error::MessageError;
use crate::wire::message::{fields_of, tag};
use crate::wire::packstream::{Reader, Writer};
use crate::wire::version::Version;
use std::borrow::Cow;

/// GQL status of an error nobody classified (Bolt specification, FAILURE).
const GQL_STATUS_UNKNOWN: &str = "50N42";

/// A FAILURE, be it read from a server or made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `Neo.<class>.<category>.<title>`.
    pub code: Cow<'static, str>,
    pub message: Cow<'static, str>,
    /// Five characters.
    pub gql_status: Cow<'static, str>,
    /// `error: <condition>. <text>`.
    pub description: Cow<'static, str>,
    /// `CLIENT_ERROR`, `TRANSIENT_ERROR` or `DATABASE_ERROR`.
    pub classification: Cow<'static, str>,
    /// Nothing was executed: new drivers then repeat an auto-commit by themselves.
    pub idempotent: bool,
}

impl Failure {
    /// One of our own; classification and description follow from code and message.
    pub fn new(
        code: &'static str,
        gql_status: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Failure {
        let message = message.into();
        Failure {
            code: Cow::Borrowed(code),
            description: Cow::Owned(format!("error: {}. {message}", condition_of(gql_status))),
            message,
            gql_status: Cow::Borrowed(gql_status),
            classification: Cow::Borrowed(classification_of(code)),
            idempotent: false,
        }
    }

    /// Says that these credentials will not do; others are about the server's state.
    pub fn is_about_credentials(&self) -> bool {
        self.code.starts_with("Neo.ClientError.Security.")
            && self.code != "Neo.ClientError.Security.AuthenticationRateLimit"
    }

    /// Says "not now": the same request may succeed later, with nothing changed.
    pub fn is_passing(&self) -> bool {
        self.code.starts_with("Neo.TransientError.")
            || self.code == "Neo.ClientError.Security.AuthenticationRateLimit"
    }

    /// Reads a payload of either shape; what it lacks follows from the code.
    pub fn parse(payload: &[u8]) -> Result<Failure, MessageError> {
        let mut reader = fields_of(payload, 1, tag::FAILURE)?;
        let mut code = None;
        let mut message = None;
        let mut gql_status = None;
        let mut description = None;
        let mut record = Record::default();
        for _ in 0..reader.take_map_header()? {
            match reader.take_key()? {
                "code" | "neo4j_code" => code = take_text(&mut reader)?,
                "message" => message = take_text(&mut reader)?,
                "gql_status" => gql_status = take_text(&mut reader)?,
                "description" => description = take_text(&mut reader)?,
                "diagnostic_record" => record = Record::take(&mut reader)?,
                _ => reader.skip()?,
            }
        }
        reader.finish()?;
        let code = code.ok_or(MessageError::MissingKey { message: "FAILURE", key: "code" })?;
        let message = message.unwrap_or_default();
        let classification = record.classification.map(Cow::Owned);
        Ok(Failure {
            description: description.map_or_else(|| format!("error: {message}").into(), Cow::Owned),
            gql_status: gql_status.map_or(Cow::Borrowed(GQL_STATUS_UNKNOWN), Cow::Owned),
            classification: classification.unwrap_or(Cow::Borrowed(classification_of(&code))),
            idempotent: record.is_idempotent,
            message: Cow::Owned(message),
            code: Cow::Owned(code),
        })
    }

    /// The chunked message in the shape of `version`. From 5.7 on every key is there, since some
    /// drivers need all of them.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.struct_header(1, tag::FAILURE);
        if !version.has_gql_errors() {
            writer.map_header(2);
            writer.string("code").string(&self.code);
            writer.string("message").string(&self.message);
            return writer.into_message();
        }
        writer.map_header(5);
        writer.string("neo4j_code").string(&self.code);
        writer.string("message").string(&self.message);
        writer.string("gql_status").string(&self.gql_status);
        writer.string("description").string(&self.description);
        writer.string("diagnostic_record").map_header(4 + usize::from(self.idempotent));
        writer.string("OPERATION").string("");
        writer.string("OPERATION_CODE").string("0");
        writer.string("CURRENT_SCHEMA").string("/");
        writer.string("_classification").string(&self.classification);
        if self.idempotent {
            writer.string("_idempotent").bool(true);
        }
        writer.into_message()
    }
}

#[derive(Default)]
struct Record {
    classification: Option<String>,
    is_idempotent: bool,
}

impl Record {
    fn take(reader: &mut Reader<'_>) -> Result<Record, MessageError> {
        let mut record = Record::default();
        if reader.take_null()? {
            return Ok(record);
        }
        for _ in 0..reader.take_map_header()? {
            let key = reader.take_key()?;
            let mut value = Reader::new(reader.take_raw()?);
            match key {
                "_classification" => {
                    record.classification = value.take_string().ok().map(str::to_owned);
                }
                "_idempotent" => record.is_idempotent = value.take_bool().unwrap_or(false),
                _ => {}
            }
        }
        Ok(record)
    }
}

fn take_text(reader: &mut Reader<'_>) -> Result<Option<String>, MessageError> {
    Ok(reader.take_optional_string()?.map(str::to_owned))
}

/// The condition that the first two characters of a GQL status name (Neo4j status codes).
fn condition_of(gql_status: &str) -> &'static str {
    match gql_status.get(..2) {
        Some("08") => "connection exception",
        Some("22") => "data exception",
        Some("25") => "invalid transaction state",
        Some("42") => "syntax error or access rule violation",
        Some("51") => "system configuration or operation exception",
        _ => "general processing exception",
    }
}

fn classification_of(code: &str) -> &'static str {
    match code.split('.').nth(1) {
        Some("ClientError") => "CLIENT_ERROR",
        Some("TransientError") => "TRANSIENT_ERROR",
        _ => "DATABASE_ERROR",
    }
}
