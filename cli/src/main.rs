//! polproof: what a person, or CI, asks.
//!
//! ```text
//! args --> status | violations | explain --connect--> collector (gRPC, mTLS)
//!                                        \--cluster--> manifests (explain --manifests)
//!          each: wire --convert--> view (serde) --> table | json | yaml
//! ```
//!
//! It refuses to judge and to keep anything: it shows what the collector has, and asks the policy engine. Every error
//! is one line that says what to do, and every outcome has its exit code.
//!
//! Linked or copied as `kubectl-polproof` it is `kubectl polproof`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, ValueEnum as _};

mod args;
mod audit;
mod check;
mod connect;
mod convert;
mod diff;
mod explain;
mod failure;
mod fix;
mod follow;
mod matrix;
mod output;
mod printable;
mod source;
mod status;
mod view;
mod violations;

use args::{Args, Command};
use failure::Failure;
use output::Screen;

fn main() -> ExitCode {
    let outcome = run();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(Failure { message, code }) => {
            if !message.is_empty() {
                let _ = writeln!(std::io::stderr(), "polproof: {message}");
            }
            ExitCode::from(code)
        }
    }
}

fn run() -> Result<u8, Failure> {
    let name = invoked_as();
    let matches = match Args::command()
        .name(name)
        .bin_name(name)
        .try_get_matches_from(std::env::args_os())
    {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version come this way too, with code 0.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            let _ = error.print();
            return Ok(code);
        }
    };
    let args =
        Args::from_arg_matches(&matches).map_err(|error| Failure::usage(error.to_string()))?;
    let formats = args.command.formats();
    if !formats.contains(&args.global.output) {
        let word = |format: &args::Format| {
            format
                .to_possible_value()
                .map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let known: Vec<_> = formats.iter().map(word).collect();
        return Err(Failure::usage(format!(
            "this command cannot print {}; give -o {}",
            word(&args.global.output),
            known.join(", ")
        )));
    }
    let screen = Screen::new(args.global.output, args.global.color);
    if let Command::Completion { shell } = args.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Args::command(), "polproof", &mut script);
        return screen
            .write(&String::from_utf8_lossy(&script))
            .map(|()| failure::FINE);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::away(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match args.command {
            Command::Status(options) => status::run(&args.global, &options, &screen).await,
            Command::Violations(options) if options.follow => {
                follow::run(&args.global, &options, &screen).await
            }
            Command::Violations(options) => violations::run(&args.global, &options, &screen).await,
            Command::Explain(options) => explain::run(&args.global, &options, &screen).await,
            Command::Audit(options) => audit::run(&options, &screen).await,
            Command::Fix(options) => fix::run(&options, &screen).await,
            Command::Check(options) => check::run(&options, &screen).await,
            Command::Matrix(options) => matrix::run(&options, &screen).await,
            Command::Diff(options) => diff::run(&options, &screen).await,
            Command::Completion { .. } => Ok(failure::FINE),
        }
    })
}

/// As a plugin of kubectl it is called by another name, and its help should say what people type.
fn invoked_as() -> &'static str {
    let plugin = std::env::args_os().next().is_some_and(|first| {
        std::path::Path::new(&first)
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("kubectl-polproof"))
    });
    if plugin {
        "kubectl polproof"
    } else {
        "polproof"
    }
}
