//! The command with everything that it needs to ask a collector.

use std::path::Path;
use std::process::{Command, Output};

/// The command, about to be run as the person whom `dir` holds the certificate of.
pub(crate) fn polproof(dir: &Path, collector: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_polproof"));
    command
        .env_clear()
        .env("POLPROOF_COLLECTOR", format!("https://{collector}"))
        .env("POLPROOF_TLS_CA", dir.join("ca.pem"))
        .env("POLPROOF_TLS_CERT", dir.join("person.pem"))
        .env("POLPROOF_TLS_KEY", dir.join("person.key"))
        .env("POLPROOF_TLS_SERVER_NAME", "collector")
        .args(args);
    command
}

pub(crate) fn run(dir: &Path, collector: &str, args: &[&str]) -> Output {
    polproof(dir, collector, args).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
