//! Reads the sources and documents: what the compiler and clippy do not look at.
//!
//! Each rule is a function from text to findings, so that the last tests can show on small
//! samples that it would find something.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// The layers, each may use those before it. The load generator and the program come last.
const LAYERS: [&str; 14] = [
    "counters",
    "wire",
    "transport",
    "backend",
    "routing",
    "relay",
    "config",
    "control",
    "synthetic",
    "load",
    "shard",
    "proxy",
    "demo",
    "main",
];

/// Lines of a file without its tests: more is two things in one file.
const FILE_LINES_MAX: usize = 500;
/// Two files side by side on one screen.
const COLUMNS_MAX: usize = 100;

/// Files that may hold `unsafe`: the memory the kernel writes to, and the ring itself.
const UNSAFE_FILES: [&str; 3] =
    ["src/transport/ring/mod.rs", "src/transport/ring/system.rs", "src/transport/buffer.rs"];

/// Documents whose named paths must exist.
const DOCUMENTS: [&str; 3] = ["README.md", "CONTRIBUTING.md", "tuning.md"];

#[test]
fn layers_look_one_way() {
    let mut findings = Vec::new();
    for (path, text) in rust_files() {
        findings.extend(layer_findings(&path, &text));
    }
    assert_none(findings);
}

#[test]
fn the_wire_layer_is_pure() {
    let mut findings = Vec::new();
    for (path, text) in rust_files().into_iter().filter(|(path, _)| path.starts_with("src/wire/")) {
        findings.extend(purity_findings(&path, &text));
    }
    assert_none(findings);
}

#[test]
fn unsafe_code_stays_in_its_files() {
    let files = rust_files().into_iter().filter(|(path, _)| !is_test_file(path));
    let others = files.filter(|(path, _)| !UNSAFE_FILES.contains(&path.as_str()));
    let with_unsafe = others.filter(|(_, text)| has_word(&code_only(text), "unsafe"));
    assert_none(with_unsafe.map(|(path, _)| format!("{path} holds unsafe code")).collect());
}

#[test]
fn files_are_short() {
    let files = rust_files().into_iter().filter(|(path, _)| !is_test_file(path));
    let lengths = files.map(|(path, text)| (path, before_tests(&text).lines().count()));
    let long = lengths.filter(|(_, lines)| *lines > FILE_LINES_MAX);
    assert_none(long.map(|(path, lines)| format!("{path} has {lines} lines")).collect());
}

#[test]
fn lines_are_short() {
    let mut findings = Vec::new();
    for (path, text) in text_files() {
        findings.extend(column_findings(&path, &text));
    }
    assert_none(findings);
}

#[test]
fn no_marker_is_left_over() {
    let mut findings = Vec::new();
    for (path, text) in text_files().into_iter().filter(|(path, _)| path != "Cargo.lock") {
        findings.extend(marker_findings(&path, &text));
    }
    assert_none(findings);
}

#[test]
fn every_source_is_reachable() {
    let all: BTreeSet<String> = rust_files().into_iter().map(|(path, _)| path).collect();
    let mut reached = BTreeSet::new();
    let roots = target_roots(&all);
    let mut open = roots.clone();
    while let Some(path) = open.pop() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        if reached.insert(path.clone()) {
            let modules = modules_of(&path, &text, roots.contains(&path));
            open.extend(modules.into_iter().flatten().filter(|file| all.contains(file)));
        }
    }
    assert!(reached.contains("src/lib.rs"), "the library itself must be found: {reached:?}");
    let orphans = all.difference(&reached);
    assert_none(orphans.map(|path| format!("{path} is in no module")).collect());
}

#[test]
fn paths_named_in_documents_exist() {
    let tracked = tracked_files();
    let mut findings = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document))
            .unwrap_or_else(|error| panic!("{document} must be there: {error}"));
        for path in named_paths(&text).into_iter().filter(|path| !exists(path, &tracked)) {
            findings.push(format!("{document} names {path}, which does not exist"));
        }
    }
    for (document, text) in text_files().into_iter().filter(|(path, _)| path.ends_with(".md")) {
        for link in linked_paths(&document, &text) {
            match link {
                Some(path) if exists(&path, &tracked) => {}
                Some(path) => findings.push(format!("{document} links to missing {path}")),
                None => findings.push(format!("{document} links out of the repository")),
            }
        }
    }
    assert_none(findings);
}

