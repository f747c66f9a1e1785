//! Makes the BPF object available to `observe::bpf_object()`: the file named by `POLPROOF_BPF_OBJECT`, else the one that
//! `cargo xtask build` leaves in the workspace, else an empty stub, so that a checkout without any BPF toolchain
//! compiles and runs its unprivileged tests.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=POLPROOF_BPF_OBJECT");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let stub = out.join("no-bpf-object");

    let named = std::env::var_os("POLPROOF_BPF_OBJECT").filter(|path| !path.is_empty());
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let built = manifest
        .join("..")
        .join("target/bpf/bpfel-unknown-none/bpf/polproof-bpf");
    let object = match named {
        Some(path) => PathBuf::from(path),
        None => built,
    };
    // Also when it is absent: cargo then looks again at every build.
    println!("cargo:rerun-if-changed={}", object.display());

    let chosen = if object.is_file() {
        object
    } else {
        println!(
            "cargo:warning=no BPF object at {}: the agent is built without its programs and will not observe; \
             run `cargo xtask build`",
            object.display()
        );
        if let Err(error) = std::fs::write(&stub, b"") {
            println!("cargo::error=cannot write {}: {error}", stub.display());
        }
        stub
    };
    match chosen.canonicalize() {
        Ok(path) => println!("cargo:rustc-env=POLPROOF_BPF_EMBED={}", path.display()),
        Err(error) => println!("cargo::error=cannot find {}: {error}", chosen.display()),
    }
}
