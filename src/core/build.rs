//! Lets the test programs of this crate find libtorch when they run.
//!
//! The Python extension needs no such help: `import torch` has loaded the libraries before it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // torch-sys tells where libtorch lies, on Linux and macOS; on Windows the loader searches PATH.
    if let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}");
    }
}
