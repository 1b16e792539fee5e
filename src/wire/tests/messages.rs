//! Messages with fields, by version; canonical logins; failures in both shapes.

use crate::wire::chunk::payload;
use crate::wire::message::*;
use crate::wire::packstream::{Reader, Writer};
use crate::wire::version::Version;

const V4_4: Version = Version::new(4, 4);
const V5_0: Version = Version::new(5, 0);
const V5_4: Version = Version::new(5, 4);
const V5_8: Version = Version::new(5, 8);

fn opened(message: &[u8]) -> Vec<u8> {
    payload(message, &mut Vec::new()).to_vec()
}

fn logon(write: impl FnOnce(&mut Writer)) -> Auth {
    let mut writer = Writer::new();
    writer.struct_header(1, tag::LOGON);
    write(&mut writer);
    parse_logon(writer.bytes()).expect("a legal LOGON")
}

#[test]
fn equal_logins_are_equal_bytes() {
    let one = logon(|writer| {
        writer.map_header(4).string("scheme").string("custom").string("principal").string("a");
        writer.string("credentials").string("obvious-test-password");
        writer.string("parameters").map_header(2).string("x").int(1);
        writer.string("a").list_header(1).map_header(2);
        writer.string("q").null().string("b").string("c");
    });
    let other = logon(|writer| {
        // Other order inside and out, wide headers, duplicates of which the last counts.
        writer.raw(&[0xD9, 0, 6]).raw(&[0xD0, 10]).raw(b"parameters");
        writer.raw(&[0xD8, 2, 0x81, b'a', 0xD4, 1, 0xDA, 0, 0, 0, 3]);
        writer.string("b").int(9).string("b").raw(&[0xD1, 0, 1, b'c']).string("q").null();
        writer.string("x").raw(&[0xCB, 0, 0, 0, 0, 0, 0, 0, 1]);
        writer.string("principal").int(5).string("credentials").string("obvious-test-password");
        writer.string("principal").string("b").string("principal").string("a");
        writer.string("scheme").string("custom");
    });
    assert_eq!(one.canonical(), other.canonical());
    assert_eq!((one.principal.as_deref(), other.principal.as_deref()), (Some("a"), Some("a")));
    assert_eq!(Reader::new(one.canonical()).skip(), Ok(()));
}

#[test]
fn different_logins_are_different_bytes() {
    let base = Auth::from_parts("basic", "a", "obvious-test-password");
    let with_realm = logon(|writer| {
        writer.map_header(4).string("scheme").string("basic").string("principal").string("a");
        writer.string("credentials").string("obvious-test-password").string("realm").null();
    });
    let others = [
        Auth::from_parts("basic", "a", "another-test-password"),
        Auth::from_parts("basic", "b", "obvious-test-password"),
        Auth::from_parts("kerberos", "a", "obvious-test-password"),
        Auth::from_parts("bearer", "a", "obvious-test-password"),
        Auth::from_parts("none", "a", "obvious-test-password"),
        with_realm,
    ];
    for other in &others {
        assert_ne!(base.canonical(), other.canonical());
    }
    let again = parse_logon(&opened(&encode_logon(&base))).expect("our own LOGON");
    assert_eq!(again.canonical(), base.canonical());
    let none = logon(|writer| _ = writer.map_header(1).string("scheme").string("none"));
    assert_eq!(others[4].canonical(), none.canonical());
}

#[test]
fn no_secret_is_shown() {
    let auth = Auth::from_parts("basic", "someone", "obvious-test-password");
    let hello = ServerHello {
        user_agent: "test/1",
        bolt_agent: "test/1",
        routing: None,
        utc_patch: false,
        notifications: &Notifications::default(),
        auth: Some(&auth),
    };
    let parsed = Hello::parse(V5_0, &opened(&encode_hello(V5_0, &hello))).expect("our own");
    for text in [format!("{auth:?}"), format!("{hello:?}"), format!("{parsed:?}")] {
        assert!(text.contains("basic"), "{text}");
        assert!(!text.contains("obvious") && !text.contains("111, 98, 118"), "{text}");
    }
}

