//! `polproof audit`: what is wrong with the policies by the objects alone.
//!
//! ```text
//! View --lint::audit--> Audit --suppress, scope, baseline--> Report --> table | json | yaml | sarif | junit | html
//! ```
//!
//! The lints are the engine's. Here it is decided which of their findings count, and how they are told.

mod baseline;
mod catalogue;
mod controls;
mod file;
mod group;
mod html;
mod junit;
mod report;
#[cfg(test)]
mod sample;
mod sarif;
pub(crate) mod scope;
pub(crate) mod suppressions;
mod table;

use std::io::IsTerminal as _;

use polproof_policy::lint::suppress::{self, Day};
use polproof_policy::lint::{self, Input, Refused};

use crate::args::{Audit as Options, Format, When};
use crate::failure::{FINE, Failure, VIOLATIONS};
use crate::output::{Screen, note};
use crate::source::{self, Loaded};
use baseline::Baseline;
use report::{Report, Taken};
use scope::Scope;

/// Runs it.
pub(crate) async fn run(options: &Options, screen: &Screen) -> Result<u8, Failure> {
    if options.list {
        return catalogue::list(screen).map(|()| FINE);
    }
    if let Some(id) = &options.explain {
        return catalogue::explain(id, screen).map(|()| FINE);
    }
    // What is typed wrongly is said before a cluster is read.
    let scope = Scope::new(options)?;
    let settings = scope::settings(&options.assumptions)?;
    let rules = match &options.suppressions {
        Some(path) => suppressions::read(path)?,
        None => Vec::new(),
    };
    let baseline = options
        .baseline
        .as_deref()
        .map(Baseline::read)
        .transpose()?;
    if options.path.is_none() && std::io::stderr().is_terminal() {
        note("reading the cluster (namespaces, pods, policies, Services); this may take a minute");
    }
    let loaded = source::load(options.path.as_deref(), &options.source).await?;
    scope.check(&loaded.view)?;
    let refused = refused(&loaded);
    let input = Input {
        snapshot: &loaded.view.snapshot,
        refused: &refused,
    };
    let audit = lint::audit(input, &settings);
    let sorted = suppress::sort(audit.findings, &loaded.view.snapshot, &rules, today()?);
    let report = Report::new(Taken {
        loaded: &loaded,
        summary: audit.summary,
        postures: audit.namespaces,
        sorted,
        scope: &scope,
        exempt: &settings.exempt_namespaces,
        baseline: baseline.as_ref(),
        fail_on: options.fail_on.severity(),
    });
    for suppression in &report.ineffective {
        note(&format!(
            "suppression without effect: {}: {}",
            suppression.by, suppression.problem
        ));
    }
    show(&report, options, screen)?;
    Ok(if report.counts.failing == 0 {
        FINE
    } else {
        VIOLATIONS
    })
}

fn refused(loaded: &Loaded) -> Vec<Refused> {
    let refused = loaded.view.refused.iter().map(|refused| Refused {
        kind: refused.key.kind,
        id: refused.key.id.clone(),
        reason: refused.reason.clone(),
    });
    refused.collect()
}

/// The day on this machine's calendar, as the person who wrote `until` meant it.
pub(crate) fn today() -> Result<Day, Failure> {
    let day = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
    day.parse()
        .map_err(|error| Failure::usage(format!("the clock of this machine is wrong: {error}")))
}

fn show(report: &Report, options: &Options, screen: &Screen) -> Result<(), Failure> {
    // A file is no terminal.
    let paper = Screen::new(screen.format, When::Never);
    let target = if options.write.is_some() {
        &paper
    } else {
        screen
    };
    let text = match target.format {
        Format::Sarif => sarif::render(report)?,
        Format::Junit => junit::render(report)?,
        Format::Html => html::render(report),
        Format::Yaml => serde_saphyr::to_string(report)
            .map_err(|error| Failure::usage(format!("cannot write YAML: {error}")))?,
        Format::Json => {
            let mut text = serde_json::to_string_pretty(report)
                .map_err(|error| Failure::usage(format!("cannot write JSON: {error}")))?;
            text.push('\n');
            text
        }
        Format::Table
        | Format::Wide
        | Format::Csv
        | Format::Dot
        | Format::Svg
        | Format::Markdown => table::render(report, options.all, target),
    };
    let Some(path) = &options.write else {
        return screen.write(&text);
    };
    std::fs::write(path, text).map_err(|error| {
        Failure::usage(format!(
            "--write {}: {error}; check that its folder exists and that this user may write there",
            path.display()
        ))
    })?;
    note(&format!(
        "{}; {}; written to {}",
        report.summary,
        report.counts.live(),
        path.display()
    ));
    Ok(())
}
