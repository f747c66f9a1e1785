//! Checks for people: a table, then what does not hold and why.

use super::{Checked, Report, Wrong};
use crate::explain::tone;
use crate::output::{Screen, Tone};

pub(super) fn text(report: &Report, screen: &Screen) -> String {
    let rows: Vec<Vec<(Tone, String)>> = report
        .checks
        .iter()
        .map(|check| {
            let result = match check.result {
                "passed" => (Tone::Good, "ok".to_owned()),
                "failed" => (Tone::Bad, "FAILED".to_owned()),
                _ => (Tone::Bad, "ERROR".to_owned()),
            };
            let pairs = if check.failed == 0 {
                check.evaluated.to_string()
            } else {
                format!("{} of {} wrong", check.failed, check.evaluated)
            };
            vec![
                result,
                (Tone::Plain, check.expect.to_owned()),
                (Tone::Plain, pairs),
                (Tone::Plain, check.name.clone()),
            ]
        })
        .collect();
    let mut text = screen.table(&["RESULT", "EXPECT", "PAIRS", "CHECK"], &rows);
    for check in report
        .checks
        .iter()
        .filter(|check| check.result != "passed")
    {
        text.push_str(&format!(
            "\n{}:{}: {}\n",
            report.file,
            check.line,
            screen.paint(Tone::Bold, &check.name)
        ));
        text.push_str(&details(check, screen));
    }
    text.push_str(&format!(
        "\n{}: {} passed, {} failed",
        match report.checks.len() {
            1 => "1 check".to_owned(),
            n => format!("{n} checks"),
        },
        report.passed,
        report.failed
    ));
    if report.errors > 0 {
        text.push_str(&format!(", {} could not be made", report.errors));
    }
    text.push_str(&format!(" ({})\n", report.objects));
    text
}

/// What is wrong with a check, without its name.
pub(super) fn details(check: &Checked, screen: &Screen) -> String {
    let mut text = String::new();
    if let Some(reason) = &check.reason {
        text.push_str(&format!("  expected because: {reason}\n"));
    }
    if let Some(error) = &check.error {
        text.push_str(&format!("  {error}\n"));
    }
    for wrong in &check.failures {
        text.push_str(&format!(
            "  {}: {}, not {}\n",
            pair(wrong),
            screen.paint(tone(wrong.verdict), wrong.verdict),
            check.expect
        ));
        for walk in &wrong.directions {
            // Where an allowed connection was to be denied, both directions allow it; else only what does not.
            if wrong.verdict != "allow" && walk.verdict == "allow" {
                continue;
            }
            text.push_str(&format!(
                "    {}: {}, because {}\n",
                walk.direction, walk.verdict, walk.because
            ));
            if !walk.nearest.is_empty() {
                text.push_str(&format!("      nearest: {}\n", walk.nearest));
            }
            for note in &walk.notes {
                text.push_str(&format!("      note: {note}\n"));
            }
        }
    }
    let shown: u64 = check
        .failures
        .iter()
        .map(|wrong| wrong.families.len() as u64)
        .sum();
    if check.failed > shown {
        text.push_str(&format!("  and {} more\n", check.failed - shown));
    }
    text
}

/// `shop/web -> shop/db:5432/TCP (IPv4)`.
pub(super) fn pair(wrong: &Wrong) -> String {
    let destination = if wrong.destination.contains(':') {
        format!("[{}]", wrong.destination)
    } else {
        wrong.destination.clone()
    };
    format!(
        "{} -> {destination}:{}/{} ({})",
        wrong.source,
        wrong.port,
        wrong.protocol,
        wrong.families.join(" and ")
    )
}