#[test]
fn the_readme_has_the_programs_own_table_of_keys() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md must be there");
    let (_, behind) = readme.split_once("<!-- keys:").expect("the mark before the table is there");
    let (table, _) = behind.split_once("<!-- end of keys -->").expect("the mark behind it, too");
    let rows = table.lines().filter(|line| line.starts_with('|'));
    let is_same = rows.eq(boltmux::config::keys_markdown().lines());
    assert!(is_same, "put what `boltmux check --keys` prints between the marks of README.md");
}

#[test]
fn the_matrix_is_as_its_command_wrote_it() {
    let text = fs::read_to_string(root().join("COMPATIBILITY.md")).expect("it must be there");
    let hint = "COMPATIBILITY.md was changed by hand: let tests/real/matrix write it";
    assert!(is_as_written(&text), "{hint}");
}

#[test]
fn ignored_tests_are_explained() {
    let explained = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap_or_default();
    let mut findings = Vec::new();
    for (path, text) in rust_files() {
        let ignored = ignored_tests(&text).into_iter();
        let unexplained = ignored.filter(|name| !has_word(&explained, name));
        findings.extend(unexplained.map(|name| format!("{path}: {name} is ignored; say why")));
    }
    assert_none(findings);
}

#[test]
fn no_machine_is_named() {
    let here = root();
    let mut places = vec![here.display().to_string()];
    let parent = here.parent().filter(|parent| parent.components().count() > 1);
    if let Some(parent) = parent.filter(|parent| *parent != std::env::temp_dir()) {
        places.push(format!("{}/", parent.display()));
    }
    let homes = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];
    places.extend(homes.map(String::from));
    let mut findings = Vec::new();
    for (path, text) in text_files() {
        findings.extend(place_findings(&path, &text, &places));
    }
    assert_none(findings);
}

fn assert_none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files that git knows or would take; without git, what lies here except build outputs.
fn tracked_files() -> BTreeSet<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let mut files = BTreeSet::new();
    match listed {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            files.extend(text.lines().map(String::from));
        }
        _ => walk(&root(), &mut files),
    }
    files.retain(|path| root().join(path).is_file());
    assert!(files.contains("Cargo.toml"), "the list of files is wrong: {files:?}");
    files
}

fn walk(folder: &Path, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let skipped = [".git", "target", ".venv", "node_modules", "__pycache__"];
        if path.is_symlink() || skipped.iter().any(|skipped| name == *skipped) {
            continue;
        }
        if path.is_dir() {
            walk(&path, files);
        } else if let Ok(inside) = path.strip_prefix(root()) {
            files.insert(inside.display().to_string());
        }
    }
}

fn text_files() -> Vec<(String, String)> {
    let read = |path: String| {
        let bytes = fs::read(root().join(&path)).ok()?;
        let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?;
        Some((path, text))
    };
    tracked_files().into_iter().filter_map(read).collect()
}

fn rust_files() -> Vec<(String, String)> {
    text_files().into_iter().filter(|(path, _)| path.ends_with(".rs")).collect()
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// The part of a file before its tests, which stand at its end.
fn before_tests(text: &str) -> &str {
    let code = code_only(text);
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let rest = code[start + "#[cfg(test)]".len()..].trim_start();
        let opened =
            rest.strip_prefix("mod ").and_then(|rest| rest.find(['{', ';']).map(|at| &rest[at..]));
        if opened.is_some_and(|opened| opened.starts_with('{')) {
            return &text[..start];
        }
        from = start + 1;
    }
    text
}

/// The text with comments, strings and characters blanked out; every byte keeps its place.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let length = blank_length(bytes, at);
        for byte in code.iter_mut().skip(at).take(length).filter(|byte| **byte != b'\n') {
            *byte = b' ';
        }
        at += length.max(1);
    }
    // Code outside of what was blanked keeps its bytes, so this holds text still.
    String::from_utf8_lossy(&code).into_owned()
}

