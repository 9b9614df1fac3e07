//! The cache folder: what was fetched or made once, verified, and never half written.
//!
//! A file appears under its name only when it is whole and its SHA-256 is right (temporary file, then rename). A later
//! look is cheap: a stamp beside the file keeps size and time of change that belong to the verified hash; only
//! when they differ is the file read again.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

/// The folder.
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$WEIR_CACHE`, else `$XDG_CACHE_HOME/weir`, else `~/.cache/weir`: the daemon looks in the same places.
    pub fn open() -> anyhow::Result<Self> {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = var("WEIR_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|p| p.join("weir")))
            .or_else(|| var("HOME").map(|p| p.join(".cache/weir")))
            .context("neither WEIR_CACHE nor HOME is set: where should fetched files go?")?;
        Self::at(std::path::absolute(root)?)
    }

    /// A cache in this folder.
    pub fn at(root: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&root)
            .with_context(|| format!("cannot make the cache folder {}", root.display()))?;
        Ok(Cache { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Is the file there, with this hash?
    pub fn has(&self, name: &str, sha256: &str) -> bool {
        let path = self.path(name);
        let Ok(stamp) = stamp(&path, sha256) else { return false };
        if fs::read_to_string(stamp_path(&path)).is_ok_and(|kept| kept == stamp) {
            return true;
        }
        let right = hash(&path).is_ok_and(|found| found == sha256);
        if right {
            // Without the stamp the next look reads the file again, no more.
            let _ = fs::write(stamp_path(&path), stamp);
        }
        right
    }

    /// The file `name`; `make` writes it to the path that it is given when it is not there or not right.
    pub fn file(
        &self,
        name: &str,
        sha256: &str,
        make: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        if self.has(name, sha256) {
            return Ok(path);
        }
        let (temp, found) = self.make(name, make)?;
        if found != sha256 {
            fs::remove_file(&temp).ok();
            bail!(
                "{name} is not what was expected, and was thrown away\n  expected sha256 {sha256}\n  found    sha256 {found}"
            );
        }
        self.keep(&temp, &path, &found)?;
        Ok(path)
    }

    /// The file `name`, made now, whatever its hash, and that hash.
    pub fn unpinned(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<(PathBuf, String)> {
        let path = self.path(name);
        let (temp, found) = self.make(name, make)?;
        self.keep(&temp, &path, &found)?;
        Ok((path, found))
    }

    /// A fresh folder inside the cache that goes away with the value.
    pub fn scratch(&self, name: &str) -> anyhow::Result<Scratch> {
        let path = self.root.join(format!(".{name}.{}", std::process::id()));
        fs::remove_dir_all(&path).ok();
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }

    fn make(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<(PathBuf, String)> {
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        // The name keeps its ending: ffmpeg reads the format from it.
        let temp = folder.join(format!(".{}.{file}", std::process::id()));
        let done = make(&temp).and_then(|()| Ok(hash(&temp)?));
        if done.is_err() {
            fs::remove_file(&temp).ok();
        }
        Ok((temp, done.with_context(|| format!("cannot make {name}"))?))
    }

    fn keep(&self, temp: &Path, path: &Path, found: &str) -> anyhow::Result<()> {
        File::open(temp)?.sync_all()?;
        fs::rename(temp, path).with_context(|| format!("cannot write {}", path.display()))?;
        fs::write(stamp_path(path), stamp(path, found)?)?;
        Ok(())
    }
}

/// A folder that is removed when it is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A file of this folder whose name has this ending.
pub fn with_ending(folder: &Path, ending: &str) -> Option<PathBuf> {
    let mut files = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files.find(|path| path.extension().is_some_and(|e| e == ending))
}

/// SHA-256 of a file, in lower-case hex.
pub fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => sum.update(&buffer[..n]),
        }
    }
    Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn stamp_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.stamp"))
}

fn stamp(path: &Path, sha256: &str) -> io::Result<String> {
    let meta = fs::metadata(path)?;
    let changed = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(format!("{sha256} {} {changed}\n", meta.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        (dir, cache)
    }

    fn names(cache: &Cache) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(cache.root())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_right_file_is_made_once() {
        let (_dir, cache) = cache();
        let made = cache.file("a", HELLO, |to| Ok(fs::write(to, "hello")?)).unwrap();
        assert_eq!(fs::read(made).unwrap(), b"hello");
        cache.file("a", HELLO, |_| panic!("it is there")).unwrap();
    }

    #[test]
    fn a_wrong_file_is_an_error_and_leaves_nothing() {
        let (_dir, cache) = cache();
        let error = cache.file("a", HELLO, |to| Ok(fs::write(to, "hullo")?)).unwrap_err().to_string();
        assert!(error.contains(HELLO) && error.contains("expected sha256"), "{error}");
        assert_eq!(names(&cache), Vec::<String>::new());
    }

    #[test]
    fn a_failed_maker_leaves_nothing() {
        let (_dir, cache) = cache();
        let half = |to: &Path| {
            fs::write(to, "hel")?;
            bail!("the line went dead")
        };
        let error = format!("{:#}", cache.file("a", HELLO, half).unwrap_err());
        assert_eq!(error, "cannot make a: the line went dead");
        assert_eq!(names(&cache), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_was_changed_is_made_again() {
        let (_dir, cache) = cache();
        let path = cache.file("a", HELLO, |to| Ok(fs::write(to, "hello")?)).unwrap();
        fs::write(&path, "HELLO!").unwrap();
        assert!(!cache.has("a", HELLO));
        cache.file("a", HELLO, |to| Ok(fs::write(to, "hello")?)).unwrap();
        assert!(cache.has("a", HELLO));
    }

    #[test]
    fn a_stamp_for_another_hash_does_not_count() {
        let (_dir, cache) = cache();
        cache.file("a", HELLO, |to| Ok(fs::write(to, "hello")?)).unwrap();
        assert!(!cache.has("a", &HELLO.replace('2', "3")));
    }
}
