//! The commands of a polproof checkout: `cargo xtask setup|build|demo|test|truth|nightly|churn|bench|image|tidy`.
//!
//! ```text
//! setup (what is missing) -> bpf (the BPF object) -> build (cargo) -> test | demo | bench
//! ```
//!
//! It refuses to depend on any crate of polproof: it must work when they do not compile. It installs
//! only what `setup --check` lists, and removes nothing.

mod bench;
mod bpf;
mod build;
mod churn;
mod crds;
mod demo;
mod image;
mod leftovers;
mod nightly;
mod process;
mod runner;
mod setup;
mod test;
mod testbed;
mod tidy;
mod truth;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Set-up, build, demo, tests and benchmarks of polproof.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing to build and test everything.
    Setup(setup::Options),
    /// Build the BPF object and the binaries.
    Build(build::Options),
    /// Show in two minutes what polproof does, on two nodes made of network namespaces.
    Demo(demo::Options),
    /// Set up, build, and run every test that can run here; name the others.
    Test(test::Options),
    /// Compare what polproof says of every way of enforcing with what really happened.
    Truth(truth::Options),
    /// Run what takes too long for every change: many random clusters, hostile manifests, mutants.
    Nightly(nightly::Options),
    /// Change everything at random under traffic, for minutes, and see that findings are right and complete.
    Churn(churn::Options),
    /// Measure the engine and the BPF programs, and compare with the goals.
    Bench(bench::Options),
    /// Build the container images with docker or buildah.
    Image(image::Options),
    /// Check the rules of the repository that neither rustc nor clippy knows.
    Tidy,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = Workspace::find().and_then(|workspace| match arguments.task {
        Task::Setup(options) => setup::command(&workspace, &options),
        Task::Build(options) => build::command(&workspace, &options),
        Task::Demo(options) => demo::command(&workspace, &options),
        Task::Test(options) => test::command(&workspace, &options),
        Task::Truth(options) => truth::command(&workspace, &options),
        Task::Nightly(options) => nightly::command(&workspace, &options),
        Task::Churn(options) => churn::command(&workspace, &options),
        Task::Bench(options) => bench::command(&workspace, &options),
        Task::Image(options) => image::command(&workspace, &options),
        Task::Tidy => tidy::command(&workspace),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
