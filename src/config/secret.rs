//! Users and passwords: from an address, the environment or a file, never from the TOML itself.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::Login;
use super::check::Check;
use super::file::{Section, printable};
use super::redact::names_variable;

/// Passwords are short; a longer file is the wrong file.
const MAX_PASSWORD: usize = 4096;

/// Takes `user:password@` out of an address. Both parts are as people write them: percent codes undone.
pub(super) fn take_userinfo(url: &mut url::Url) -> Option<Login> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decode = |text: &str| percent_decode(text);
    let login = Login {
        user: decode(url.username()),
        password: SecretString::from(decode(url.password().unwrap_or_default())),
    };
    // These fail only for addresses without a host, and those have no userinfo.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    Some(login)
}

/// RFC 3986 section 2.1. What is no code stays as it is.
fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = (bytes[i] == b'%')
            .then(|| text.get(i + 1..i + 3))
            .flatten()
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(code.unwrap_or(bytes[i]));
        i += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The login of a camera or a broker. `in_url` is what its address held.
pub(super) fn login(
    check: &mut Check<'_>,
    section: &Section,
    address: &str,
    in_url: Option<Login>,
) -> Option<Login> {
    let by_key = ["user", "password_env", "password_file"].into_iter().find(|key| section.has(key));
    if let Some(login) = in_url {
        if let Some(key) = by_key {
            check
                .problems
                .error(section.place(address), format!("the login stands in `{address}` and in `{key}`"))
                .label("also here")
                .also(section.place(key), "here")
                .help(format!("take it out of `{address}`"));
            return None;
        }
        check
            .problems
            .warn(section.place(address), format!("`{address}` holds a login"))
            .label("whoever reads this file can use it")
            .help("write user = \"NAME\" and password_file = \"PATH\" instead");
        return Some(login);
    }
    by_key?;
    let password = match (section.text("password_env"), section.text("password_file")) {
        (Some(_), Some(_)) => {
            check
                .problems
                .error(section.place("password_file"), "the password has two sources")
                .label("and here")
                .also(section.place("password_env"), "here")
                .help("keep one of `password_env` and `password_file`");
            return None;
        }
        (Some(name), None) => from_variable(check, section, name),
        (None, Some(file)) => from_file(check, section, file),
        (None, None) => {
            if !section.has("password") && !section.has("password_env") && !section.has("password_file") {
                check
                    .problems
                    .error(section.place("user"), "`user` has no password")
                    .label("for this user")
                    .help("add password_file = \"PATH\" or password_env = \"NAME\"");
            }
            None
        }
    };
    let Some(user) = section.text("user") else {
        if !section.has("user") {
            let key = by_key.unwrap_or("user");
            check
                .problems
                .error(section.place(key), format!("`{key}` has no `user`"))
                .label("whose password?")
                .help("add user = \"NAME\"");
        }
        return None;
    };
    Some(Login { user: user.to_owned(), password: password? })
}

fn from_variable(check: &mut Check<'_>, section: &Section, name: &str) -> Option<SecretString> {
    let at = section.place("password_env");
    if !names_variable(name) {
        // It may be the password itself: it is not repeated.
        check
            .problems
            .error(at, "`password_env` does not name an environment variable")
            .label("must be of A-Z, 0-9 and `_`")
            .help("name the variable here, for example CAM_PASSWORD, and put the password into the variable");
        return None;
    }
    match check.env.var(name) {
        Some(value) if !value.is_empty() => Some(SecretString::from(value)),
        found => {
            let state = if found.is_some() { "empty" } else { "not set" };
            check
                .problems
                .error(at, format!("the environment variable {name} is {state}"))
                .label(state)
                .help("under systemd: EnvironmentFile=, or better LoadCredential= and `password_file`");
            None
        }
    }
}

fn from_file(check: &mut Check<'_>, section: &Section, name: &str) -> Option<SecretString> {
    let at = section.place("password_file");
    let credentials = check.env.var("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let credential = credentials
        .filter(|_| !Path::new(name).is_absolute())
        .map(|folder| folder.join(name))
        .filter(|path| check.env.stat(path).is_ok());
    // Files in the credentials folder are systemd's business; so are their permissions.
    let protected = credential.is_some();
    let path = credential.unwrap_or_else(|| check.path(name));
    let shown = printable(&path.display().to_string());
    let read = check.env.read_file(&path).map_err(|error| super::check::why(&error));
    let text = read.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not text".to_owned()));
    let text = match text.as_deref().map(|text| text.trim_end_matches(['\n', '\r'])) {
        Ok("") => Err("it is empty".to_owned()),
        Ok(text) if text.len() > MAX_PASSWORD => Err(format!("it is longer than {MAX_PASSWORD} bytes")),
        Ok(text) if text.contains('\n') => Err("it has more than one line".to_owned()),
        Ok(text) => Ok(text),
        Err(error) => Err(error.clone()),
    };
    match text {
        Ok(text) => {
            if !protected && check.env.stat(&path).is_ok_and(|stat| stat.mode & 0o004 != 0) {
                check
                    .problems
                    .warn(at, format!("everybody on this machine can read {shown}"))
                    .label("holds a password")
                    .help(format!("chmod 600 {shown}"));
            }
            Some(SecretString::from(text))
        }
        Err(error) => {
            check
                .problems
                .error(at, format!("no password from {shown}: {error}"))
                .label("this file")
                .help("a relative path starts at $CREDENTIALS_DIRECTORY, then at the configuration's folder");
            None
        }
    }
}