/// How many bytes from `at` on are a comment or a literal; zero if they are code.
fn blank_length(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let is_in_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment_length(rest),
        [b'r', b'"' | b'#', ..] if !is_in_word => raw_string_length(rest, 1),
        [b'b', b'r', b'"' | b'#', ..] if !is_in_word => raw_string_length(rest, 2),
        [b'"', ..] => quoted_length(rest, b'"'),
        // A character, not a lifetime: it is escaped or ends at once.
        [b'\'', b'\\', ..] => quoted_length(rest, b'\''),
        [b'\'', ..] => {
            let end = rest.iter().skip(1).take(5).position(|byte| *byte == b'\'');
            let is_one = |end: &usize| {
                std::str::from_utf8(&rest[1..=*end]).is_ok_and(|inside| inside.chars().count() == 1)
            };
            end.filter(is_one).map_or(0, |end| end + 2)
        }
        _ => 0,
    }
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Zero for a raw identifier.
fn raw_string_length(rest: &[u8], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(prefix + hashes) != Some(&b'"') {
        return 0;
    }
    let end = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = prefix + hashes + 1;
    let found = rest[body..].windows(end.len()).position(|window| window == end);
    found.map_or(rest.len(), |found| body + found + end.len())
}

fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether the last line holds the digest of all before it, as `tests/real/document.py` makes it.
fn is_as_written(text: &str) -> bool {
    let lines = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n'));
    let Some((above, last)) = lines else { return false };
    last == format!("<!-- digest of the lines above: {:016x} -->", fnv_1a(above, "\n"))
}

