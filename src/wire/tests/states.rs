//! The state table, exhaustively: the listed triples move, all others fail.

use crate::wire::message::tag;
use crate::wire::state::ServerState::{self, *};
use crate::wire::state::Summary;
use crate::wire::version::Version;

const SUCCESS: Summary = Summary::Success { has_more: false };
const MORE: Summary = Summary::Success { has_more: true };
const SUMMARIES: [Summary; 4] = [SUCCESS, MORE, Summary::Failure, Summary::Ignored];
const PULLS: [u8; 2] = [tag::PULL, tag::DISCARD];
const ENDS: [u8; 2] = [tag::COMMIT, tag::ROLLBACK];

/// Requests and the first version that has each, as the specification lists them.
const REQUESTS: [(u8, Version); 13] = [
    (tag::HELLO, Version::new(3, 0)),
    (tag::LOGON, Version::new(5, 1)),
    (tag::LOGOFF, Version::new(5, 1)),
    (tag::GOODBYE, Version::new(3, 0)),
    (tag::RESET, Version::new(3, 0)),
    (tag::RUN, Version::new(3, 0)),
    (tag::PULL, Version::new(3, 0)),
    (tag::DISCARD, Version::new(3, 0)),
    (tag::BEGIN, Version::new(3, 0)),
    (tag::COMMIT, Version::new(3, 0)),
    (tag::ROLLBACK, Version::new(3, 0)),
    (tag::ROUTE, Version::new(4, 3)),
    (tag::TELEMETRY, Version::new(5, 4)),
];

type Row = (ServerState, u8, Summary, bool, ServerState);

/// Every transition of one version: state, request, summary, whether streams stay open, next state.
fn table(version: Version) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let any = |rows: &mut Vec<Row>, state, tag, summaries: &[Summary], next| {
        for summary in summaries {
            rows.push((state, tag, *summary, false, next));
            rows.push((state, tag, *summary, true, next));
        }
    };
    let succeeded = &[SUCCESS, MORE];
    let failed = &[Summary::Failure];
    let ignored = &[Summary::Ignored];
    let logged_on = if version >= Version::new(5, 1) { Authentication } else { Ready };
    let mut simple = vec![
        (Negotiation, tag::HELLO, logged_on, Defunct),
        (Authentication, tag::LOGON, Ready, Defunct),
        (Ready, tag::RUN, Streaming, Failed),
        (Ready, tag::BEGIN, TxReady, Failed),
        (Ready, tag::ROUTE, Ready, Failed),
        (Ready, tag::TELEMETRY, Ready, Failed),
        (Ready, tag::LOGOFF, Authentication, Failed),
        (TxReady, tag::RUN, TxStreaming, Failed),
        (TxStreaming, tag::RUN, TxStreaming, Failed),
    ];
    for state in [TxReady, TxStreaming] {
        simple.extend(ENDS.map(|tag| (state, tag, Ready, Failed)));
    }
    for state in [Ready, Streaming, TxReady, TxStreaming, Failed, Interrupted] {
        simple.push((state, tag::RESET, Ready, Defunct));
        any(&mut rows, state, tag::RESET, ignored, Interrupted);
    }
    for (state, tag, after_success, after_failure) in simple {
        any(&mut rows, state, tag, succeeded, after_success);
        any(&mut rows, state, tag, failed, after_failure);
    }
    for tag in PULLS {
        let more = version.major > 3;
        any(&mut rows, Streaming, tag, &[SUCCESS], Ready);
        any(&mut rows, Streaming, tag, &[MORE], if more { Streaming } else { Ready });
        any(&mut rows, Streaming, tag, failed, Failed);
        any(&mut rows, TxStreaming, tag, failed, Failed);
        rows.push((TxStreaming, tag, SUCCESS, true, TxStreaming));
        rows.push((TxStreaming, tag, SUCCESS, false, TxReady));
        rows.push((TxStreaming, tag, MORE, true, TxStreaming));
        rows.push((TxStreaming, tag, MORE, false, if more { TxStreaming } else { TxReady }));
    }
    for (tag, _) in REQUESTS {
        if matches!(tag, tag::HELLO | tag::GOODBYE | tag::RESET) {
            continue;
        }
        any(&mut rows, Failed, tag, ignored, Failed);
        any(&mut rows, Interrupted, tag, ignored, Interrupted);
        any(&mut rows, Interrupted, tag, succeeded, Interrupted);
        let after_failure = if tag == tag::LOGOFF { Defunct } else { Interrupted };
        any(&mut rows, Interrupted, tag, failed, after_failure);
    }
    any(&mut rows, Failed, tag::LOGOFF, failed, Defunct);
    rows.retain(|row| REQUESTS.iter().any(|(tag, since)| *tag == row.1 && version >= *since));
    rows
}

#[test]
fn listed_transitions_happen_and_all_others_fail() {
    for version in Version::ALL {
        let rows = table(version);
        let mut moved = 0;
        for state in ServerState::ALL {
            for tag in 0..=0x7F {
                for (summary, open) in SUMMARIES.into_iter().flat_map(|s| [(s, 0), (s, 2)]) {
                    let key = (state, tag, summary, open > 0);
                    let row = rows.iter().find(|row| (row.0, row.1, row.2, row.3) == key);
                    let next = state.after(version, tag, summary, open);
                    assert_eq!(next.ok(), row.map(|row| row.4), "{version} {key:?}");
                    moved += usize::from(next.is_ok());
                }
            }
        }
        assert_eq!(moved, rows.len(), "{version}: a row is listed twice");
    }
}

#[test]
fn a_request_is_allowed_where_some_summary_of_it_is() {
    for version in Version::ALL {
        let rows = table(version);
        for (state, tag) in
            ServerState::ALL.into_iter().flat_map(|state| (0..=0xFF).map(move |tag| (state, tag)))
        {
            let listed = rows.iter().any(|row| row.0 == state && row.1 == tag);
            let says_goodbye = tag == tag::GOODBYE && state != Defunct;
            let expected = listed || says_goodbye;
            assert_eq!(state.allows(version, tag), expected, "{version} {state:?} {tag:02X}");
            let at_once = match tag {
                _ if !expected => None,
                tag::RESET => Some(Interrupted),
                tag::GOODBYE => Some(Defunct),
                _ => Some(state),
            };
            assert_eq!(state.at_once(version, tag).ok(), at_once);
        }
    }
}

#[test]
fn a_state_error_says_what_came() {
    let version = Version::new(5, 8);
    let error = Ready.after(version, tag::COMMIT, SUCCESS, 0).expect_err("not in Ready");
    assert_eq!(error.to_string(), "expected a request that Ready allows, got COMMIT");
    let error = Ready.after(version, tag::RUN, Summary::Ignored, 0).expect_err("not in Ready");
    assert!(error.to_string().contains("answer to RUN in state Ready, got Ignored"), "{error}");
}
