//! What a key is: the language in which [`keys`](super::keys) lists every key of the file, once.
//!
//! The reader, "did you mean", the range checks and `config/reference.toml` all come from that list.
//! No key is named here.

use std::fmt::{self, Write};

/// A table of the file.
pub struct Table {
    /// What it is about, for the reference; may have several lines.
    pub doc: &'static str,
    /// Its keys, in the order of the reference.
    pub keys: &'static [Key],
}

/// A key of a table.
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// What holds when it is not written.
    pub absent: Absent,
    /// The kinds of source that it applies to; empty: all.
    pub only: &'static [&'static str],
    /// What it means, for the reference; may have several lines.
    pub doc: &'static str,
}

/// What a value may be.
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number from the first to the second.
    Int(i64, i64),
    /// A number from the first to the second.
    Float(f64, f64),
    /// A string that is not empty.
    Text,
    /// One of these strings.
    Word(&'static [&'static str]),
    /// One of these strings, or a list of them.
    Words(&'static [&'static str]),
    /// This string, or a list of different whole numbers from the first to the second; the list is not empty.
    WordOrInts(&'static str, i64, i64),
    /// A list of strings that are not empty.
    Texts,
    /// A list of points `[x, y]` in fractions of the picture, at least and at most so many.
    Points(usize, usize),
    /// A table whose keys and values are strings.
    Params,
    /// A table.
    Table(&'static Table),
    /// A table of tables, whose names the operator chooses; the word says what is named.
    Named(&'static str, &'static Table),
    /// Never allowed; the text is the remedy. Its value is never shown.
    Refused(&'static str),
}

/// What holds when a key is not written. Values are in TOML.
pub enum Absent {
    /// This value.
    Default(&'static str),
    /// Nothing, or something worked out; the value is an example.
    Optional(&'static str),
    /// It is an error; the value is an example.
    Required(&'static str),
}

impl Absent {
    fn literal(&self) -> &'static str {
        match self {
            Absent::Default(text) | Absent::Optional(text) | Absent::Required(text) => text,
        }
    }
}

impl Key {
    pub(super) const fn new(name: &'static str, kind: Kind, absent: Absent, doc: &'static str) -> Key {
        Key { name, kind, absent, only: &[], doc }
    }

    /// The same, for these kinds of source.
    pub(super) const fn only(mut self, sources: &'static [&'static str]) -> Key {
        self.only = sources;
        self
    }
}

impl Table {
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The names that an operator may write, for help texts.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.keys.iter().filter(|key| !matches!(key.kind, Kind::Refused(_))).map(|key| key.name).collect()
    }
}

/// What to expect, as a phrase: "a whole number, 1..=64".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Bool => f.write_str("true or false"),
            Kind::Int(min, max) => write!(f, "a whole number, {min}..={max}"),
            Kind::Float(min, max) => write!(f, "a number, {min}..={max}"),
            Kind::Text => f.write_str("a string"),
            Kind::Words(words) => write!(f, "{}, or a list of them", Kind::Word(words)),
            Kind::Word(words) => {
                for (i, word) in words.iter().enumerate() {
                    let before = match i {
                        0 => "",
                        _ if i + 1 == words.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{before}\"{word}\"")?;
                }
                Ok(())
            }
            Kind::WordOrInts(word, min, max) => {
                write!(f, "\"{word}\", or a list of different whole numbers, {min}..={max}")
            }
            Kind::Texts => f.write_str("a list of strings"),
            Kind::Points(min, max) if min == max => write!(f, "{min} points [x, y], fractions 0..=1"),
            Kind::Points(min, max) => write!(f, "{min} to {max} points [x, y], fractions 0..=1"),
            Kind::Params => f.write_str("a table of strings"),
            Kind::Table(_) | Kind::Named(..) => f.write_str("a table"),
            Kind::Refused(_) => f.write_str("nothing"),
        }
    }
}

/// The text of `config/reference.toml`: what a table holds, with its documentation. A line `#key = value` (no
/// space) is a key that has no default: taking the `#` away sets the example.
pub(super) fn reference(root: &Table) -> String {
    let mut out = String::new();
    comment(&mut out, root.doc);
    section(&mut out, "", root, false);
    out
}

fn section(out: &mut String, path: &str, table: &Table, off: bool) {
    let hash = if off { "#" } else { "" };
    if !path.is_empty() {
        let _ = write!(out, "\n{}\n", "#".repeat(80));
        comment(out, table.doc);
        let _ = writeln!(out, "{hash}[{path}]");
    }
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for key in table.keys {
        if matches!(key.kind, Kind::Table(_) | Kind::Named(..) | Kind::Params | Kind::Refused(_)) {
            continue;
        }
        let (value, absent, mut commented) = match key.absent {
            Absent::Default(value) => (value, format!("Default: {value}."), off),
            Absent::Optional(value) => (value, "Optional.".to_owned(), true),
            Absent::Required(value) => (value, "Required.".to_owned(), off),
        };
        // The example camera is an RTSP one: keys of other sources would be errors in it.
        commented |= !key.only.is_empty() && !key.only.contains(&"rtsp");
        out.push('\n');
        comment(out, key.doc);
        let kind = key.kind.to_string();
        let mut kind = kind.chars();
        let kind: String = kind.next().into_iter().flat_map(char::to_uppercase).chain(kind).collect();
        let only =
            if key.only.is_empty() { String::new() } else { format!(" Only for {}.", key.only.join(", ")) };
        comment(out, &format!("{kind}. {absent}{only}"));
        let _ = writeln!(out, "{}{} = {value}", if commented { "#" } else { "" }, key.name);
    }
    for key in table.keys {
        let optional = matches!(key.absent, Absent::Optional(_));
        let path = join(key.name);
        match key.kind {
            Kind::Table(inner) => section(out, &path, inner, off || optional),
            Kind::Named(_, inner) => {
                let name = key.absent.literal();
                section(out, &format!("{path}.{name}"), inner, off || optional);
            }
            Kind::Params => {
                let text = key.absent.literal();
                let _ = write!(out, "\n{}\n", "#".repeat(80));
                comment(out, key.doc);
                comment(out, &format!("Only for {}.", key.only.join(", ")));
                let _ = write!(out, "#[{path}]\n#{text}\n");
            }
            _ => {}
        }
    }
}

fn comment(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "{}", format!("# {line}").trim_end());
    }
}
