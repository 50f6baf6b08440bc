//! Compiles the C++ shim against the headers of the torch that torch-sys found, and lets the test programs of this crate
//! find libtorch when they run.
//!
//! The Python extension needs no help at run time: `import torch` has loaded the libraries before it.

use std::env;
use std::path::PathBuf;

const SHIM: &str = "src/libtorch/shim.cpp";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={SHIM}");
    println!("cargo:rerun-if-env-changed=LIBTORCH_USE_PYTORCH");
    let libraries = libtorch_libraries();
    // The headers are beside the libraries.
    let include = libraries.with_file_name("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file(SHIM)
        .compile("diffusion_shim");
    if cfg!(unix) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libraries.display());
    }
}

/// torch-sys says where they lie, but not on Windows; the build backend names torch's folder everywhere.
fn libtorch_libraries() -> PathBuf {
    env::var("DEP_TCH_LIBTORCH_LIB")
        .map(PathBuf::from)
        .or_else(|_| env::var("LIBTORCH_USE_PYTORCH").map(|torch| PathBuf::from(torch).join("lib")))
        .expect("torch-sys or LIBTORCH_USE_PYTORCH says where libtorch is")
}
