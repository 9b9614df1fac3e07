//! The file as written: a tree that follows [`keys`](super::keys), each value with its place.
//!
//! One walk finds every unknown key, wrong type and value out of range; what is wrong is replaced by its default
//! so that the later checks can go on. What needs two keys or the world is not checked here.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problems;
use super::schema::{Absent, Key, Kind, Table};

/// A place in the file, in bytes.
pub(super) type At = Range<usize>;

/// A table as written, with defaults filled in.
pub(super) struct Section {
    pub table: &'static Table,
    /// As in a header: `cameras.porch`.
    pub path: String,
    /// The header, or the file's start.
    pub at: At,
    entries: BTreeMap<&'static str, Entry>,
}

struct Entry {
    /// The place of the key; `None`: not written.
    key: Option<At>,
    at: At,
    /// `None`: wrong, and already reported.
    value: Option<Value>,
}

/// A value that its key allows.
pub(super) enum Value {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<u32>),
    Points(Vec<[f32; 2]>),
    Params(BTreeMap<String, String>),
    Section(Section),
    /// In the order of the file, each with the place of its name.
    Named(Vec<(String, At, Section)>),
}

impl Section {
    fn value(&self, key: &str) -> Option<&Value> {
        debug_assert!(self.table.key(key).is_some(), "{key} is not in keys.rs");
        self.entries.get(key)?.value.as_ref()
    }

    /// The place of the value, or of the table when the key is not written.
    pub fn place(&self, key: &str) -> At {
        self.entries.get(key).map_or(self.at.clone(), |entry| entry.at.clone())
    }

    /// The keys that are written, with their places; right or wrong.
    pub fn written(&self) -> impl Iterator<Item = (&'static Key, At)> {
        self.entries.iter().filter_map(|(name, entry)| Some((self.table.key(name)?, entry.key.clone()?)))
    }

