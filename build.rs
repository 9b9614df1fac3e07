//! Where the program looks for its libraries before the system's: `../lib/weir`, which exists only in the folder
//! that `cargo xtask bundle` makes.

fn main() {
    // The old kind of tag: it also holds for the libraries of libraries, and for plugins.
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/weir,--disable-new-dtags");
    println!("cargo::rerun-if-changed=build.rs");
}
