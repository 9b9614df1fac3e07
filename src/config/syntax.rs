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
    let mut last_line = None;
    let mut twice_headers: Vec<Range<usize>> = Vec::new();
    for error in errors {
        let at = error.span().unwrap_or(text.len()..text.len());
        if error.message() != "duplicate key" {
            only_twice = false;
            // One mistake makes several errors.
            let line = text[..text.floor_char_boundary(at.start)].matches('\n').count();
            if last_line.replace(line) == Some(line) {
                continue;
            }
            let message = error.message().lines().next().unwrap_or("not TOML");
            problems.error(visible(text, at), format!("this is not TOML: {message}")).label("here");
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
        problem.help(if second.is_header || second.path.first().is_some_and(|table| table == "cameras") {
            "give one of them another name, or make one of the two"
        } else {
            "keep one of them"
        });
    }
    only_twice
}

/// A caret needs something to point at: at the end of a line, that is its last character.
fn visible(text: &str, at: Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(at.start);
    let rest = text[start..].split('\n').next().unwrap_or_default();
    if !rest.trim().is_empty() {
        return at;
    }
    let line = text[..start].rfind('\n').map_or(0, |end| end + 1);
    let shown = text[line..start].trim_end();
    let last = shown.char_indices().next_back().map_or(0, |(i, _)| i);
    line + last..line + shown.len()
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
    /// Where the last name of its path stands.
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
            let Some((path, name)) = path_of(content) else { continue };
            let end = content.find(']').map_or(content.len(), |end| end + 1);
            header = begin..begin + end;
            table.clone_from(&path);
            let at = begin + name.start..begin + name.end;
            found.push(Line { at, path, is_header: true, header: header.clone() });
        } else if let Some((key, _)) = content.split_once('=')
            && let Some((own, name)) = path_of(&format!("{key}=0"))
        {
            let path = table.iter().cloned().chain(own).collect();
            let at = begin + name.start..begin + name.end;
            found.push(Line { at, path, is_header: false, header: header.clone() });
        }
    }
    found
}

/// The names in a header or a dotted key, by TOML's own rules, and the place of the last.
fn path_of(line: &str) -> Option<(Vec<String>, Range<usize>)> {
    let doc = DeTable::parse(line).ok()?;
    let (mut path, mut place) = (Vec::new(), 0..0);
    let mut table = doc.get_ref();
    while let Some((name, value)) = table.iter().next() {
        path.push(name.get_ref().to_string());
        place = name.span();
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    (!path.is_empty()).then_some((path, place))
}
