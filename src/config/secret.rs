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
    let password = PASSWORD.read(check, section);
    if password.is_none() && PASSWORD.keys().iter().all(|key| !section.has(key)) {
        check
            .problems
            .error(section.place("user"), "`user` has no password")
            .label("for this user")
            .help("add password_file = \"PATH\" or password_env = \"NAME\"");
    }
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

/// The token that `[http]` asks for.
pub(super) fn token(check: &mut Check<'_>, section: &Section) -> Option<SecretString> {
    TOKEN.read(check, section)
}

/// A kind of secret and its keys.
struct Kind {
    word: &'static str,
    plain: &'static str,
    env: &'static str,
    file: &'static str,
    /// A variable, for a remedy.
    example: &'static str,
}

const PASSWORD: Kind = Kind {
    word: "password",
    plain: "password",
    env: "password_env",
    file: "password_file",
    example: "CAM_PASSWORD",
};

const TOKEN: Kind =
    Kind { word: "token", plain: "token", env: "token_env", file: "token_file", example: "WEIR_TOKEN" };

impl Kind {
    fn keys(&self) -> [&'static str; 3] {
        [self.plain, self.env, self.file]
    }

    /// From the one place that is written; `None` when there is none, or a problem.
    fn read(&self, check: &mut Check<'_>, section: &Section) -> Option<SecretString> {
        match (section.text(self.env), section.text(self.file)) {
            (Some(_), Some(_)) => {
                check
                    .problems
                    .error(section.place(self.file), format!("the {} has two sources", self.word))
                    .label("and here")
                    .also(section.place(self.env), "here")
                    .help(format!("keep one of `{}` and `{}`", self.env, self.file));
                None
            }
            (Some(name), None) => from_variable(check, section, self, name),
            (None, Some(file)) => from_file(check, section, self, file),
            (None, None) => None,
        }
    }
}

fn from_variable(check: &mut Check<'_>, section: &Section, kind: &Kind, name: &str) -> Option<SecretString> {
    let (at, word) = (section.place(kind.env), kind.word);
    if !names_variable(name) {
        // It may be the password itself: it is not repeated.
        check
            .problems
            .error(at, format!("`{}` does not name an environment variable", kind.env))
            .label("must be of A-Z, 0-9 and `_`")
            .help(format!(
                "name the variable here, for example {}, and put the {word} into the variable",
                kind.example
            ));
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
                .help(format!(
                    "under systemd: EnvironmentFile=, or better LoadCredential= and `{}`",
                    kind.file
                ));
            None
        }
    }
}

fn from_file(check: &mut Check<'_>, section: &Section, kind: &Kind, name: &str) -> Option<SecretString> {
    let at = section.place(kind.file);
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
                    .label(format!("holds a {}", kind.word))
                    .help(format!("chmod 600 {shown}"));
            }
            Some(SecretString::from(text))
        }
        Err(error) => {
            check
                .problems
                .error(at, format!("no {} from {shown}: {error}", kind.word))
                .label("this file")
                .help("a relative path starts at $CREDENTIALS_DIRECTORY, then at the configuration's folder");
            None
        }
    }
}
