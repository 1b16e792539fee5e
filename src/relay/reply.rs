//! What boltmux itself says to a client: the one place where a situation becomes a FAILURE.
//!
//! Codes decide what drivers do: `TransientError` is retried by managed transactions, `ClientError`
//! and `DatabaseError` are not. `_idempotent` promises that nothing was executed; new drivers then
//! repeat an auto-commit query once by themselves.

use crate::backend::Refusal;
use crate::wire::message::Failure;
use std::borrow::Cow;

/// The FAILURE for a request of which nothing was sent, since no connection could be had.
pub fn refused(refusal: &Refusal) -> Failure {
    match refusal {
        Refusal::TimedOut => {
            exhausted("no server connection became free within pool.acquisition_timeout".into())
        }
        // What happened names addresses that are nobody's business; the log has it.
        Refusal::Unreachable(_) | Refusal::Unanswered(_) => {
            exhausted("the server cannot be reached; try again".into())
        }
        Refusal::Server(failure) => Failure::clone(failure),
        Refusal::Expired => Failure::new(
            "Neo.ClientError.Security.CredentialsExpired",
            "42NFF",
            "the password has expired; change it, then connect again",
        ),
        Refusal::PatchRefused => {
            exhausted("the server no longer agrees to patch_bolt; connect again".into())
        }
        Refusal::QueueFull => {
            exhausted("too many requests wait for a server connection; try again".into())
        }
        Refusal::Draining => exhausted("boltmux is shutting down; connect again and retry".into()),
    }
}

/// Nothing was executed; whoever asks again may succeed (GQL 51N59).
fn exhausted(message: Cow<'static, str>) -> Failure {
    Failure {
        code: "Neo.TransientError.Request.ResourceExhaustion".into(),
        description: describe("system configuration or operation exception - server overloaded"),
        message,
        gql_status: "51N59".into(),
        classification: "TRANSIENT_ERROR".into(),
        idempotent: true,
    }
}

/// As a Neo4j server says it when it is full; it closes after that, and so do we.
pub fn too_many_clients() -> Failure {
    Failure {
        code: "Neo.TransientError.Request.NoThreadsAvailable".into(),
        ..exhausted("limits.clients is reached; try again later".into())
    }
}

/// The connection was lost in a transaction whose COMMIT was not sent: the server has rolled back
/// (GQL 51N34).
pub fn server_lost() -> Failure {
    Failure {
        code: "Neo.TransientError.Transaction.LeaderSwitch".into(),
        message:
            "the connection to the server was lost and the transaction was rolled back; retry it"
                .into(),
        gql_status: "51N34".into(),
        description: describe(
            "system configuration or operation exception - cluster connection lost",
        ),
        classification: "TRANSIENT_ERROR".into(),
        idempotent: false,
    }
}

/// The connection was lost while a COMMIT or an auto-commit write was unanswered. Never retried
/// blindly (GQL 08007).
pub fn outcome_unknown() -> Failure {
    Failure {
        code: "Neo.DatabaseError.Transaction.TransactionCommitFailed".into(),
        message: "the connection to the server was lost before it answered: outcome unknown, \
                  the transaction may or may not have been committed"
            .into(),
        gql_status: "08007".into(),
        description: describe("connection exception - transaction resolution unknown"),
        classification: "DATABASE_ERROR".into(),
        idempotent: false,
    }
}

/// A time limit of the configuration ended the transaction (GQL 25N14).
pub fn timed_out(limit: &'static str) -> Failure {
    Failure {
        code: "Neo.ClientError.Transaction.TransactionTimedOut".into(),
        message: format!(
            "The transaction has been terminated. It exceeded the limit {limit} of the proxy; \
             raise it or make the transaction shorter"
        )
        .into(),
        gql_status: "25N14".into(),
        description: describe("invalid transaction state - transaction termination client error"),
        classification: "CLIENT_ERROR".into(),
        idempotent: false,
    }
}

/// A request that the state, the version or the format does not allow (GQL 08N06).
pub fn invalid(message: impl Into<Cow<'static, str>>) -> Failure {
    Failure {
        code: "Neo.ClientError.Request.Invalid".into(),
        message: message.into(),
        gql_status: "08N06".into(),
        description: describe("connection exception - protocol error"),
        classification: "CLIENT_ERROR".into(),
        idempotent: false,
    }
}

fn describe(condition: &'static str) -> Cow<'static, str> {
    format!("error: {condition}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_not_told_where_the_server_is() {
        let refusal = Refusal::Unreachable("10.0.0.7:7687: connection refused".into());
        let failure = refused(&refusal);
        assert!(!failure.message.contains("10.0.0.7"), "{}", failure.message);
    }
}
