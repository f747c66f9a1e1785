//! `polproof check`: holds the policies against a file of expected connectivity.

mod file;
mod junit;
mod resolve;
mod text;

use polproof_policy::ask::{Directory, Pairs, family_name};
use polproof_policy::explain::{outcome_word, reason_word};
use polproof_policy::{Expectation, Family, Protocol};
use serde::Serialize;

use crate::args::{Check as Options, Format};
use crate::convert;
use crate::explain::word;
use crate::failure::{FINE, Failure, USAGE, VIOLATIONS};
use crate::output::Screen;
use crate::printable::printable;
use crate::source::{self, Loaded};
use crate::view::Walk;
use file::{Check, Expect};
use resolve::resolve;

/// Failed pairs of one check that are shown.
const SHOWN: usize = 10;

/// `polproof check -o json`.
#[derive(Debug, Serialize)]
struct Report {
    /// The file of checks.
    file: String,
    /// What was read.
    objects: String,
    /// How many hold.
    passed: usize,
    /// How many do not.
    failed: usize,
    /// How many name nobody.
    errors: usize,
    /// In the order of the file.
    checks: Vec<Checked>,
}

/// One check.
#[derive(Debug, Serialize)]
struct Checked {
    name: String,
    line: u64,
    expect: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// `passed`, `failed`, `error`.
    result: &'static str,
    /// Pairs and ports that were looked at, in each family.
    evaluated: u64,
    /// Of these, those that came out otherwise.
    failed: u64,
    /// Why nothing could be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The first of those that came out otherwise.
    failures: Vec<Wrong>,
}

/// A pair that came out otherwise.
#[derive(Debug, Serialize)]
struct Wrong {
    source: String,
    destination: String,
    port: u16,
    protocol: &'static str,
    families: Vec<&'static str>,
    /// `allow`, `deny`, `unknown`.
    verdict: &'static str,
    /// A stable word for why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The walk to the verdict.
    directions: Vec<Walk>,
}

/// Checks.
pub(crate) async fn run(options: &Options, screen: &Screen) -> Result<u8, Failure> {
    let checks = file::read(&options.file)?;
    let loaded = source::load(options.manifests.as_deref(), &options.source).await?;
    source::note_refused(&loaded);
    let directory = Directory::new(&loaded.view.snapshot);
    let checks: Vec<Checked> = checks
        .iter()
        .map(|check| checked(&directory, &loaded, check))
        .collect();
    let count = |result: &str| checks.iter().filter(|of| of.result == result).count();
    let report = Report {
        file: options.file.display().to_string(),
        objects: loaded.name,
        passed: count("passed"),
        failed: count("failed"),
        errors: count("error"),
        checks,
    };
    match screen.format {
        Format::Json | Format::Yaml => screen.document(&report)?,
        Format::Junit => screen.write(&junit::junit(&report)?)?,
        _ => screen.write(&text::text(&report, screen))?,
    }
    Ok(match (report.errors, report.failed) {
        (0, 0) => FINE,
        (0, _) => VIOLATIONS,
        _ => USAGE,
    })
}

fn checked(directory: &Directory, loaded: &Loaded, check: &Check) -> Checked {
    let mut checked = Checked {
        name: printable(check.name.clone()),
        line: check.line,
        expect: check.expect.word(),
        reason: check.reason.clone().map(printable),
        result: "passed",
        evaluated: 0,
        failed: 0,
        error: None,
        failures: Vec::new(),
    };
    match resolve(directory, loaded, check) {
        Ok(resolved) => {
            for (protocol, destinations) in resolved.destinations {
                let pairs = Pairs::new(resolved.sources.clone(), destinations);
                for family in [Family::V4, Family::V6] {
                    if check.family.is_none_or(|only| only == family) {
                        checked.look(directory, &pairs, family, protocol, check.expect);
                    }
                }
            }
            if checked.evaluated == 0 {
                checked.error = Some(match check.family {
                    Some(family) => format!(
                        "no pair of its ends has {} addresses on both sides",
                        family_name(family)
                    ),
                    None => "no pair is left: its ends are the same pod, or have no address family in common"
                        .to_owned(),
                });
            }
        }
        Err(error) => checked.error = Some(printable(error)),
    }
    if checked.error.is_some() {
        checked.result = "error";
    } else if checked.failed > 0 {
        checked.result = "failed";
    }
    checked
}

impl Checked {
    fn look(
        &mut self,
        directory: &Directory,
        pairs: &Pairs,
        family: Family,
        protocol: Protocol,
        expect: Expect,
    ) {
        let snapshot = directory.snapshot();
        for pair in pairs.of(family) {
            let query = pair.query(protocol);
            let came_out = snapshot.evaluate(&query).expectation();
            self.evaluated += 1;
            let holds = match expect {
                Expect::Allow => came_out == Expectation::Allow,
                Expect::Deny => came_out == Expectation::Deny,
                Expect::Unknown => matches!(came_out, Expectation::Unknown(_)),
            };
            if holds {
                continue;
            }
            self.failed += 1;
            let (source, destination) = (pair.source.to_string(), pair.destination.to_string());
            let verdict = outcome_word(came_out);
            // The other family says it again, as a rule.
            let known = self.failures.iter_mut().find(|held| {
                held.source == source
                    && held.destination == destination
                    && held.port == pair.port
                    && held.protocol == word(protocol)
                    && held.verdict == verdict
            });
            if let Some(known) = known {
                known.families.push(family_name(family));
            } else if self.failures.len() < SHOWN {
                let explanation = snapshot.explain(&query);
                self.failures.push(Wrong {
                    source: printable(source),
                    destination: printable(destination),
                    port: pair.port,
                    protocol: word(protocol),
                    families: vec![family_name(family)],
                    verdict,
                    reason: reason_word(came_out),
                    directions: convert::walks(explanation),
                });
            }
        }
    }
}
