//! The truth table: what polproof says of every way of enforcing, in every topology, compared with what really happened.
//!
//! ```text
//! cell.rs --what is tried--> scene.rs (pods), policies.rs, traffic.rs --packets--> facts.rs (packet sockets)
//!                              | stage.rs (in which order)                              |
//!                              '--real agents, real collector--> findings.rs            | expected.rs
//!                                                                     '--verdict.rs-----+--> table.rs
//! ```
//!
//! A group is an enforcer in a topology, tried in one way, and a test. Plainly run, representative groups are tried; with POLPROOF_TRUTH=full all of them
//! (`cargo xtask truth --full`).
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test program talks to people"
)]

mod cell;
mod expected;
mod facts;
mod findings;
mod group;
mod oracle;
mod policies;
mod scene;
mod selftest;
mod stage;
mod table;
mod traffic;
mod verdict;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use polproof_tests::lab::topology::Topology;
use polproof_tests::lab::{enforcers, prerequisites};

use crate::group::Group;
use crate::stage::Stage;
use crate::table::Counts;
use crate::verdict::Row;

/// Asks for all groups.
const FULL: &str = "POLPROOF_TRUTH";
/// Labs at the same time: most of a group is waiting.
const AT_A_TIME: usize = 4;
/// What a group takes, until one has been seen.
const GUESS: Duration = Duration::from_secs(60);

/// Groups of which each shows something that no other does.
const REPRESENTATIVE: &[(&str, Topology)] = &[
    ("none", Topology::Vxlan),
    ("iptables-drop", Topology::Bridge),
    ("nft-reject-reset", Topology::Routed),
    ("redirect-peer", Topology::Routed),
    ("tcx-per-packet", Topology::Bridge),
    ("one-node", Topology::Vxlan),
    ("denies-stay", Topology::Routed),
    ("lagging", Topology::Bridge),
];

/// What the groups came to.
#[derive(Debug, Default)]
struct Progress {
    rows: Vec<Row>,
    done: usize,
    took: Duration,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let missing = prerequisites::missing_for_agents();
    if !missing.is_empty() {
        eprintln!(
            "Ignored, since there is missing:\n  - {}",
            missing.join("\n  - ")
        );
    }
    arguments.test_threads.get_or_insert(AT_A_TIME);
    let (cells, impossible) = cell::all();
    let cells = Arc::new(cells);
    let groups = groups();
    let progress = Arc::new(Mutex::new(Progress::default()));
    let chosen = |group: &&Group| match &arguments.filter {
        Some(filter) if arguments.exact => group.name() == *filter,
        Some(filter) => group.name().contains(filter.as_str()),
        None => true,
    };
    let total = groups.iter().filter(chosen).count();
    let trials = groups
        .into_iter()
        .map(|group| {
            let (cells, progress) = (Arc::clone(&cells), Arc::clone(&progress));
            Trial::test(group.name(), move || run(&group, &cells, &progress, total))
                .with_ignored_flag(!missing.is_empty())
        })
        .chain(selftest::trials())
        .collect();
    let began = Instant::now();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    if progress.rows.is_empty() {
        return conclusion.exit_code();
    }
    println!(
        "{}",
        table::summary(&progress.rows, &impossible, progress.done)
    );
    let written = table::write(&progress.rows).and_then(|path| {
        table::write_recognised(&progress.rows, &path)?;
        Ok(path)
    });
    match written {
        Ok(path) => println!(
            "  {} cells in {} groups, {:.0?}; all of them in {}",
            progress.rows.len(),
            progress.done,
            began.elapsed(),
            path.display()
        ),
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    }
    conclusion.exit_code()
}

fn groups() -> Vec<Group> {
    let full = std::env::var(FULL).is_ok_and(|value| value == "full");
    let all = enforcers::catalogue().iter().flat_map(|enforcer| {
        Stage::all_of(enforcer).into_iter().flat_map(move |stage| {
            Topology::ALL.map(|topology| Group {
                enforcer,
                stage,
                topology,
            })
        })
    });
    let is_representative = |group: &Group| {
        let key = (group.enforcer.name, group.topology);
        group.stage.label().is_none() && REPRESENTATIVE.contains(&key)
    };
    all.filter(|group| full || is_representative(group))
        .collect()
}

fn run(
    group: &Group,
    cells: &[cell::Cell],
    progress: &Mutex<Progress>,
    total: usize,
) -> Result<(), Failed> {
    let outcome = group.run(cells).map_err(|error| format!("{error:#}"))?;
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    progress.done += 1;
    progress.took += outcome.took;
    let done = u32::try_from(progress.done).unwrap_or(1).max(1);
    let each = if progress.took.is_zero() {
        GUESS
    } else {
        progress.took / done
    };
    let left = each * u32::try_from(total.saturating_sub(progress.done)).unwrap_or(0)
        / u32::try_from(AT_A_TIME).unwrap_or(1);
    eprintln!(
        "{}/{total} {:28} {} in {:.0?}; about {:.0?} more",
        progress.done,
        group.name(),
        Counts::of(&outcome.rows),
        outcome.took,
        left
    );
    progress.rows.extend(outcome.rows);
    if outcome.complaints.is_empty() {
        return Ok(());
    }
    Err(group::text(&outcome.complaints).into())
}