/// FNV-1a of 64 bits over the two texts, one behind the other.
fn fnv_1a(text: &str, end: &str) -> u64 {
    let bytes = text.bytes().chain(end.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |digest: u64, byte| {
        (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Where a word stands on its own.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = text.as_bytes();
    let is_free = move |at: usize| bytes.get(at).is_none_or(|byte| !is_word(*byte));
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| (*at == 0 || is_free(at - 1)) && is_free(at + word.len()))
}

fn has_word(text: &str, word: &str) -> bool {
    words(text, word).next().is_some()
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// The layer a file belongs to; `None` for tests and the crate's own map.
fn layer_of(path: &str) -> Option<&str> {
    if path.starts_with("bench/load/") {
        return Some("load");
    }
    let name = path.strip_prefix("src/")?.split('/').next()?;
    Some(name.strip_suffix(".rs").unwrap_or(name)).filter(|name| *name != "lib")
}

fn layer_findings(path: &str, text: &str) -> Vec<String> {
    let Some(layer) = layer_of(path) else { return Vec::new() };
    let Some(own) = LAYERS.iter().position(|known| *known == layer) else {
        return vec![format!("{path}: {layer} is no known layer")];
    };
    let code = code_only(text);
    let mut findings = Vec::new();
    for (at, used) in used_layers(path, &code, before_tests(text).len()) {
        let line = line_of(&code, at);
        match LAYERS.iter().position(|known| *known == used) {
            Some(other) if other <= own => {}
            Some(_) => findings.push(format!("{path}:{line}: {layer} must not use {used}")),
            None => findings.push(format!("{path}:{line}: {used} is no known layer")),
        }
    }
    findings
}

/// The first names behind each `crate::`, `boltmux::` and chain of `super::` that ends at the
/// root, each with its place.
fn used_layers(path: &str, code: &str, tests_start: usize) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    // The programs are crates of their own: only the library's name leads to its layers.
    let is_program = path == "src/main.rs" || path.starts_with("bench/");
    let starts: &[&str] = if is_program { &["boltmux"] } else { &["crate", "boltmux"] };
    for start in starts {
        for at in words(code, start) {
            if let Some(rest) = code[at + start.len()..].trim_start().strip_prefix("::") {
                used.extend(first_names(rest).into_iter().map(|name| (at, name)));
            }
        }
    }
    for at in words(code, "super") {
        // Only the first of a chain counts it.
        if is_program || code[..at].trim_end().ends_with("super::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut steps = 0;
        while let Some(next) = rest.strip_prefix("super::") {
            (rest, steps) = (next, steps + 1);
        }
        if steps >= module_depth(path) + usize::from(at >= tests_start) {
            used.extend(first_names(rest).into_iter().map(|name| (at, name)));
        }
    }
    used
}

/// How many `super` lead from a file's module to the crate's root.
fn module_depth(path: &str) -> usize {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    inside.split('/').filter(|part| !["mod.rs", "lib.rs", "main.rs"].contains(part)).count()
}

/// `a::b` gives a; `{a::{b, c}, d}` gives a and d.
fn first_names(rest: &str) -> Vec<String> {
    let name_of = |text: &str| {
        let name: String = text.trim_start().chars().take_while(|c| is_word(*c as u8)).collect();
        Some(name).filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let Some(group) = rest.trim_start().strip_prefix('{') else {
        return name_of(rest).into_iter().collect();
    };
    let (mut depth, mut item_start, mut names) = (0usize, 0, Vec::new());
    for (at, letter) in group.char_indices() {
        let is_end = depth == 0 && (letter == ',' || letter == '}');
        if is_end {
            names.extend(name_of(&group[item_start..at]));
            item_start = at + 1;
        }
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| name != "self");
    names
}

fn purity_findings(path: &str, text: &str) -> Vec<String> {
    let code = code_only(before_tests(text));
    let impure = [
        "std::net",
        "std::thread",
        "std::fs",
        "std::os",
        "glommio",
        "io_uring",
        "tracing",
        "async",
        "println",
        "eprintln",
        "Instant",
        "SystemTime",
    ];
    let found = impure.iter().filter(|word| !is_test_file(path) && has_word(&code, word));
    found.map(|word| format!("{path} uses {word}")).collect()
}

fn column_findings(path: &str, text: &str) -> Vec<String> {
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
    let is_checked = match extension {
        Some(extension) => ["rs", "md", "py", "sh"].contains(&extension),
        None => text.starts_with("#!"),
    };
    let is_table = |line: &str| extension == Some("md") && line.trim_start().starts_with('|');
    let lines = text.lines().enumerate().filter(|(_, line)| is_checked && !is_table(line));
    let long = lines.filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
    long.map(|(index, _)| format!("{path}:{}: longer than {COLUMNS_MAX}", index + 1)).collect()
}

/// Written in two parts, or this file would find itself.
const MARKERS: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("to", "do!"),
    concat!("unimpl", "emented!"),
    concat!("db", "g!"),
];

fn marker_findings(path: &str, text: &str) -> Vec<String> {
    let found = MARKERS.iter().flat_map(|marker| {
        words(text, marker).map(move |at| format!("{path}:{}: {marker}", line_of(text, at)))
    });
    found.collect()
}

/// Files cargo builds by itself or because a manifest names them.
fn target_roots(all: &BTreeSet<String>) -> Vec<String> {
    let mut roots: Vec<String> = all.iter().filter(|path| is_target(path)).cloned().collect();
    let manifests = text_files().into_iter().filter(|(path, _)| path.ends_with("Cargo.toml"));
    for (manifest, text) in manifests {
        let folder = manifest.strip_suffix("Cargo.toml").unwrap_or_default();
        let named = text.lines().filter_map(|line| line.trim().strip_prefix("path = \""));
        roots.extend(named.filter_map(|rest| Some(format!("{folder}{}", rest.split('"').next()?))));
    }
    roots
}

/// By cargo's own layout, in this package or a nested one.
fn is_target(path: &str) -> bool {
    let parts: Vec<&str> = path.rsplit('/').collect();
    matches!(
        parts.as_slice(),
        ["build.rs"]
            | ["lib.rs" | "main.rs", "src", ..]
            | [_, "tests" | "benches" | "examples"]
            | ["main.rs", _, "tests" | "benches" | "examples"]
    )
}

/// For each `mod name;` the files it may mean.
fn modules_of(path: &str, text: &str, is_root: bool) -> Vec<Vec<String>> {
    let code = code_only(text);
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let inner =
        if is_root || file == "mod.rs" { folder.into() } else { format!("{folder}/{stem}") };
    let mut modules = Vec::new();
    for at in words(&code, "mod") {
        let rest = code[at + "mod".len()..].trim_start();
        let Some((name, _)) = rest.split_once(';').filter(|(name, _)| name.bytes().all(is_word))
        else {
            continue;
        };
        let before = code[..at].rfind([';', '}', '{']).map_or(0, |end| end + 1);
        let attribute = text[before..at].split_once("#[path = \"");
        modules.push(match attribute.and_then(|(_, rest)| rest.split('"').next()) {
            Some(named) => normal(&format!("{folder}/{named}")).into_iter().collect(),
            None => vec![format!("{inner}/{name}.rs"), format!("{inner}/{name}/mod.rs")],
        });
    }
    modules
}

/// A path inside the repository without `.` and `..`; `None` if it leads out of it.
fn normal(path: &str) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?.into()),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// What stands in backticks and looks like a path of this repository.
fn named_paths(text: &str) -> Vec<String> {
    // Inside fences backticks mean nothing, and commands write files that are not there yet.
    let prose: Vec<&str> = text.split("```").step_by(2).collect();
    let spans = prose.iter().flat_map(|part| part.split('`').skip(1).step_by(2));
    let words = spans.filter_map(|span| span.split_whitespace().next());
    words.filter_map(|word| repository_path(word.trim_start_matches("./"))).collect()
}

fn repository_path(word: &str) -> Option<String> {
    let is_plain = word.bytes().all(|byte| is_word(byte) || b"-./*".contains(&byte));
    let is_source = [".rs", ".md", ".py", ".sh", ".bolt"].iter().any(|end| word.ends_with(end));
    let top = word.split('/').next().unwrap_or_default();
    let is_ours = word.contains('/') && !top.is_empty() && root().join(top).is_dir();
    let is_output = ["target", ".git"].contains(&top) || word.starts_with(['/', '-', '*']);
    (is_plain && !is_output && (is_ours || is_source)).then(|| word.to_owned())
}

/// Targets of Markdown links, from the repository's root; `None` for one that leads out.
fn linked_paths(document: &str, text: &str) -> Vec<Option<String>> {
    let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
    let prose: Vec<&str> = text.split("```").step_by(2).collect();
    let targets = prose.iter().flat_map(|part| part.split("](").skip(1));
    let targets = targets.filter_map(|rest| rest.split([')', '#', ' ']).next());
    let is_local = |target: &&str| !target.is_empty() && !target.contains(':');
    targets.filter(is_local).map(|target| normal(&format!("./{folder}/{target}"))).collect()
}

/// A file, a folder with files, a pattern over one folder, or a bare file name anywhere.
fn exists(path: &str, tracked: &BTreeSet<String>) -> bool {
    // Folders that building and testing make, and git ignores.
    if [".cache/", "target/"].iter().any(|made| path.starts_with(made)) {
        return true;
    }
    if let Some((before, after)) = path.split_once('*') {
        return tracked.iter().any(|file| file.starts_with(before) && file.ends_with(after));
    }
    let folder = format!("{}/", path.trim_end_matches('/'));
    let is_bare = !path.contains('/');
    let is_here = |file: &String| {
        file == path
            || file.starts_with(&folder)
            || (is_bare && file.rsplit('/').next() == Some(path))
    };
    tracked.iter().any(is_here)
}

fn ignored_tests(text: &str) -> Vec<String> {
    let code = code_only(text);
    let is_ignore = |attribute: &str| has_word(attribute.split(']').next().unwrap_or(""), "ignore");
    let attributes = code.match_indices("#[").filter(|(at, _)| is_ignore(&code[*at..]));
    let name_behind = |(at, _): (usize, &str)| {
        let (_, rest) = code[at..].split_once("fn ")?;
        rest.split('(').next().map(|name| name.trim().to_owned())
    };
    attributes.filter_map(name_behind).collect()
}

fn place_findings(path: &str, text: &str, places: &[String]) -> Vec<String> {
    let lines = text.lines().enumerate();
    let found = lines.filter(|(_, line)| places.iter().any(|place| line.contains(place.as_str())));
    found.map(|(index, _)| format!("{path}:{}: names a place of one machine", index + 1)).collect()
}

#[test]
fn comments_and_literals_are_no_code() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        ("\"a \\\" b\" c", "         c"),
        ("r#\"a \" b\"# c", "           c"),
        ("br\"\\\" c", "      c"),
        ("'a' 'b", "    'b"),
        ("'\\'' x", "     x"),
        ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
        ("for\"x\"", "for   "),
        ("r#type", "r#type"),
    ];
    for (text, code) in cases {
        assert_eq!(code_only(text), code, "{text}");
    }
    assert_eq!(code_only("'é' x").trim(), "x");
}

