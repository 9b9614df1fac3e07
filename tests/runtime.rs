//! ONNX Runtime as a process has it: once.

use weir::device::software::session::{Library, load_runtime};

/// A box with a GPU and the CPU's ONNX Runtime: the GPU needs the library to say that it cannot be used, then the CPU needs it.
#[test]
fn who_tries_the_gpu_first_can_still_use_the_cpu() {
    let library = Library::default();
    match library.load(None) {
        Ok(first) => drop(first),
        Err(why) => return println!("SKIPPED: {why}"),
    }
    library.load(None).expect("the same once more");
    drop(library);
    // If this can be done one day, `Library` is not needed any more.
    assert!(load_runtime(None).is_err());
}