#[test]
fn hello_carries_what_its_version_has() {
    let entries = vec![("policy".to_owned(), "eu".to_owned())];
    let notifications = Notifications {
        minimum_severity: Some("WARNING".into()),
        disabled: Some(vec!["HINT".into(), "GENERIC".into()]),
    };
    let auth = Auth::from_parts("basic", "neo4j", "obvious-test-password");
    for version in Version::ALL {
        let hello = ServerHello {
            user_agent: "test/1",
            bolt_agent: "test/1 (x)",
            routing: Some(("h:7687", &entries)),
            utc_patch: true,
            notifications: &notifications,
            auth: Some(&auth),
        };
        let message = opened(&encode_hello(version, &hello));
        let parsed = Hello::parse(version, &message).expect("our own");
        assert_eq!(parsed.user_agent, "test/1");
        let routing = Routing { address: Some("h:7687".into()), entries: entries.clone() };
        let has_routing = version >= Version::new(4, 1);
        assert_eq!(parsed.routing, has_routing.then_some(routing), "{version}");
        assert_eq!(parsed.utc_patch, [Version::new(4, 3), V4_4].contains(&version), "{version}");
        let filtered = version >= Version::new(5, 2);
        let expected = if filtered { notifications.clone() } else { Notifications::default() };
        assert_eq!(parsed.notifications, expected, "{version}");
        let in_hello = version <= V5_0;
        let inline = parsed.auth.as_ref().map(Auth::canonical);
        assert_eq!(inline, in_hello.then_some(auth.canonical()), "{version}");
        let text = String::from_utf8_lossy(&message);
        assert_eq!(text.contains("bolt_agent"), version >= Version::new(5, 3), "{version}");
        assert_eq!(text.contains("_classifications"), version >= Version::new(5, 6));
        assert_eq!(text.contains("obvious-test-password"), in_hello, "{version}");
    }
}

#[test]
fn absent_null_and_empty_routing_differ_as_they_should() {
    let hello = |routing: Option<&[u8]>| {
        let mut writer = Writer::new();
        writer.struct_header(1, tag::HELLO).map_header(2 + usize::from(routing.is_some()));
        writer.string("user_agent").string("test/1");
        writer.string("bolt_agent").map_header(1).string("product").string("test/1");
        if let Some(value) = routing {
            writer.string("routing").raw(value);
        }
        Hello::parse(V5_8, writer.bytes()).expect("legal").routing
    };
    assert_eq!(hello(None), None);
    assert_eq!(hello(Some(&[0xC0])), None);
    assert_eq!(hello(Some(&[0xA0])), Some(Routing::default()));
    let entries = hello(Some(b"\xA3\x81b\x811\x81a\x812\x81b\x813"));
    let expected = vec![("a".into(), "2".into()), ("b".into(), "3".into())];
    assert_eq!(entries, Some(Routing { address: None, entries: expected }));
}

#[test]
fn hello_success_carries_what_its_version_has() {
    let success = HelloSuccess {
        server: "Neo4j/5.26.0".into(),
        connection_id: "bolt-61".into(),
        recv_timeout_seconds: Some(120),
        utc_patch: true,
        credentials_expired: true,
    };
    for version in Version::ALL {
        let message = success.encode(version, true, Some(true), Some(version));
        let parsed = HelloSuccess::parse(&opened(&message)).expect("our own");
        let expected = HelloSuccess {
            recv_timeout_seconds: (version >= Version::new(4, 3)).then_some(120),
            utc_patch: version.has_utc_patch(),
            credentials_expired: version <= V5_0,
            ..success.clone()
        };
        assert_eq!(parsed, expected, "{version}");
        let text = String::from_utf8_lossy(&message);
        assert_eq!(text.contains("telemetry.enabled"), version >= V5_4, "{version}");
        assert_eq!(text.contains("ssr.enabled"), version >= V5_8, "{version}");
        assert!(text.contains("protocol_version"), "{version}");
    }
    let plain = HelloSuccess { server: "s".into(), connection_id: "c".into(), ..success };
    let plain = HelloSuccess { recv_timeout_seconds: None, utc_patch: false, ..plain };
    let message = plain.encode(Version::new(5, 1), false, None, None);
    assert_eq!(message, b"\x00\x1C\xB1\x70\xA2\x86server\x81s\x8Dconnection_id\x81c\x00\x00");
}

#[test]
fn hints_of_another_type_are_ignored() {
    let parse = |hint: &[u8]| {
        let mut writer = Writer::new();
        writer.struct_header(1, tag::SUCCESS).map_header(3);
        writer.string("server").string("Neo4j/5.26.0").string("connection_id").string("bolt-1");
        writer.string("hints").raw(hint);
        HelloSuccess::parse(writer.bytes()).expect("legal").recv_timeout_seconds
    };
    let hint = |value: &[u8]| {
        let mut writer = Writer::new();
        writer.map_header(1).string("connection.recv_timeout_seconds").raw(value);
        parse(writer.bytes())
    };
    assert_eq!(hint(&[0x3C]), Some(60));
    assert_eq!(hint(&[0x00]), None);
    assert_eq!(hint(&[0xFF]), None);
    assert_eq!(hint(&[0x81, b'x']), None);
    assert_eq!(parse(&[0xC0]), None);
}

