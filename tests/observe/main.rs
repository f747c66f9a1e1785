//! The BPF programs and the agent's side of them, on real packets in real namespaces. Root and the BPF object
//! (`cargo xtask build`) are needed: without them every test here is listed as ignored, with the reason.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod bounds;
mod frames;
mod hooks;
mod inside;
mod moves;
mod odd;
mod pods;
mod records;
mod restart;
mod transports;
mod world;

use libtest_mimic::{Arguments, Failed, Trial};

fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if polproof_agent::observe::bpf_object().is_empty() {
        return Some(
            "the agent was built without its BPF object: run `cargo xtask build`".to_owned(),
        );
    }
    world::prepare()
        .err()
        .map(|error| format!("no BPF file system: {error:#}"))
}

fn main() {
    let arguments = Arguments::from_args();
    let missing = missing();
    let mut tests: Vec<world::Test> = Vec::new();
    tests.extend(records::TESTS);
    tests.extend(odd::TESTS);
    tests.extend(transports::TESTS);
    tests.extend(bounds::TESTS);
    tests.extend(pods::TESTS);
    tests.extend(inside::TESTS);
    tests.extend(hooks::TESTS);
    tests.extend(moves::TESTS);
    tests.extend(restart::TESTS);
    if let Some(why) = &missing {
        for (name, _) in &tests {
            eprintln!("ignored: {name}: {why}");
        }
    }
    let trials = tests
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test().map_err(|error| Failed::from(format!("{error:#}")))
            })
            .with_ignored_flag(missing.is_some())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
