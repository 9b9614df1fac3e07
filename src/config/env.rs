//! What a configuration may ask of the world: environment variables and files. Tests give their own.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Nobody writes a configuration, a secret or a manifest this large; `/dev/zero` is no configuration.
const MAX_FILE: u64 = 4 << 20;

/// The world outside the file.
pub trait Env {
    /// An environment variable.
    fn var(&self, name: &str) -> Option<String>;

    /// A whole file, up to 4 MiB.
    ///
    /// # Errors
    /// Those of the file system; a larger file is [`io::ErrorKind::FileTooLarge`].
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// What is at a path.
    ///
    /// # Errors
    /// Those of the file system.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
}

/// What is at a path.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// A folder.
    pub folder: bool,
    /// Unix permission bits.
    pub mode: u32,
}

/// The real world.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Env for System {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        use std::os::unix::fs::PermissionsExt;
        let meta = std::fs::metadata(path)?;
        Ok(Stat { folder: meta.is_dir(), mode: meta.permissions().mode() })
    }
}

/// See [`cache_dir`](super::cache_dir).
pub(super) fn cache_dir(env: &dyn Env) -> PathBuf {
    let var = |name| env.var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("WEIR_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|folder| folder.join("weir")))
        .or_else(|| var("HOME").map(|folder| folder.join(".cache/weir")))
        .unwrap_or_else(|| PathBuf::from("/var/cache/weir"))
}