#[test]
fn logon_success_survives() {
    let success =
        LogonSuccess { advertised_address: Some("h:7687".into()), credentials_expired: true };
    assert_eq!(LogonSuccess::parse(&opened(&success.encode(V5_8))), Ok(success.clone()));
    let older = LogonSuccess { advertised_address: None, ..success.clone() };
    assert_eq!(LogonSuccess::parse(&opened(&success.encode(V5_4))), Ok(older));
    assert_eq!(LogonSuccess::default().encode(V5_8), SUCCESS_EMPTY);
}

#[test]
fn route_is_read_in_the_shape_of_its_version() {
    let routing = Routing { address: None, entries: vec![("region".into(), "eu".into())] };
    for version in Version::ALL.into_iter().filter(|version| version.has_route()) {
        for database in [None, Some("neo4j")] {
            let message = opened(&encode_route(version, &routing, database, Some("someone")));
            let route = Route::parse(version, &message).expect("our own");
            assert_eq!(route.routing, routing);
            assert_eq!(route.database.as_deref(), database, "{version}");
            let imp_user = (version >= V4_4).then_some("someone");
            assert_eq!(route.imp_user.as_deref(), imp_user, "{version}");
        }
    }
    let empty = opened(&encode_route(V5_8, &routing, Some(""), None));
    assert_eq!(Route::parse(V5_8, &empty).expect("legal").database, None);
}

#[test]
fn streams_are_requested_in_the_shape_of_the_version() {
    let v3 = Version::new(3, 0);
    assert_eq!(encode_pull(v3, 5), [0, 2, 0xB0, 0x3F, 0, 0]);
    assert_eq!(encode_discard(v3, -1), [0, 2, 0xB0, 0x2F, 0, 0]);
    for version in Version::ALL {
        for message in [encode_pull(version, 5), encode_discard(version, 5)] {
            let head = crate::wire::Head::of([message[2], message[3]]);
            assert!(is_request(version, head), "{version}");
        }
    }
}

fn busy() -> Failure {
    Failure::new("Neo.TransientError.Request.ResourceExhaustion", "51N59", "No server is free.")
}

#[test]
fn failure_takes_the_shape_of_its_version() {
    for version in Version::ALL {
        let message = opened(&busy().encode(version));
        let mut reader = Reader::new(&message);
        assert_eq!(reader.take_struct_header(), Ok((1, tag::FAILURE)));
        let mut keys = Vec::new();
        for _ in 0..reader.take_map_header().expect("a map") {
            keys.push(reader.take_key().expect("a key"));
            reader.skip().expect("a value");
        }
        assert_eq!(reader.finish(), Ok(()));
        let gql = ["neo4j_code", "message", "gql_status", "description", "diagnostic_record"];
        let expected = if version >= Version::new(5, 7) { &gql[..] } else { &["code", "message"] };
        assert_eq!(keys, expected, "{version}");
        let parsed = Failure::parse(&message).expect("our own");
        assert_eq!((&parsed.code, &parsed.message), (&busy().code, &busy().message));
        assert_eq!(parsed.classification, "TRANSIENT_ERROR", "{version}");
        let condition = "system configuration or operation exception";
        let description = format!("error: {condition}. No server is free.");
        assert_eq!(busy().description, description);
        assert_eq!(parsed.description == description, version.has_gql_errors(), "{version}");
    }
}

#[test]
fn the_diagnostic_record_has_its_defaults_and_idempotent_only_if_asked() {
    let key = b"diagnostic_record";
    let defaults = b"\x89OPERATION\x80\x8EOPERATION_CODE\x810\x8ECURRENT_SCHEMA\x81/\
        \x8F_classification\x8FTRANSIENT_ERROR";
    let tail = |message: &[u8]| {
        let at = message.windows(key.len()).position(|window| window == key);
        message[at.expect("the record is there") + key.len()..message.len() - 2].to_vec()
    };
    let plain = tail(&busy().encode(V5_8));
    assert_eq!(plain, [b"\xA4".as_slice(), defaults].concat());
    let asked = Failure { idempotent: true, ..busy() };
    let with = tail(&asked.encode(V5_8));
    assert_eq!(with, [b"\xA5".as_slice(), defaults, b"\x8B_idempotent\xC3"].concat());
    assert_eq!(Failure::parse(&opened(&asked.encode(V5_8))), Ok(asked));
}

