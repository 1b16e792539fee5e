//! `boltload` as people start it, against the synthetic server.

mod guard;

use self::guard::Guarded;
use boltmux::synthetic::{Options, Server};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

const MIX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/load/mix.toml");

/// `boltload` with these words and the server's password.
fn command(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_boltload"));
    command.args(words.split_whitespace()).env("BOLTLOAD_PASSWORD", "test-password");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(words: &str) -> Output {
    command(words).output().expect("boltload can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder of its own for one test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("the target folder can be written to");
    folder
}

#[test]
fn every_shape_and_loop_ends_clean() {
    let server = Server::start(Options::default()).unwrap();
    let address = server.address();
    for words in [
        "--shape auto --rate 200 --ramp 100ms".to_owned(),
        "--shape tx --pipeline-begin --read --database movies".to_owned(),
        "--shape rows:30 --fetch-size 7 --query".to_owned(),
        "--shape login --clients 40 --threads 2".to_owned(),
        "--shape login --rate 100".to_owned(),
        format!("--shape mix:{MIX} --requests 100 --think 1ms"),
    ] {
        let mut command = command(&format!(
            "--target a=bolt://{address} --target b=neo4j://{address} --rounds 2 --seconds 2 \
             {words}"
        ));
        if words.ends_with("--query") {
            command.arg("ROWS 30 10");
        }
        let output = command.output().expect("boltload can be started");
        let (table, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words}: {table}{errors}");
        assert!(table.contains("latencies in ms") && !table.contains("stopped"), "{table}");
    }
    server.stop();
}

#[test]
fn every_shape_is_measured_through_every_door() {
    let server = Server::start(Options::default()).unwrap();
    let pem = folder("boltload-doors").join("certificate.pem").display().to_string();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(&pem, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    let (mut proxy, address) = start_proxy(&server, &pem);
    // Requests longer than a frame may be.
    let long = folder("boltload-long").join("long.toml");
    let query = "[[query]]\ntext = \"RETURN $nonce AS n\"\nparameters = { x = \"";
    fs::write(&long, format!("{query}{}\" }}\n", "x".repeat(200_000))).unwrap();
    for shape in [
        "auto",
        "auto --rate 100",
        "tx",
        "tx --pipeline-begin",
        "rows:30 --query",
        "login",
        "login --resume-tls",
        "handshake",
        &format!("mix:{MIX}"),
        &format!("mix:{}", long.display()),
    ] {
        let mut command = command(&format!(
            "--target direct=bolt://{} --target plain=bolt://{address} --target web=ws://{address} \
             --target tls=bolt+s://{address} --target any=bolt+ssc://{address} \
             --target web-tls=wss://{address} --target web-any=wss+ssc://{address} \
             --ca-file {pem} --rounds 1 --seconds 1 --clients 8 --shape {shape}",
            server.address()
        ));
        if shape.ends_with("--query") {
            command.arg("ROWS 30 4000");
        }
        let output = command.output().expect("boltload can be started");
        let (table, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{shape}: {table}{errors}");
        assert!(table.contains("web-any") && !table.contains("stopped"), "{table}");
    }
    // What is not believed, and what is not spoken, is told.
    for uri in [format!("wss://{address}"), format!("ws://{}", server.address())] {
        let output = run(&format!("--uri {uri} --seconds 1"));
        assert_eq!(output.status.code(), Some(1), "{uri}: {}", text(&output.stdout));
    }
    proxy.kill().and_then(|()| proxy.wait()).expect("it was running");
    server.stop();
}

/// boltmux with a certificate in front of this server, and the address it has taken.
fn start_proxy(server: &Server, pem: &str) -> (Guarded, String) {
    let words = [
        format!("--uri bolt://{} --set listen.cert={pem}", server.address()),
        "--set listen.bind=127.0.0.1:0 --set shards=1 --set log.level=error".into(),
    ];
    let mut proxy = Command::new(env!("CARGO_BIN_EXE_boltmux"));
    proxy.args(words.iter().flat_map(|words| words.split_whitespace()));
    let mut proxy = Guarded::spawn(proxy.env_clear().stderr(Stdio::piped()));
    let mut line = String::new();
    let stderr = proxy.stderr.as_mut().expect("it is piped");
    let mut lines = std::io::BufReader::new(stderr);
    std::io::BufRead::read_line(&mut lines, &mut line).expect("it says where it listens");
    let address = line.split(' ').nth(4).unwrap_or_else(|| panic!("{line}")).to_owned();
    (proxy, address)
}

#[test]
fn all_outputs_are_written() {
    let server = Server::start(Options::default()).unwrap();
    let folder = folder("boltload-outputs");
    let path = |name: &str| folder.join(name).display().to_string();
    let (json, hgrm, plot) = (path("all.json"), path("all.hgrm"), path("all.svg"));
    let address = server.address();
    let output = run(&format!(
        "--target a=bolt://{address} --target b=bolt://{address} --target gone=127.0.0.1:1 \
         --rounds 2 --seconds 1 --pid a={} --json {json} --hgrm {hgrm} --plot {plot}",
        std::process::id()
    ));
    // Nobody listens at port 1: that is told, and the others are measured.
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("gone: 1 x connect: Connection refused"));
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(json).unwrap()).expect("it is JSON");
    let requests = |place: usize| json["targets"][place]["requests"].as_u64();
    assert!(requests(0) > Some(0) && requests(1) > Some(0) && requests(2) == Some(0));
    assert!(json["targets"][0]["cpu_us_per_request"].is_number());
    let hgrm = fs::read_to_string(hgrm).unwrap();
    assert_eq!(hgrm.matches("# target ").count(), 2);
    assert_eq!(hgrm.matches("1/(1-Percentile)").count(), 2);
    assert_eq!(fs::read_to_string(plot).unwrap().matches("<polyline").count(), 2);
    server.stop();
}

#[test]
fn a_table_that_nobody_reads_is_no_error() {
    let server = Server::start(Options::default()).unwrap();
    let words = format!("--uri bolt://{} --requests 10 --warm-up 0.01", server.address());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command(&words).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn wrong_arguments_are_told_together_with_status_2() {
    let output = run(
        "--target x --uri ftp://127.0.0.1 --shape zigzag --rate -3 --think soon --clients none \
         --seconds -1 --password-file /missing/password --plot /missing/folder/plot.svg",
    );
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    for part in ["\"x\"", "ftp", "zigzag", "rate of -3", "--think", "--clients", "--seconds"] {
        assert!(errors.contains(part), "{part} is missing in {errors}");
    }
    assert!(errors.contains("/missing/password") && errors.contains("/missing/folder"), "{errors}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_flag_that_it_does_not_have_hides_no_other_mistake() {
    let output = run(
        "--nonsense 5 --uri nonsense://127.0.0.1 --rate 1x --shap auto --shape mix:/missing/mix \
         --pid gone=4294967295 --read=yes --clients 0 --clients 1 --threads",
    );
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    for part in [
        "--nonsense",
        "--shap'",
        "nonsense://",
        "\"1x\"",
        "/missing/mix",
        "4294967295",
        "--read",
        "--clients",
        "--threads",
    ] {
        assert!(errors.contains(part), "{part} is missing in {errors}");
    }
    assert!(errors.contains("0 clients"), "the first one counts: {errors}");
    assert!(errors.lines().all(|line| line.starts_with("boltload: ")), "{errors}");
    // The wish for help or the version is no mistake.
    for (words, part) in [("--help", "--shape <SHAPE>"), ("--version", "boltload ")] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains(part));
    }
}

#[test]
fn unknown_flags_and_wrong_values_are_told_together() {
    let output = run("--nonsense --uri not-a:uri --rate fast --more=7 --shape zigzag --ca-file x \
         --password-file /missing/password");
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    let parts = ["--nonsense", "--more", "\"fast\"", "zigzag", "not-a:uri", "/missing/password"];
    for part in parts {
        assert!(errors.contains(part), "{part} is missing in {errors}");
    }
    assert_eq!(errors.lines().count(), parts.len(), "{errors}");
}

#[test]
fn a_signal_ends_it_with_what_was_measured() {
    let server = Server::start(Options::default()).unwrap();
    let words = format!("--uri {} --rate 50 --seconds 600", server.address());
    let mut child = Guarded::spawn(&mut command(&words));
    while server.stats().queries < 10 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        thread::park_timeout(Duration::from_millis(10));
    }
    interrupt(&child);
    let output = child.output();
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}{}", text(&output.stderr));
    assert!(table.contains("open loop, 50 requests/s wanted"), "{table}");
    assert!(table.contains("stopped before its time"), "{table}");
    server.stop();
}

fn interrupt(child: &Child) {
    // The shell's own: a machine without procps has no program of that name.
    let sent = Command::new("sh").args(["-c", "kill -s INT $0", &child.id().to_string()]).status();
    assert!(sent.expect("sh is there").success());
}