#[test]
fn a_look_at_a_later_layer_is_found() {
    let cases = [
        ("src/wire/chunk.rs", "use crate::transport::conn;", 1),
        ("src/wire/chunk.rs", "use crate::{wire::{limits, state}, relay::{self}, backend};", 2),
        ("src/wire/chunk.rs", "use super::super::relay;", 1),
        ("src/wire/chunk.rs", "use super::state;", 0),
        ("src/wire/chunk.rs", "#[cfg(test)]\nmod tests {\n use super::super::relay;\n}", 0),
        ("src/wire/chunk.rs", "#[cfg(test)]\nmod tests {\n use super::super::super::relay;\n}", 1),
        ("src/counters.rs", "fn f() { super::wire::f() }", 1),
        ("src/relay/task.rs", "use crate::wire; // use crate::control;", 0),
        ("src/relay/mod.rs", "use crate::control::admin;", 1),
        ("src/main.rs", "use boltmux::{config, control, shard};", 0),
        ("bench/load/main.rs", "use boltmux::shard;", 1),
        ("bench/load/main.rs", "use crate::plan;", 0),
        ("src/odd/mod.rs", "", 1),
        ("src/wire/mod.rs", "use crate::odd;", 1),
        ("src/lib.rs", "pub mod transport;", 0),
        ("tests/config.rs", "use boltmux::config;", 0),
    ];
    for (path, text, count) in cases {
        let findings = layer_findings(path, text);
        assert_eq!(findings.len(), count, "{path}: {text}: {findings:?}");
    }
}

