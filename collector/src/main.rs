//! The polproof-collector binary: flags, logs, signals; everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use polproof_collector::config::{Args, Config};
use polproof_collector::telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let config = match Args::parse().resolve() {
        Ok(config) => config,
        Err(error) => return fail(&error, 2),
    };
    if let Err(error) = telemetry::logs(config.log_format, &config.log_level) {
        return fail(&error, 2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), 1),
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let asked = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end");
        asked.cancel();
    });
    polproof_collector::run(config, shutdown).await
}

#[allow(
    clippy::print_stderr,
    reason = "the last words of a program that could not go on"
)]
fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("polproof-collector: {error:#}");
    ExitCode::from(code)
}
