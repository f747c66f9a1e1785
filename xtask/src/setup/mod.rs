//! `cargo xtask setup`: what a machine needs for polproof, what it lacks, and installing that.
//!
//! Everything is looked up first; only what is missing is installed, and what cannot be installed here is
//! named with what to do. A second run finds everything in place and ends at once.

mod debian;
mod kernel;
mod linker;
mod machines;
mod programs;

use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::process::{complain, elapsed, say};
use crate::workspace::{Workspace, is_root};
use crate::{bpf, crds, testbed};

/// Options of `cargo xtask setup`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only report what is missing (exit code 1) and install nothing.
    #[arg(long)]
    check: bool,
}

/// What the set-up is for: each includes what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// The binaries with their BPF object.
    Build,
    /// And the lab: namespaces, packet filters, BPF mounts.
    Demo,
    /// And a real API server, and other kernels.
    Test,
}

/// One thing that a machine needs.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// What it is.
    pub(crate) name: String,
    /// There, or not.
    pub(crate) state: State,
}

/// Whether an item is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is; the detail says which.
    Present(String),
    /// It is not.
    Missing {
        /// What does not work without it.
        without: String,
        /// What to do.
        remedy: String,
    },
}

impl Item {
    fn present(name: impl Into<String>, detail: impl Into<String>) -> Self {
        let state = State::Present(detail.into());
        Self {
            name: name.into(),
            state,
        }
    }

    fn missing(
        name: impl Into<String>,
        without: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (without, remedy) = (without.into(), remedy.into());
        Self {
            name: name.into(),
            state: State::Missing { without, remedy },
        }
    }

    fn is_missing(&self) -> bool {
        matches!(self.state, State::Missing { .. })
    }
}

/// What a set-up came to.
pub(crate) struct Ready {
    /// What is still missing.
    pub(crate) missing: Vec<Item>,
    /// The build of the API server, where it is under way.
    testbed: Option<JoinHandle<Result<()>>>,
}

impl Ready {
    /// Waits for the build of the API server; its failure becomes one more missing item.
    pub(crate) fn wait(mut self) -> Vec<Item> {
        if let Some(thread) = self.testbed.take() {
            if !thread.is_finished() {
                say("==> waiting for the API server of the tests");
            }
            let failure = match thread.join() {
                Ok(Ok(())) => return self.missing,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "the thread that builds it panicked".to_owned(),
            };
            self.missing.push(Item::missing(
                TESTBED,
                "the tests against a real API server are not run",
                failure,
            ));
        }
        self.missing
    }
}

const COMPILER: &str = "rustc for BPF";
const LINKER: &str = "bpf-linker";
const TESTBED: &str = "etcd and kube-apiserver";
const CRDS: &str = "CRDs of admin policies";

/// `cargo xtask setup`.
pub(crate) fn command(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.check {
        let items = survey(workspace, Need::Test)?;
        report(&items);
        let missing = items.iter().filter(|item| item.is_missing()).count();
        if missing > 0 {
            bail!("{missing} of {} items are missing", items.len());
        }
        return Ok(());
    }
    let missing = install(workspace, Need::Test)?.wait();
    report(&survey(workspace, Need::Test)?);
    if !missing.is_empty() {
        bail!("the set-up is not complete");
    }
    say("next: `cargo xtask demo`, or `cargo xtask test`");
    Ok(())
}

/// Looks up everything.
fn survey(workspace: &Workspace, need: Need) -> Result<Vec<Item>> {
    let mut items = bpf_items();
    if need >= Need::Demo {
        items.extend(programs::items());
        items.extend(kernel::items());
    }
    if need >= Need::Test {
        items.push(testbed_item(workspace)?);
        items.push(crds_item(workspace)?);
        items.extend(machines::items(workspace));
    }
    Ok(items)
}

fn bpf_items() -> Vec<Item> {
    const WITHOUT: &str = "no BPF object: agents observe nothing, and the demo and the tests with packets are not run";
    let Some(compiler) = bpf::find_compiler() else {
        return vec![Item::missing(COMPILER, WITHOUT, bpf::remedy())];
    };
    let linker = match bpf::Linker::find() {
        Some(linker) if linker.reads(compiler.llvm) => Item::present(
            LINKER,
            match linker.llvm {
                Some(llvm) => format!("{} (LLVM {llvm})", linker.path.display()),
                None => linker.path.display().to_string(),
            },
        ),
        Some(linker) => Item::missing(
            LINKER,
            WITHOUT,
            format!(
                "{} is linked with LLVM {}, and {} writes LLVM {}: {}",
                linker.path.display(),
                linker.llvm.unwrap_or_default(),
                compiler.rustc.display(),
                compiler.llvm,
                linker::command_line(compiler.llvm)
            ),
        ),
        None => Item::missing(LINKER, WITHOUT, linker::command_line(compiler.llvm)),
    };
    vec![Item::present(COMPILER, compiler.describe()), linker]
}