    /// Is it written, right or wrong?
    pub fn has(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.key.is_some())
    }

    pub fn bool(&self, key: &str) -> bool {
        matches!(self.value(key), Some(Value::Bool(true)))
    }

    /// A whole number that has a default.
    pub fn int(&self, key: &str) -> u64 {
        self.opt_int(key).unwrap_or_default()
    }

    pub fn opt_int(&self, key: &str) -> Option<u64> {
        match self.value(key)? {
            Value::Int(n) => Some(n.unsigned_abs()),
            _ => None,
        }
    }

    /// A number that has a default.
    pub fn float(&self, key: &str) -> f32 {
        match self.value(key) {
            Some(Value::Float(n)) => *n as f32,
            _ => 0.0,
        }
    }

    pub fn opt_float(&self, key: &str) -> Option<f32> {
        match self.value(key)? {
            Value::Float(n) => Some(*n as f32),
            _ => None,
        }
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        match self.value(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn texts(&self, key: &str) -> Vec<String> {
        match self.value(key) {
            Some(Value::Texts(texts)) => texts.clone(),
            _ => Vec::new(),
        }
    }

    /// `None`: the word that stands for all of them.
    pub fn ints(&self, key: &str) -> Option<Vec<u32>> {
        match self.value(key)? {
            Value::Ints(ints) => Some(ints.clone()),
            _ => None,
        }
    }

    pub fn points(&self, key: &str) -> Option<&[[f32; 2]]> {
        match self.value(key)? {
            Value::Points(points) => Some(points),
            _ => None,
        }
    }

    pub fn params(&self, key: &str) -> BTreeMap<String, String> {
        match self.value(key) {
            Some(Value::Params(params)) => params.clone(),
            _ => BTreeMap::new(),
        }
    }

    pub fn section(&self, key: &str) -> Option<&Section> {
        match self.value(key)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    pub fn named(&self, key: &str) -> &[(String, At, Section)] {
        match self.value(key) {
            Some(Value::Named(list)) => list,
            _ => &[],
        }
    }
}

/// Reads the parsed text. With `partial`, the text had syntax errors: what is missing is not a problem then.
pub(super) fn read(
    root: &'static Table,
    doc: &DeTable<'_>,
    partial: bool,
    problems: &mut Problems,
) -> Section {
    Reader { partial, problems }.section(root, String::new(), 0..0, Some(doc))
}

struct Reader<'a> {
    partial: bool,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    /// `doc` is `None` for a table that is not written: all defaults.
    fn section(&mut self, table: &'static Table, path: String, at: At, doc: Option<&DeTable<'_>>) -> Section {
        let mut entries = BTreeMap::new();
        for (name, value) in doc.into_iter().flatten() {
            let Some(key) = table.key(name.get_ref()) else {
                self.unknown(table, &path, name);
                continue;
            };
            let full = join(&path, key.name);
            let read = self.value(key, &full, name.span(), value);
            entries.insert(key.name, Entry { key: Some(name.span()), at: value.span(), value: read });
        }
        for key in table.keys {
            let full = join(&path, key.name);
            let entry = entries.entry(key.name);
            let written = matches!(entry, std::collections::btree_map::Entry::Occupied(_));
            let entry = entry.or_insert(Entry { key: None, at: at.clone(), value: None });
            if entry.value.is_some() {
                continue;
            }
            match (&key.kind, &key.absent) {
                (Kind::Table(inner), Absent::Default(_)) => {
                    let inner = self.section(inner, full, at.clone(), None);
                    entry.value = Some(Value::Section(inner));
                }
                (_, Absent::Default(literal)) => {
                    let literal = DeValue::parse(literal).expect("defaults are TOML: a test reads them all");
                    entry.value = self.value(key, &full, at.clone(), &literal);
                }
                (Kind::Named(what, _), Absent::Required(name)) if !written && !self.partial => {
                    self.problems
                        .whole(format!("there is no {what}"))
                        .help(format!("add a table [{full}.{name}]"));
                }
                (_, Absent::Required(example)) if !written && !self.partial => {
                    self.problems
                        .error(at.clone(), format!("`{}` is missing in [{path}]", key.name))
                        .label("in this table")
                        .help(format!("for example {} = {example}", key.name));
                }
                _ => {}
            }
        }
        Section { table, path, at, entries }
    }

    fn unknown(&mut self, table: &Table, path: &str, name: &Spanned<std::borrow::Cow<'_, str>>) {
        let names = table.names();
        let place = if path.is_empty() { "the file".to_owned() } else { format!("[{path}]") };
        let problem = self
            .problems
            .error(name.span(), format!("`{}` is not a key of {place}", printable(name.get_ref())));
        problem.help(wrapped(&format!("keys of {place}:"), &names));
        let mut found = Vec::new();
        homes(&super::keys::ROOT, name.get_ref(), "", &mut found);
        if !found.is_empty() {
            problem.label(format!("belongs to {}", found.join(" or ")));
        } else if let Some(close) = closest(name.get_ref(), &names) {
            problem.label(format!("did you mean `{close}`?"));
        }
    }

    fn value(&mut self, key: &Key, path: &str, name: At, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        let at = value.span();
        match (&key.kind, value.get_ref()) {
            (Kind::Bool, DeValue::Boolean(b)) => Some(Value::Bool(*b)),
            (Kind::Int(min, max), DeValue::Integer(n)) => {
                let n = i64::from_str_radix(n.as_str(), n.radix()).ok().filter(|n| (min..=max).contains(&n));
                n.map(Value::Int).or_else(|| self.range(key, at))
            }
            (Kind::Float(min, max), DeValue::Float(_) | DeValue::Integer(_)) => {
                let n = number(value.get_ref()).filter(|n| (min..=max).contains(&n));
                n.map(Value::Float).or_else(|| self.range(key, at))
            }
            (Kind::Text, DeValue::String(text)) if text.trim().is_empty() => {
                self.problems.error(at, format!("`{}` is empty", key.name)).label("nothing here");
                None
            }
            (Kind::Text, DeValue::String(text)) => Some(Value::Text(text.to_string())),
            (Kind::Word(words), DeValue::String(text)) => self.word(key, words, at, text).map(Value::Text),
            (Kind::Words(words), DeValue::String(text)) => {
                self.word(key, words, at, text).map(|word| Value::Texts(vec![word]))
            }
            (Kind::Words(words), DeValue::Array(items)) => {
                let read = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
                    DeValue::String(text) => self.word(key, words, item.span(), text),
                    _ => self.item(key, item),
                };
                let list: Vec<_> = items.iter().map(read).collect();
                list.into_iter().collect::<Option<_>>().map(Value::Texts)
            }
            (Kind::WordOrInts(word, ..), DeValue::String(text)) => {
                self.word(key, &[word], at, text).map(Value::Text)
            }
            (Kind::WordOrInts(_, min, max), DeValue::Array(items)) => {
                let mut ints = Vec::new();
                for item in items {
                    let int = match item.get_ref() {
                        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok(),
                        _ => None,
                    };
                    let int = int.filter(|n| (min..=max).contains(&n)).and_then(|n| u32::try_from(n).ok());
                    match int {
                        Some(int) if !ints.contains(&int) => ints.push(int),
                        _ => return self.range(key, item.span()),
                    }
                }
                if ints.is_empty() { self.range(key, at) } else { Some(Value::Ints(ints)) }
            }
            (Kind::Texts, DeValue::Array(items)) => {
                let texts: Vec<_> = items.iter().map(|item| self.item(key, item)).collect();
                texts.into_iter().collect::<Option<_>>().map(Value::Texts)
            }
            (Kind::Points(min, max), DeValue::Array(items)) => self.points(key, (*min, *max), at, items),
            (Kind::Params, DeValue::Table(table)) => {
                let mut params = BTreeMap::new();
                for (name, value) in table {
                    match value.get_ref() {
                        DeValue::String(text) => {
                            params.insert(name.get_ref().to_string(), text.to_string());
                        }
                        other => self.wrong_type(name.get_ref(), "a string", value.span(), other),
                    }
                }
                Some(Value::Params(params))
            }
            (Kind::Table(inner), DeValue::Table(table)) => {
                Some(Value::Section(self.section(inner, path.to_owned(), at, Some(table))))
            }
            (Kind::Named(what, inner), DeValue::Table(table)) => Some(self.named(what, inner, path, table)),
            (Kind::Refused(remedy), _) => {
                self.problems
                    .error(name, format!("a {} must not stand in the file", key.name))
                    .label("hidden here, but not in the file")
                    .help(*remedy);
                None
            }
            (kind, other) => {
                self.wrong_type(key.name, &kind.to_string(), at, other);
                None
            }
        }
    }

    fn named(&mut self, what: &str, inner: &'static Table, path: &str, table: &DeTable<'_>) -> Value {
        let mut list = Vec::new();
        for (name, value) in table {
            let text = name.get_ref();
            if !is_name(text) {
                let shown =
                    if text.is_empty() { "\"\"".to_owned() } else { format!("`{}`", printable(text)) };
                let problem = self.problems.error(name.span(), format!("{shown} cannot name a {what}"));
                problem.label("1 to 64 of a-z, 0-9, `_` and `-`");
                let better: String = text.to_lowercase().replace([' ', '.', '/'], "-");
                if is_name(&better) {
                    problem.help(format!("write `{better}`"));
                }
            }
            let full = join(path, text);
            match value.get_ref() {
                DeValue::Table(table) => {
                    let section = self.section(inner, full, value.span(), Some(table));
                    list.push((text.to_string(), name.span(), section));
                }
                other => self.wrong_type(&full, &format!("a table: write [{full}]"), value.span(), other),
            }
        }
        list.sort_by_key(|(_, at, _)| at.start);
        Value::Named(list)
    }

    fn word(&mut self, key: &Key, words: &[&'static str], at: At, text: &str) -> Option<String> {
        if words.contains(&text) {
            return Some(text.to_owned());
        }
        // In a broken file a list that is not closed swallows what follows it, passwords too.
        let shown = if self.partial { "this".to_owned() } else { format!("`{}`", printable(text)) };
        let problem = self.problems.error(at, format!("{shown} is not a value of `{}`", key.name));
        problem.help(format!("`{}` is {}", key.name, key.kind));
        if let Some(close) = closest(text, words) {
            problem.label(format!("did you mean \"{close}\"?"));
        }
        None
    }

    fn item(&mut self, key: &Key, item: &Spanned<DeValue<'_>>) -> Option<String> {
        match item.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => Some(text.to_string()),
            DeValue::String(_) => {
                self.problems.error(item.span(), format!("an item of `{}` is empty", key.name));
                None
            }
            other => {
                self.wrong_type(key.name, &key.kind.to_string(), item.span(), other);
                None
            }
        }
    }

    fn points(
        &mut self,
        key: &Key,
        (min, max): (usize, usize),
        at: At,
        items: &toml::de::DeArray<'_>,
    ) -> Option<Value> {
        let mut points = Vec::new();
        let mut pixels = false;
        let mut wrong = None;
        for item in items.iter() {
            let numbers: Option<Vec<f64>> = match item.get_ref() {
                DeValue::Array(pair) => pair.iter().map(|n| number(n.get_ref())).collect(),
                _ => None,
            };
            match numbers.as_deref() {
                Some([x, y]) if (0.0..=1.0).contains(x) && (0.0..=1.0).contains(y) => {
                    points.push([*x as f32, *y as f32]);
                }
                Some([x, y]) => {
                    pixels |= *x > 1.0 || *y > 1.0;
                    wrong.get_or_insert((item.span(), "outside the picture: x and y are fractions, 0..=1"));
                }
                _ => {
                    wrong.get_or_insert((item.span(), "not a point: two numbers, [x, y]"));
                }
            }
        }
        if let Some((at, label)) = wrong {
            let problem = self.problems.error(at, format!("`{}` has a bad point", key.name));
            problem.label(label);
            if pixels {
                problem.help("these look like pixels: divide x by the picture's width and y by its height");
            }
            return None;
        }
        if points.len() < min || points.len() > max {
            let message = format!("`{}` has {} points, not {}", key.name, points.len(), key.kind);
            self.problems.error(at, message).label(format!("{} points", points.len()));
            return None;
        }
        Some(Value::Points(points))
    }

    fn range(&mut self, key: &Key, at: At) -> Option<Value> {
        self.problems
            .error(at, format!("`{}` is out of range", key.name))
            .label(format!("must be {}", key.kind));
        None
    }

    fn wrong_type(&mut self, key: &str, expected: &str, at: At, found: &DeValue<'_>) {
        self.problems
            .error(at, format!("`{key}` must be {expected}"))
            .label(format!("this is {}", type_name(found)));
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{}", printable(name)) }
}

/// A text of the file for a message: no control characters, no endless line.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// What was probably meant. 0.75 joins `max_wait` to `max_wait_ms` and keeps `tls` from `url`.
pub(super) fn closest<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    let text = text.to_lowercase();
    let score = |word: &str| strsim::jaro_winkler(&text, word);
    let best = words.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.75).then_some(best)
}

/// Collects the headers of the tables that have this very key.
fn homes(table: &Table, name: &str, path: &str, found: &mut Vec<String>) {
    for key in table.keys.iter().filter(|key| !matches!(key.kind, Kind::Refused(_))) {
        let full = join(path, key.name);
        if key.name == name {
            found.push(if path.is_empty() { "the top of the file".to_owned() } else { format!("[{path}]") });
        }
        match key.kind {
            Kind::Table(inner) => homes(inner, name, &full, found),
            Kind::Named(_, inner) => homes(inner, name, &format!("{full}.NAME"), found),
            _ => {}
        }
    }
}

/// A list in lines of a terminal's width.
fn wrapped(title: &str, names: &[&str]) -> String {
    let mut text = title.to_owned();
    let mut width = text.len();
    for (i, name) in names.iter().enumerate() {
        let comma = if i + 1 < names.len() { "," } else { "" };
        let (gap, start) = if width + name.len() > 90 { ("\n", 0) } else { (" ", width) };
        width = start + gap.len() + name.len() + comma.len();
        text += &format!("{gap}{name}{comma}");
    }
    text
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(n) => n.as_str().parse().ok(),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n as f64),
        _ => None,
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
