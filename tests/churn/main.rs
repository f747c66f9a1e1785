//! Random changes of everything at once under traffic: with a correct enforcer nobody is accused, and of a faulty one every
//! fault that traffic touched is found.
//!
//! `POLPROOF_CHURN_SECONDS` sets the length of each trial (60), `POLPROOF_CHURN_SEED` the changes; both are printed.
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test program talks to people"
)]

mod changes;
mod random;
mod traffic;
mod trial;
mod truth;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libtest_mimic::{Arguments, Failed, Trial};
use polproof_tests::lab::{lease, prerequisites};

/// How a trial is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// For how long things change.
    pub(crate) length: Duration,
    /// Of the random changes.
    pub(crate) seed: u64,
    /// New connections in a second, all pods together.
    pub(crate) per_second: u32,
    /// Whether the enforcer fails now and then.
    pub(crate) faults: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let (length, seed) = match (
        number("POLPROOF_CHURN_SECONDS"),
        number("POLPROOF_CHURN_SEED"),
    ) {
        (Ok(length), Ok(seed)) => (length.unwrap_or(60), seed.unwrap_or_else(by_the_clock)),
        (Err(problem), _) | (_, Err(problem)) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let missing = prerequisites::missing_for_agents();
    let trials = [
        ("a correct enforcer under churn: nobody is accused", false),
        (
            "an enforcer that fails now and then under churn: every failure that traffic touched is found, and nothing else",
            true,
        ),
    ]
    .into_iter()
    .map(|(name, faults)| {
        let plan = Plan {
            length: Duration::from_secs(length),
            seed,
            per_second: 500,
            faults,
        };
        if !missing.is_empty() {
            eprintln!("Ignored: {name}, since there is missing: {}", missing.join("; "));
        }
        Trial::test(name, move || {
            eprintln!("{name}: {plan:?}");
            trial::run(plan).map_err(|error| {
                lease::end_if_interrupted();
                Failed::from(format!("{error:#}\nto try it again: POLPROOF_CHURN_SEED={seed} POLPROOF_CHURN_SECONDS={length}"))
            })
        })
        .with_ignored_flag(!missing.is_empty())
    })
    .collect();
    // One after the other: each wants the machine for itself.
    libtest_mimic::run(
        &Arguments {
            test_threads: Some(1),
            ..arguments
        },
        trials,
    )
    .exit_code()
}

fn number(name: &str) -> Result<Option<u64>, String> {
    match std::env::var(name) {
        Ok(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!("{name}={text} is no whole number")),
        },
        Err(_) => Ok(None),
    }
}

fn by_the_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| since.as_secs())
}