#[test]
fn failures_of_servers_are_read_in_both_shapes() {
    let mut old = Writer::new();
    old.struct_header(1, tag::FAILURE).map_header(2);
    old.string("message").string("text").string("code").string("Neo.ClientError.Request.Invalid");
    let parsed = Failure::parse(old.bytes()).expect("legal");
    assert_eq!(parsed.classification, "CLIENT_ERROR");
    assert_eq!((parsed.gql_status.as_ref(), parsed.idempotent), ("50N42", false));
    assert_eq!(parsed.description, "error: text");
    let mut new = Writer::new();
    new.struct_header(1, tag::FAILURE).map_header(6);
    new.string("cause").map_header(1).string("message").string("inner");
    new.string("neo4j_code").string("Neo.DatabaseError.General.UnknownError");
    new.string("message").string("text").string("gql_status").string("50N00");
    new.string("description").string("error: other");
    new.string("diagnostic_record").map_header(2).string("_idempotent").bool(true);
    new.string("_classification").string("DATABASE_ERROR");
    let parsed = Failure::parse(new.bytes()).expect("legal");
    assert_eq!((parsed.message.as_ref(), parsed.idempotent), ("text", true));
    assert_eq!(
        (parsed.gql_status.as_ref(), parsed.description.as_ref()),
        ("50N00", "error: other")
    );
    assert_eq!(parsed.classification, "DATABASE_ERROR");
}

#[test]
fn requests_exist_with_their_fields_in_their_versions_only() {
    for version in Version::ALL {
        for first in 0..=0xFF {
            for tag in 0..=0xFF {
                let head = crate::wire::Head::of([first, tag]);
                let fields = match tag {
                    0x01 | 0x11 => 1,
                    0x02 | 0x0F | 0x12 | 0x13 => 0,
                    0x10 => 3,
                    0x3F | 0x2F => u8::from(version.major > 3),
                    0x6A if version > V5_0 => 1,
                    0x6B if version > V5_0 => 0,
                    0x66 if version > Version::new(4, 2) => 3,
                    0x54 if version >= V5_4 => 1,
                    _ => 0xFF,
                };
                let expected = first == 0xB0 | fields && fields != 0xFF;
                assert_eq!(is_request(version, head), expected, "{version} {first:02X} {tag:02X}");
            }
        }
    }
}

#[test]
fn calls_of_routing_procedures_are_known() {
    let context = b"\xA1\x87context\xA1\x87address\x83h:1";
    let call = |query: &str, parameters: &[u8]| {
        let message = encode_run(query, parameters, b"\xA0");
        let payload = payload(&message, &mut Vec::new()).to_vec();
        routing_call(&payload).map(|call| call.address.map(str::to_owned))
    };
    let known = [
        "CALL dbms.routing.getRoutingTable($context, $database)",
        "CALL dbms.cluster.routing.getRoutingTable({context})",
        "CALL dbms.cluster.routing.getRoutingTable",
        " call  DBMS.cluster.routing.getservers()",
    ];
    for query in known {
        assert_eq!(call(query, context), Some(Some("h:1".into())), "{query}");
        assert_eq!(call(query, b"\xA0"), Some(None), "{query}");
    }
    let others = [
        "CALLdbms.routing.getRoutingTable()",
        "CALL dbms.routing.getRoutingTables()",
        "CALL dbms.components()",
        "RETURN 'CALL dbms.routing.getRoutingTable()'",
        "CALL \u{e9}dbms.routing.getRoutingTable()",
        "\u{e9}\u{e9}",
        "",
    ];
    for query in others {
        assert_eq!(call(query, context), None, "{query}");
    }
    assert_eq!(routing_call(&[0xB1, tag::RUN, 0xA0]), None);
}

#[test]
fn a_table_in_a_record_names_the_proxy() {
    let table = RoutingTable {
        ttl_seconds: 300,
        database: None,
        servers: vec![(Role::Write, vec!["inner:1".into()]), (Role::Read, vec!["inner:2".into()])],
    };
    let route = table.encode(Version::new(4, 3));
    let route = payload(&route, &mut Vec::new()).to_vec();
    // SUCCESS {rt: {ttl, servers}}: the last value is the list of servers.
    let at = route.windows(8).position(|bytes| bytes == b"\x87servers").expect("it is there");
    let servers = &route[at + 8..];
    let record = |values: &[&[u8]]| {
        [&[0xB1, tag::RECORD, 0x90 + values.len() as u8], &values.concat()[..]].concat()
    };
    let ours = [(Role::Write, vec!["proxy:1".to_owned()])];
    let ttl: &[u8] = b"\xC9\x01\x2C";
    let rewritten = own_table_record(&record(&[ttl, servers]), &ours).expect("it has a table");
    let expected = record(&[ttl, b"\x91\xA2\x89addresses\x91\x87proxy:1\x84role\x85WRITE"]);
    assert_eq!(payload(&rewritten, &mut Vec::new()), expected);
    let without: [&[&[u8]]; 4] = [&[], &[ttl], &[b"\x90"], &[b"\x91\x81x"]];
    for values in without {
        assert_eq!(own_table_record(&record(values), &ours), None, "{values:?}");
    }
    let mut longer = record(&[ttl, servers]);
    longer.push(1);
    assert_eq!(own_table_record(&longer, &ours), None);
}
