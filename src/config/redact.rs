//! Takes secrets out of the text that problems quote. Works on any text, however broken, and would rather hide
//! too much: what is hidden becomes `*`, byte for byte, so that places stay right.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Keys whose value is a secret, whoever's they are and however they are misspelt.
fn holds_secret(key: &str) -> bool {
    let key = key.trim().trim_matches(['"', '\'']).to_ascii_lowercase();
    let refers = key.ends_with("_env") || key.ends_with("_file");
    let words = ["pass", "word", "pwd", "secret", "token", "credential"];
    !refers && (words.iter().any(|word| key.contains(word)) || strsim::jaro_winkler(&key, "password") > 0.85)
}

/// Keys whose value is an address that may carry `user:password@`.
fn holds_address(key: &str) -> bool {
    matches!(key.trim().trim_matches(['"', '\'']), "source" | "url")
}

/// Names a variable as administrators do. Anything else in `password_env` may be the password itself.
pub(super) fn names_variable(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_uppercase() || b == b'_')
        && bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// The text without its secrets, of the same length. `doc` is what could be parsed of it.
pub(super) fn redact(text: &str, doc: &DeTable<'_>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some(hidden) = in_line(line) {
            hide(&mut bytes, start + hidden.start..start + hidden.end);
        }
        start += line.len();
    }
    in_table(text, doc, &mut bytes);
    // Whole characters were replaced by ASCII, or nothing: `hide` is given character borders only.
    String::from_utf8(bytes).unwrap_or_default()
}

fn hide(bytes: &mut [u8], range: Range<usize>) {
    for byte in &mut bytes[range] {
        if !byte.is_ascii_whitespace() {
            *byte = b'*';
        }
    }
}

/// By the look of one line: comments and broken files have secrets too. Hides from the first value of a secret to
/// the end of the line, or what looks like the login in an address.
fn in_line(line: &str) -> Option<Range<usize>> {
    let line = line.trim_end();
    for (eq, _) in line.match_indices('=') {
        let before = line[..eq].trim_end().trim_end_matches(['"', '\'']);
        let word =
            before.rsplit(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').next().unwrap_or_default();
        if holds_secret(word) {
            return Some(line.len() - line[eq + 1..].trim_start().len()..line.len());
        }
        let value = &line[eq + 1..];
        if holds_address(word)
            && !value.contains("://")
            && let Some(found) = userinfo(value)
        {
            return Some(eq + 1 + found.start..line.len());
        }
    }
    let from = line.find("://")? + 3;
    userinfo(&line[from..]).map(|found| from + found.start..from + found.end)
}

/// Everything up to the last `@`: a password may hold `@`, `/` and `:` although it should not.
fn userinfo(text: &str) -> Option<Range<usize>> {
    let start = text.len() - text.trim_start_matches(['"', '\'', ' ', '\t']).len();
    let end = text.rfind('@')?;
    (start < end).then_some(start..end)
}

/// By the parsed values: their text may run over several lines or be written with escapes.
fn in_table(text: &str, table: &DeTable<'_>, bytes: &mut [u8]) {
    for (key, value) in table {
        in_value(text, key.get_ref(), value.span(), value.get_ref(), bytes);
    }
}

fn in_value(text: &str, key: &str, at: Range<usize>, value: &DeValue<'_>, bytes: &mut [u8]) {
    let Some(raw) = text.get(at.clone()) else { return };
    match value {
        DeValue::Table(table) => in_table(text, table, bytes),
        DeValue::Array(array) => {
            for item in array.iter() {
                in_value(text, key, item.span(), item.get_ref(), bytes);
            }
        }
        _ if holds_secret(key) => hide(bytes, at),
        DeValue::String(string) if matches!(key, "password_env" | "token_env") && !names_variable(string) => {
            hide(bytes, at)
        }
        DeValue::String(string) if string.contains('@') => {
            if let Some(scheme) = raw.find("://") {
                if let Some(hidden) = userinfo(&raw[scheme + 3..]) {
                    hide(bytes, at.start + scheme + 3 + hidden.start..at.start + scheme + 3 + hidden.end);
                }
            } else if string.contains("://") || holds_address(key) {
                hide(bytes, at);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> String {
        let (doc, _) = DeTable::parse_recoverable(text);
        redact(text, doc.get_ref())
    }

    #[test]
    fn a_secret_is_hidden_wherever_it_stands() {
        for text in [
            "source = \"rtsp://admin:hunter2@10.0.0.1/s\"",
            "source = \"admin:hunter2@10.0.0.1/s\"",
            "source = \"rtsp://admin:a/hunter2@b@10.0.0.1/s\"",
            "source = \"rtsp:\\u002F/admin:hunter2@10.0.0.1/s\"",
            "source = \"\"\"rtsp://admin:\\\n   hunter2@10.0.0.1/s\"\"\"",
            "# source = \"rtsp://admin:hunter2@10.0.0.1/s\"",
            "source = \"rtsp://admin:hunter2@10.0.0.1/s",
            "sourc = rtsp://admin:hunter2@10.0.0.1/s",
            "password = \"hunter2\"",
            "passwd = 'hunter2'",
            "pasword = hunter2",
            "password = \"\"\"\nhunter2\"\"\"",
            "#password = \"hunter2\"",
            "cameras.porch.password = \"hunter2\"",
            "porch = { source = \"file:a\", password = \"hunter2\" }",
            "password_env = \"X\", password = \"hunter2\"",
            "low_[assword = \"hunter2\"",
            "source = \"rtsp:password = \"hunter2\"",
            "source = \"rtsp://10.0.0.1/s?password=hunter2\"",
            "porch = { source = \"file:a\", \"pass\\u0077ord\" = \"hunter2\" }",
            "password_env = \"hunter2\"",
        ] {
            let shown = redacted(text);
            assert!(!shown.contains("hunter2"), "{text} → {shown}");
            assert_eq!(shown.len(), text.len());
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "password_env = \"CAM_PASSWORD\"",
            "password_file = \"porch-password\"",
            "source = \"rtsp://10.0.0.1/stream1\"",
            "bind = \"127.0.0.1:8080\"",
        ] {
            assert_eq!(redacted(text), text);
        }
    }
}