#[test]
fn impure_and_unsafe_code_is_found() {
    assert_eq!(purity_findings("src/wire/a.rs", "use std::net::IpAddr;").len(), 1);
    assert_eq!(purity_findings("src/wire/a.rs", "async fn f() {}").len(), 1);
    assert_eq!(purity_findings("src/wire/a.rs", "// async\nfn f() {}").len(), 0);
    assert!(has_word("x = unsafe { f() }", "unsafe") && !has_word("unsafe_op", "unsafe"));
}

#[test]
fn tests_do_not_count_as_lines() {
    let text = "a\n#[cfg(test)]\nmod support;\nb\n#[cfg(test)]\nmod tests {\n}\n";
    assert_eq!(before_tests(text), "a\n#[cfg(test)]\nmod support;\nb\n");
    assert_eq!(before_tests("// #[cfg(test)] mod tests {\na"), "// #[cfg(test)] mod tests {\na");
    assert!(is_test_file("src/wire/tests/mod.rs") && !is_test_file("src/transport/selftest.rs"));
}

#[test]
fn long_lines_are_found_in_text_only() {
    let long = "ä".repeat(COLUMNS_MAX + 1);
    let fits = "ä".repeat(COLUMNS_MAX);
    for path in ["a.rs", "a.md", "a.py", "a.sh"] {
        assert_eq!(column_findings(path, &long).len(), 1, "{path}");
        assert_eq!(column_findings(path, &fits).len(), 0, "{path}");
    }
    assert_eq!(column_findings("tests/run", &format!("#!/bin/sh\n{long}")).len(), 1);
    assert_eq!(column_findings("a.md", &format!("| {long} |")).len(), 0);
    assert_eq!(column_findings("a.svg", &long).len(), 0);
}

