//! Scenarios in the lab: real packets, real agents, a real collector.
//!
//! They need root, a few network programs, the BPF object and the built programs. What cannot run is listed as ignored, with
//! the reason, and never as passed.
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test program talks to people"
)]

mod bad_input;
mod enforcers;
mod findings;
mod kinds;
mod network;
mod recovery;
mod services;
mod tiers;
mod topologies;
mod verdicts;
mod witnesses;

use std::collections::BTreeMap;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use polproof_tests::lab::{Lab, Setup, lease, prerequisites};

/// A scenario and what it needs of the machine.
pub(crate) struct Scenario {
    name: String,
    needs_programs: bool,
    missing: Option<String>,
    setup: fn() -> Setup,
    run: Run,
}

type Run = Box<dyn Fn(&mut Lab) -> Result<()> + Send>;

impl Scenario {
    /// A scenario of the lab's network alone.
    pub(crate) fn network(
        name: impl Into<String>,
        run: impl Fn(&mut Lab) -> Result<()> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            needs_programs: false,
            missing: None,
            setup: Setup::default,
            run: Box::new(run),
        }
    }

    /// A scenario with agents and a collector.
    pub(crate) fn whole(
        name: impl Into<String>,
        run: impl Fn(&mut Lab) -> Result<()> + Send + 'static,
    ) -> Self {
        Self {
            needs_programs: true,
            ..Self::network(name, run)
        }
    }

    /// The same, which cannot run here if that is missing.
    pub(crate) fn missing(self, missing: Option<String>) -> Self {
        Self { missing, ..self }
    }

    /// The same in another lab.
    pub(crate) fn with(self, setup: fn() -> Setup) -> Self {
        Self { setup, ..self }
    }
}

fn main() -> std::process::ExitCode {
    if std::env::var_os(network::VICTIM).is_some() {
        return match network::be_a_victim() {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                std::process::ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::from_args();
    let network = prerequisites::missing_for_network();
    let programs = prerequisites::missing_for_agents();
    let scenarios = network::scenarios()
        .into_iter()
        .chain(topologies::scenarios())
        .chain(services::scenarios())
        .chain(verdicts::scenarios())
        .chain(witnesses::scenarios())
        .chain(kinds::scenarios())
        .chain(tiers::scenarios())
        .chain(recovery::scenarios())
        .chain(bad_input::scenarios())
        .chain(enforcers::scenarios());
    let mut ignored: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let trials = scenarios
        .map(|scenario| {
            let missing: Vec<String> = if scenario.needs_programs {
                &programs
            } else {
                &network
            }
            .iter()
            .chain(&scenario.missing)
            .cloned()
            .collect();
            let ready = missing.is_empty();
            if !ready {
                ignored
                    .entry(missing.join("\n  - "))
                    .or_default()
                    .push(scenario.name.clone());
            }
            Trial::test(scenario.name.clone(), move || run(&scenario)).with_ignored_flag(!ready)
        })
        .collect();
    for (missing, names) in ignored {
        eprintln!(
            "Ignored:\n  {}\nsince there is missing:\n  - {missing}\n",
            names.join("\n  ")
        );
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(scenario: &Scenario) -> Result<(), Failed> {
    let mut lab = Lab::create((scenario.setup)()).map_err(|error| format!("{error:#}"))?;
    (scenario.run)(&mut lab).map_err(|error| {
        lease::end_if_interrupted();
        format!("{error:#}\n{}", lab.logs(40)).into()
    })
}