fn testbed_item(workspace: &Workspace) -> Result<Item> {
    const WITHOUT: &str = "the tests against a real API server are not run";
    Ok(match testbed::state(workspace)? {
        testbed::State::Present(folder) => Item::present(TESTBED, folder.display().to_string()),
        testbed::State::Elsewhere(folder) => Item::missing(
            TESTBED,
            WITHOUT,
            format!(
                "POLPROOF_TESTBED names {}, which lacks one of them: unset it or put them there",
                folder.display()
            ),
        ),
        testbed::State::Missing(_) => {
            let remedy = match testbed::go() {
                Some((_, version)) => {
                    format!("`cargo xtask setup` builds them ({version}; some 6 minutes, once)")
                }
                None => testbed::remedy(),
            };
            Item::missing(TESTBED, WITHOUT, remedy)
        }
    })
}

fn crds_item(workspace: &Workspace) -> Result<Item> {
    let (folder, complete) = crds::state(workspace)?;
    if complete {
        return Ok(Item::present(CRDS, folder.display().to_string()));
    }
    let remedy = match testbed::go() {
        Some(_) => "`cargo xtask setup` downloads them".to_owned(),
        None => testbed::remedy(),
    };
    let without = "the tests of admin policies against a real API server are not run";
    Ok(Item::missing(CRDS, without, remedy))
}

fn fetch_crds(workspace: &Workspace, need: Need) -> Result<()> {
    if need >= Need::Test {
        crds::fetch(workspace)
    } else {
        Ok(())
    }
}

/// Installs what is missing. What could not be installed is in the answer and was named with what to do.
pub(crate) fn install(workspace: &Workspace, need: Need) -> Result<Ready> {
    let start = Instant::now();
    let missing = |items: Vec<Item>| {
        items
            .into_iter()
            .filter(Item::is_missing)
            .collect::<Vec<_>>()
    };
    let before = missing(survey(workspace, need)?);
    let mut ready = Ready {
        missing: Vec::new(),
        testbed: None,
    };
    if before.is_empty() {
        say(format_args!("==> set-up is complete ({})", elapsed(start)));
        return Ok(ready);
    }
    say("==> set-up: missing here are");
    for item in &before {
        say(format_args!("    {}", item.name));
    }
    if before.iter().any(|item| item.name == TESTBED)
        && let testbed::State::Missing(folder) = testbed::state(workspace)?
        && testbed::go().is_some()
    {
        let workspace = workspace.clone();
        ready.testbed = Some(std::thread::spawn(move || {
            testbed::build(&workspace, &folder)
        }));
    }
    // One that fails leaves its items missing; the others are tried all the same.
    for step in [
        install_packages,
        install_linker,
        fetch_crds,
        machines::fetch,
        kernel::prepare,
    ] {
        if let Err(error) = step(workspace, need) {
            complain(&format!("    {error:#}"));
        }
    }
    ready.missing = missing(survey(workspace, need)?);
    if ready.testbed.is_some() {
        ready.missing.retain(|item| item.name != TESTBED);
    }
    for item in &ready.missing {
        if let State::Missing { without, remedy } = &item.state {
            complain(&format!(
                "MISSING {}: {without}\n    to do: {remedy}",
                item.name
            ));
        }
    }
    Ok(ready)
}

/// The distribution's packages, in one call.
fn install_packages(workspace: &Workspace, need: Need) -> Result<()> {
    let mut packages: Vec<String> = Vec::new();
    if need >= Need::Demo {
        packages.extend(programs::missing_packages());
    }
    if need >= Need::Test {
        packages.extend(machines::missing_packages());
    }
    if bpf::find_compiler().is_none() {
        packages.extend(debian::BPF_COMPILER.map(str::to_owned));
    }
    if packages.is_empty() {
        return Ok(());
    }
    debian::install(workspace, &packages)
}

fn install_linker(workspace: &Workspace, _need: Need) -> Result<()> {
    let Some(compiler) = bpf::find_compiler() else {
        return Ok(()); // named as missing; which LLVM to link is not known
    };
    if bpf::Linker::find().is_some_and(|linker| linker.reads(compiler.llvm)) {
        return Ok(());
    }
    linker::install(workspace, compiler.llvm)
}

fn report(items: &[Item]) {
    say(format_args!(
        "{}, Linux {}, {}",
        debian::pretty_name(),
        kernel::release(),
        if is_root() { "root" } else { "not root" }
    ));
    let width = items.iter().map(|item| item.name.len()).max().unwrap_or(0);
    for item in items {
        match &item.state {
            State::Present(detail) => {
                say(format_args!("  ok       {:width$}  {detail}", item.name))
            }
            State::Missing { without, remedy } => {
                say(format_args!("  MISSING  {:width$}  {without}", item.name));
                say(format_args!("           {:width$}  to do: {remedy}", ""));
            }
        }
    }
}