#[test]
fn markers_are_found_as_words() {
    for marker in MARKERS {
        assert_eq!(marker_findings("a.rs", &format!("x\n// {marker} y")).len(), 1, "{marker}");
    }
    assert_eq!(marker_findings("a.sh", &format!("mktemp {}", "X".repeat(6))).len(), 0);
}

#[test]
fn modules_are_followed() {
    let text = "mod a;\n#[path = \"../b/c.rs\"]\nmod c;\nmod d { }\n// mod e;\npub(crate) mod f;";
    let found = modules_of("src/x/mod.rs", text, false);
    let expected = [
        vec!["src/x/a.rs", "src/x/a/mod.rs"],
        vec!["src/b/c.rs"],
        vec!["src/x/f.rs", "src/x/f/mod.rs"],
    ];
    assert_eq!(found, expected);
    assert_eq!(modules_of("src/x.rs", "mod a;", false)[0][0], "src/x/a.rs");
    assert_eq!(modules_of("src/lib.rs", "mod a;", true)[0][0], "src/a.rs");
    assert!(is_target("tests/tidy.rs") && is_target("src/main.rs") && is_target("tests/a/main.rs"));
    assert!(!is_target("tests/support/a.rs") && !is_target("src/wire/mod.rs"));
}

#[test]
fn paths_in_documents_are_found() {
    let text = "See `src/gone.rs`, `./tests/run --all`, `cargo test`, `src/wire/`, `pool.size`,\n\
                `gone.md`, `bolt://a/b`, `/etc/hosts`, `a/b`.\n\
                ```\n`src/fenced.rs`\n```\n`target/x`";
    assert_eq!(named_paths(text), ["src/gone.rs", "tests/run", "src/wire/", "gone.md"]);
    let text = "[a](b.md#c) [d](https://e) [f](../g.md) [h](#i) [j](../../k)";
    let found = linked_paths("docs/x.md", text);
    assert_eq!(found, [Some("docs/b.md".into()), Some("g.md".into()), None]);
    let tracked = BTreeSet::from(["src/wire/mod.rs".to_owned(), "README.md".to_owned()]);
    for (path, is_there) in [
        ("src/wire/mod.rs", true),
        ("src/wire", true),
        ("src/wire/", true),
        ("src/wire/*.rs", true),
        ("src/wire/*.md", false),
        ("mod.rs", true),
        ("src/mod.rs", false),
        ("src/wir", false),
    ] {
        assert_eq!(exists(path, &tracked), is_there, "{path}");
    }
}

#[test]
fn ignored_tests_and_places_are_found() {
    let text = "#[test]\n#[ignore = \"slow\"]\nfn slow_one() {}\n// #[ignore]\n#[test]\nfn b() {}";
    assert_eq!(ignored_tests(text), ["slow_one"]);
    let text = "let (taken, ignored) = f();\n#[cfg_attr(x, ignore = \"why\")]\nfn other() {}";
    assert_eq!(ignored_tests(text), ["other"]);
    let places = ["/somebody/".to_owned()];
    assert_eq!(
        place_findings("a", "x\ncd /somebody/x", &places),
        ["a:2: names a place of one machine"]
    );
    assert_eq!(place_findings("a", "somebody", &places).len(), 0);
}

#[test]
fn a_change_by_hand_is_found() {
    // The published value for these six bytes.
    assert_eq!(fnv_1a("foobar", ""), 0x8594_4171_f739_67e8);
    let written = |body: &str| {
        let digest = fnv_1a(body, "");
        format!("{body}<!-- digest of the lines above: {digest:016x} -->\n")
    };
    let text = written("# What works\n\n| 31 + 2 |\n\n");
    assert!(is_as_written(&text));
    let changes = [("31", "33"), ("\n\n|", "\n|"), ("above: ", "above:  "), (" -->", " --> more")];
    for (from, to) in changes {
        assert!(!is_as_written(&text.replacen(from, to, 1)), "{from:?} became {to:?}");
    }
    assert!(!is_as_written(&format!("{text}More.\n")), "a line at the end");
    assert!(!is_as_written("") && !is_as_written("# What works\n"), "no digest at all");
}
