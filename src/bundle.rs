//! Running from a relocatable folder (`cargo xtask bundle`): GStreamer's plugins and GIO's TLS are in it, not in the system. Both learn
//! of their folders from environment variables, with which [`crate::anew`] starts the program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// `lib/weir` of the folder, if the program is in one.
pub fn libraries(program: &Path) -> Option<PathBuf> {
    let libraries = program.parent()?.parent()?.join("lib/weir");
    libraries.join("gstreamer-1.0").is_dir().then_some(libraries)
}

/// What GStreamer and GIO are told of that folder.
pub fn variables(libraries: &Path) -> [(&'static str, OsString); 6] {
    let plugins = libraries.join("gstreamer-1.0").into_os_string();
    [
        ("GST_PLUGIN_SYSTEM_PATH_1_0", plugins),
        // Plugins of the system would belong to another GStreamer.
        ("GST_PLUGIN_PATH_1_0", OsString::new()),
        // No cache of what the plugins offer: reading them takes a tenth of a second, and nothing is left on disk. GStreamer knows
        // no word for that (`GST_REGISTRY_DISABLE` reads no plugin at all), but it goes on where it cannot write.
        ("GST_REGISTRY_1_0", "/proc/none/registry".into()),
        ("GST_REGISTRY_FORK", "no".into()),
        ("GIO_MODULE_DIR", libraries.join("gio").into_os_string()),
        ("GIO_USE_VFS", "local".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_beside_its_plugins_is_in_a_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("bin/weir");
        std::fs::create_dir_all(dir.path().join("lib/weir")).unwrap();
        assert_eq!(libraries(&program), None);
        std::fs::create_dir(dir.path().join("lib/weir/gstreamer-1.0")).unwrap();
        assert_eq!(libraries(&program), Some(dir.path().join("lib/weir")));
        assert_eq!(libraries(Path::new("weir")), None);
    }
}
