//! Tells the extension what it is linked with: `env!("LINKED_TORCH")`, for `rust-diffusion info`.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH_USE_PYTORCH");
    println!("cargo:rustc-env=LINKED_TORCH={}", torch_version().as_deref().unwrap_or("unknown"));
}

/// The version that torch's own version.py gives, with its local part: "2.11.0+cu130".
fn torch_version() -> Option<String> {
    let text = fs::read_to_string(torch_folder()?.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    Some(line.split(['\'', '"']).nth(1)?.to_owned())
}

fn torch_folder() -> Option<PathBuf> {
    // torch-sys names the lib folder on Linux and macOS; the build backend names torch's folder everywhere.
    match env::var("DEP_TCH_LIBTORCH_LIB") {
        Ok(lib) => Path::new(&lib).parent().map(Path::to_owned),
        Err(_) => env::var("LIBTORCH_USE_PYTORCH").ok().map(PathBuf::from),
    }
}
