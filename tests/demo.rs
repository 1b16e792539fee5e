//! `boltmux demo` as a user starts it: the table, the JSON file, signals, and serving on.

mod guard;

use self::guard::Guarded;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Longer than any step of a debug build on a busy machine takes.
const WAIT: Duration = Duration::from_secs(30);

fn demo(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_boltmux"));
    command.arg("demo").args(arguments.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A file name of this test alone.
fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("boltmux-demo-{}-{name}", std::process::id()))
}

fn signal(child: &Child, name: &str) {
    let script = "kill -s $0 $1";
    let sent = Command::new("sh").args(["-c", script, name, &child.id().to_string()]).status();
    assert!(sent.expect("sh is there").success());
}

fn text(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(error))
}

#[test]
fn many_clients_share_a_small_pool_under_a_small_limit_of_open_files() {
    let path = scratch("shared.json");
    let shell = "ulimit -Sn 1024; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", shell, env!("CARGO_BIN_EXE_boltmux"), "demo", "--seconds", "1", "--once"])
        .args(["--clients", "300", "--pool", "5", "--json"])
        .arg(&path)
        .output()
        .expect("sh is there");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("300 direct, ") && said.contains("(pool 5)"), "{said}");
    assert!(!said.contains("serves on"), "{said}");
    let report: Value =
        serde_json::from_slice(&fs::read(&path).expect("it was written")).expect("it is JSON");
    let _ = fs::remove_file(&path);
    assert_eq!(report["is_fine"], true);
    assert_eq!((&report["errors"], &report["mismatches"]), (&0.into(), &0.into()));
    assert_eq!((&report["clients"], &report["pool"]), (&300.into(), &5.into()));
    assert_eq!(report["server_connections_max"]["direct"], 300);
    let shared = report["server_connections_max"]["boltmux"].as_u64().expect("a number");
    assert!((1..=5).contains(&shared), "{shared}");
    for (target, name) in ["direct", "boltmux"].into_iter().enumerate() {
        let target = &report["load"]["targets"][target];
        assert_eq!(target["name"], name);
        assert!(target["requests"].as_u64().is_some_and(|requests| requests > 0), "{target}");
    }
}

/// Both shards always wait, and neither owns a connection: each must use what it is lent.
#[test]
fn shards_without_a_connection_of_their_own_lend_each_other_one() {
    let output = demo("--seconds 1 --clients 6 --pool 1 --shards 2 --once").output();
    let output = output.expect("it starts");
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("1 through boltmux (pool 1)"), "{}", text(&output));
}

#[test]
fn an_interrupt_ends_the_measurement_with_what_there_is() {
    for signal_name in ["INT", "TERM"] {
        let mut child = Guarded::spawn(&mut demo("--seconds 600 --clients 4 --pool 2"));
        let mut error = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        error.read_line(&mut line).expect("it is text");
        assert!(line.contains("4 clients"), "{line}");
        signal(&child, signal_name);
        let output = child.output();
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("stopped before its time"), "{said}");
        assert!(!said.contains("serves on"), "{said}");
    }
}

#[test]
fn it_serves_on_until_it_is_interrupted() {
    let mut child = Guarded::spawn(&mut demo("--seconds 1 --clients 4 --pool 2"));
    let mut output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut next = |part: &str| {
        let found = output.by_ref().map_while(Result::ok).find(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("no line with {part:?}"))
    };
    let uri = next("URI");
    let address = uri.rsplit("bolt://").next().expect("a split has a part").to_owned();
    assert!(next("user").ends_with("neo4j"));
    assert!(next("password").ends_with("test-password"));
    assert!(next("Python").contains(&format!("bolt://{address}")));
    let mut client = TcpStream::connect(&address).expect("it listens there");
    client.set_read_timeout(Some(WAIT)).expect("the timeout is not zero");
    // Bolt specification, handshake: the magic, then 5.8 and nothing else.
    let proposal = [0x60, 0x60, 0xB0, 0x17, 0, 0, 8, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    client.write_all(&proposal).expect("it reads");
    let mut chosen = [0; 4];
    client.read_exact(&mut chosen).expect("it answers");
    assert_eq!(chosen, [0, 0, 8, 5]);
    drop(client);
    signal(&child, "INT");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn what_cannot_be_done_is_said() {
    let output = demo("--shards 65 --once").output().expect("it starts");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("expected 1 to 64"));
    let path = scratch("no-such-folder").join("demo.json");
    let arguments = format!("--seconds 1 --clients 2 --pool 1 --once --json {}", path.display());
    let output = demo(&arguments).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("cannot write"), "{}", text(&output));
}
