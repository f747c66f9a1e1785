//! The `polproof-agent` command: settings, log, and off it goes.

use std::process::ExitCode;

use clap::Parser;
use polproof_agent::config::{Args, Command, Config};
use polproof_agent::{give_back_early, run, telemetry, uninstall};

/// Threads for everything but the judge, which has its own: little is to be done, however many processors a node has, and each
/// costs memory.
const THREADS: usize = 4;

fn main() -> ExitCode {
    give_back_early();
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fail(&error);
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    let command = args.command;
    let config = Config::resolve(args)?;
    telemetry::init_log(config.log_format, &config.log_level)?;
    match command {
        Some(Command::Uninstall) => {
            uninstall(&config.bpf_dir, &config.netns_dir, &config.proc_root).map(drop)
        }
        None => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism()?.get().min(THREADS))
            .enable_all()
            .build()?
            .block_on(run(config)),
    }
}

#[allow(
    clippy::print_stderr,
    reason = "the last word of a command goes to standard error, log or no log"
)]
fn fail(error: &anyhow::Error) {
    eprintln!("polproof-agent: {error:#}");
}
