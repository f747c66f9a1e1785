//! The checked-in code is what the `.proto` files generate. `UPDATE=1` rewrites it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

const FILES: [&str; 3] = [
    "polproof/v1/finding.proto",
    "polproof/v1/query.proto",
    "polproof/v1/stream.proto",
];
const OUTPUT: &str = "polproof.v1.rs";

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let includes = root.join("proto");
    let descriptors = protox::compile(FILES, [&includes]).expect("the .proto files compile");
    let fresh = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .expect("code is generated");
    let fresh = std::fs::read_to_string(fresh.path().join(OUTPUT)).unwrap();

    let checked_in = root.join("src/gen").join(OUTPUT);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&checked_in, &fresh).unwrap();
        return;
    }
    let current = std::fs::read_to_string(&checked_in).unwrap_or_default();
    if current != fresh {
        let line = current
            .lines()
            .zip(fresh.lines())
            .position(|(a, b)| a != b)
            .unwrap_or_else(|| current.lines().count().min(fresh.lines().count()));
        panic!(
            "{} is not what the .proto files generate (first difference in line {}); \
             run `UPDATE=1 cargo test -p polproof-proto` and commit the result",
            checked_in.display(),
            line + 1
        );
    }
}
