//! The house rules that the compiler does not check: `src/flow` stays pure, and `unsafe` stays in
//! `src/device/nvidia`.

use std::fs;
use std::path::{Path, PathBuf};

/// A word that must not stand in a line of code; with the second, only when that one stands there too.
type Banned = (&'static str, Option<&'static str>);

/// What would give pure code a thread, a clock, a socket or a device.
const IMPURE: &[Banned] = &[
    ("thread", Some("std")),
    ("net", Some("std")),
    ("Instant", None),
    ("SystemTime", None),
    ("gst", None),
    ("gstreamer", None),
    ("ort", None),
    ("tokio", None),
    ("crossbeam", None),
    ("crossbeam_channel", None),
];

const UNSAFE: &[Banned] = &[("unsafe", None), ("unsafe_code", None)];

#[test]
fn flow_is_pure() {
    let files = sources("src/flow");
    assert!(files.len() >= 3, "src/flow has moved: {files:?}");
    report(&files, IMPURE, "src/flow is given its time and touches no device");
}

#[test]
fn unsafe_code_lives_in_device_nvidia_only() {
    let mut files = sources("src");
    files.retain(|file| !file.starts_with("src/device/nvidia"));
    assert!(!files.is_empty());
    report(&files, UNSAFE, "unsafe is for src/device/nvidia");
}

#[test]
fn the_checks_see_what_they_look_for() {
    for line in [
        "use std::thread;",
        "use std::{fmt, thread};",
        "let now = std::time::Instant::now(); // the time",
        "use ort::Session;",
        "fn f(socket: std::net::TcpStream) {",
        "    crossbeam_channel::bounded(1)",
    ] {
        assert_eq!(offences(line, IMPURE), [1], "{line}");
    }
    assert_eq!(offences("fn a() {}\n\nunsafe fn b() {}\n#![allow(unsafe_code)]", UNSAFE), [3, 4]);
    for line in
        ["// std::thread in a comment", "/// An Instant", "let net = short(report);", "let constant = 1;"]
    {
        assert!(offences(line, IMPURE).is_empty(), "{line}");
    }
}

fn report(files: &[PathBuf], banned: &[Banned], rule: &str) {
    let found: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(root().join(file)).expect("the file was listed just now");
            let lines = offences(&text, banned);
            lines.into_iter().map(|line| format!("{}:{line}", file.display())).collect::<Vec<_>>()
        })
        .collect();
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// The numbers of the lines that hold a banned word outside a comment.
fn offences(text: &str, banned: &[Banned]) -> Vec<usize> {
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let code = line.split_once("//").map_or(line, |(code, _)| code);
        let has =
            |word: &str| code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word);
        if banned.iter().any(|(word, with)| has(word) && with.is_none_or(has)) {
            found.push(number);
        }
    }
    found
}

/// All Rust files under a folder, relative to the package.
fn sources(folder: &str) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::from(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("the folder exists") {
            let path = folder.join(entry.expect("the folder can be read").file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                files.push(path);
            }
        }
    }
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
