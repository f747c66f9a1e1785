//! The BPF programs and the agent's side of them on other kernels: on this one by every means that it has, and on
//! Debian's 6.1 and 6.12 in a virtual machine.
//!
//! ```text
//! machine (qemu, console) <-- archive (initramfs: this binary, its libraries, ip, tc, modules)
//!    \--> guest (this binary as process 1) --> scenarios | the tests of `observe`
//! ```
//!
//! The same code runs in both places. A machine is booted once and runs everything in turn; each scenario in it is a test
//! of its own here. A machine that hangs is ended, and its console shown.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    dead_code
)]

mod archive;
mod bridge;
mod filters;
mod guest;
mod machine;
mod means;
mod scenarios;

#[path = "../observe/bounds.rs"]
mod bounds;
#[path = "../observe/frames.rs"]
mod frames;
#[path = "../observe/hooks.rs"]
mod hooks;
#[path = "../observe/inside.rs"]
mod inside;
#[path = "../observe/moves.rs"]
mod moves;
#[path = "../observe/odd.rs"]
mod odd;
#[path = "../observe/pods.rs"]
mod pods;
#[path = "../observe/records.rs"]
mod records;
#[path = "../observe/restart.rs"]
mod restart;
#[path = "../observe/transports.rs"]
mod transports;
#[path = "../observe/world.rs"]
mod world;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::machine::{KERNELS, Kernel, Machine};
use crate::scenarios::{Scenario, Way};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        guest::run();
    }
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    let here = missing_here();
    for way in Way::ALL {
        for scenario in scenarios::of(way) {
            let Scenario { name, run } = scenario;
            let missing = here.clone().or_else(|| way.missing());
            let name = format!("here: {name}");
            note(&name, missing.as_ref());
            trials.push(
                Trial::test(name, move || {
                    run().map_err(|error| Failed::from(format!("{error:#}")))
                })
                .with_ignored_flag(missing.is_some()),
            );
        }
    }
    // In turn, so that the machines run side by side.
    let mut of_machines: Vec<_> = KERNELS
        .iter()
        .filter(|kernel| kernel.is_wanted())
        .flat_map(|kernel| in_machine(kernel).into_iter().enumerate())
        .collect();
    of_machines.sort_by_key(|(number, _)| *number);
    trials.extend(of_machines.into_iter().map(|(_, trial)| trial));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// One test for each scenario that the kernel's machine runs.
fn in_machine(kernel: &'static Kernel) -> Vec<Trial> {
    let machine = Machine::of(kernel);
    let missing = machine.as_ref().err().cloned();
    note(&format!("Linux {}", kernel.name), missing.as_ref());
    let machine = machine.ok().map(Arc::new);
    scenarios::of_kernel(kernel.way)
        .into_iter()
        .map(|Scenario { name, .. }| {
            let machine = machine.clone();
            let title = format!("Linux {}: {name}", kernel.name);
            Trial::test(title, move || match machine {
                Some(machine) => machine.outcome(&name).map_err(Failed::from),
                None => Err("no machine".into()),
            })
            .with_ignored_flag(missing.is_some())
        })
        .collect()
}

fn note(name: &str, missing: Option<&String>) {
    if let Some(why) = missing {
        eprintln!("ignored: {name}: {why}");
    }
}

fn missing_here() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    missing_object().or_else(|| {
        world::prepare()
            .err()
            .map(|error| format!("no BPF file system: {error:#}"))
    })
}

fn missing_object() -> Option<String> {
    polproof_agent::observe::bpf_object()
        .is_empty()
        .then(|| "the agent was built without its BPF object: run `cargo xtask build`".to_owned())
}
