//! `weir`.
fn main() {}
