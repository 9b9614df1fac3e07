//! Errors of TOML itself, in our words where an operator would stumble: above all, names given twice.

use std::ops::Range;

use toml::de::{DeTable, DeValue, Error};

use super::file::printable;
use super::problem::Problems;

/// Reports the errors of the parser. Returns whether only names were given twice: then the rest of the text can
/// still be checked as a whole.
pub(super) fn report(text: &str, errors: &[Error], problems: &mut Problems) -> bool {
    if errors.is_empty() {
        return true;
    }
    let lines = lines(text);
    let mut only_twice = true;
    let mut twice_headers: Vec<Range<usize>> = Vec::new();
    for error in errors {
        let at = error.span().unwrap_or(text.len()..text.len());
        if error.message() != "duplicate key" {
            only_twice = false;
            let message = error.message().lines().next().unwrap_or("not TOML");
            problems.error(at, format!("this is not TOML: {message}")).label("here");
            continue;
        }
        let Some(second) = lines.iter().rev().find(|line| line.at.start <= at.start) else { continue };
        // Everything in a table that stands twice stands twice: one report is enough.
        if twice_headers.contains(&second.header) {
            continue;
        }
        if second.is_header {
            twice_headers.push(second.header.clone());
        }
        let first = lines.iter().find(|line| line.path == second.path && line.at.start < second.at.start);
        let problem = problems.error(at, sentence(&second.path));
        problem.label("again here");
        if let Some(first) = first {
            problem.also(first.at.clone(), "first here");
        }
        problem.help("give one of them another name, or make one of the two");
    }
    only_twice
}

fn sentence(path: &[String]) -> String {
    let path: Vec<String> = path.iter().map(|name| printable(name)).collect();
    match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cameras", camera] => format!("camera `{camera}` is defined twice"),
        ["cameras", camera, "zones", zone] => format!("zone `{zone}` of camera `{camera}` is defined twice"),
        ["cameras", camera, "lines", line] => format!("line `{line}` of camera `{camera}` is defined twice"),
        [ref table @ .., key] if !table.is_empty() => {
            format!("`{key}` is written twice in [{}]", table.join("."))
        }
        [table] => format!("[{table}] is written twice"),
        _ => "a key is written twice".to_owned(),
    }
}

/// A line that opens a table or sets a key.
struct Line {
    /// Where its key or header stands.
    at: Range<usize>,
    /// The full path of what it opens or sets.
    path: Vec<String>,
    is_header: bool,
    /// The header that it stands under, or is.
    header: Range<usize>,
}

/// The headers and keys of a text, by its lines: the parser keeps no place for the first of two. Text within
/// strings of several lines may be taken for keys; it can only win against a key of the same name.
fn lines(text: &str) -> Vec<Line> {
    let mut found: Vec<Line> = Vec::new();
    let (mut table, mut header, mut start) = (Vec::new(), 0..0, 0);
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        let (begin, content) = (start + indent, line.trim());
        start += line.len();
        if content.starts_with('[') {
            let Some(path) = path_of(content) else { continue };
            let end = content.find(']').map_or(content.len(), |end| end + 1);
            header = begin..begin + end;
            table.clone_from(&path);
            found.push(Line { at: header.clone(), path, is_header: true, header: header.clone() });
        } else if let Some((key, _)) = content.split_once('=')
            && let Some(own) = path_of(&format!("{key}=0"))
        {
            let path = table.iter().cloned().chain(own).collect();
            let at = begin..begin + key.trim_end().len();
            found.push(Line { at, path, is_header: false, header: header.clone() });
        }
    }
    found
}

/// The names in a header or a dotted key, by TOML's own rules.
fn path_of(line: &str) -> Option<Vec<String>> {
    let doc = DeTable::parse(line).ok()?;
    let mut path = Vec::new();
    let mut table = doc.get_ref();
    while let Some((name, value)) = table.iter().next() {
        path.push(name.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    (!path.is_empty()).then_some(path)
}
