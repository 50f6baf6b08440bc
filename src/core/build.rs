//! Compiles the C++ shim against the headers of the torch that torch-sys found, and lets the test programs of this crate
//! find libtorch when they run.
//!
//! The Python extension needs no help at run time: `import torch` has loaded the libraries before it.

use std::path::{Path, PathBuf};
use std::{env, fs};

const SHIM: &str = "src/libtorch/shim.cpp";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={SHIM}");
    println!("cargo:rerun-if-env-changed=LIBTORCH_USE_PYTORCH");
    let libraries = libtorch_libraries();
    // The headers are beside the libraries.
    let include = libraries.with_file_name("include");
    let mut shim = cc::Build::new();
    let standard = if torch_minor(&libraries) >= 14 { "c++20" } else { "c++17" };
    shim.cpp(true).std(standard).warnings(false).file(SHIM);
    shim.include(&include).include(include.join("torch/csrc/api/include"));
    // For how many threads OpenMP has and an operation gets: the library is the one that torch brings and has loaded by then.
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        shim.flag("-fopenmp");
        println!("cargo:rustc-link-lib=gomp");
    }
    shim.compile("diffusion_shim");
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

/// The minor version of torch 2, whose headers want C++20 from 2.14 on.
fn torch_minor(libraries: &Path) -> u32 {
    let header = libraries.with_file_name("include").join("torch/headeronly/version.h");
    println!("cargo:rerun-if-changed={}", header.display());
    let text = fs::read_to_string(&header).unwrap_or_else(|error| panic!("{}: {error}", header.display()));
    let minor = text.lines().find_map(|line| line.trim().strip_prefix("#define TORCH_VERSION_MINOR"));
    minor.and_then(|minor| minor.trim().parse().ok()).expect("torch's headers name its minor version")
}
