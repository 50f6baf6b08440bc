//! Compiles the C++ shim against the headers of the torch that torch-sys found, and lets the test programs of this crate
//! find libtorch when they run.
//!
//! The Python extension needs no help at run time: `import torch` has loaded the libraries before it.

use std::path::PathBuf;

const SHIM: &str = "src/libtorch/shim.cpp";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={SHIM}");
    // torch-sys tells where libtorch's libraries lie; the headers are beside them.
    let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") else {
        println!("cargo:warning=torch-sys did not say where libtorch is; the shim cannot be compiled");
        return;
    };
    let include = PathBuf::from(&libtorch).with_file_name("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file(SHIM)
        .compile("diffusion_shim");
    if cfg!(unix) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}");
    }
}
