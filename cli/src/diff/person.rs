//! The difference for people: in a terminal, and in a pull request.

use std::fmt::Write as _;

use polproof_policy::connectivity::{
    Access, Change, Connectivity, Effect, OneSided, PortChange, Segment,
};

use super::Found;
use super::view::{Summary, edit};
use crate::args::Format;
use crate::matrix::names;
use crate::matrix::person::{escaped, markdown as table};
use crate::output::{Screen, Tone};
use crate::printable::printable;

/// Lines of a section, unless the output is wide.
const LINES: usize = 100;
/// Policies that are named for a change, unless the output is wide.
const POLICIES: usize = 3;
/// Names of new and gone workloads.
const NAMED: usize = 20;

const SECTIONS: [(Effect, &str, Tone); 4] = [
    (
        Effect::Opened,
        "Opened: denied before, allowed now",
        Tone::Bad,
    ),
    (
        Effect::Closed,
        "Closed: allowed before, denied now",
        Tone::Warn,
    ),
    (
        Effect::BecameUnknown,
        "Became unknown: the API leaves it open now",
        Tone::Warn,
    ),
    (
        Effect::BecameKnown,
        "Became known: the API left it open before",
        Tone::Plain,
    ),
];

/// For a terminal.
pub(super) fn text(found: &Found, screen: &Screen) -> String {
    let wide = screen.format == Format::Wide;
    let mut text = String::new();
    for (effect, title, tone) in SECTIONS {
        let rows = rows(found, effect, wide);
        if rows.is_empty() {
            continue;
        }
        let (shown, cut) = bounded(rows, wide);
        let _ = writeln!(text, "{}", screen.paint(tone, title));
        let cells: Vec<Vec<(Tone, String)>> = shown
            .into_iter()
            .map(|[source, destination, ports, verdict, because]| {
                vec![
                    (Tone::Plain, source),
                    (Tone::Dim, "->".to_owned()),
                    (Tone::Plain, destination),
                    (Tone::Bold, ports),
                    (Tone::Plain, verdict),
                    (Tone::Dim, because),
                ]
            })
            .collect();
        let head = [
            "SOURCE",
            "",
            "DESTINATION",
            "PORTS",
            "VERDICT",
            "BECAUSE OF",
        ];
        text.push_str(&screen.table(&head, &cells));
        if cut > 0 {
            let _ = writeln!(text, "{cut} more lines: -o wide shows all");
        }
        text.push('\n');
    }
    for (title, of, ends) in one_sided(found) {
        let (lines, more) = named(of, ends, wide);
        if !lines.is_empty() {
            let _ = writeln!(text, "{}", screen.paint(Tone::Bold, title));
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
            if more > 0 {
                let _ = writeln!(text, "  and {more} more: -o wide shows all");
            }
            text.push('\n');
        }
    }
    text.push_str(&summary(found));
    text
}

/// For a pull request.
pub(super) fn markdown(found: &Found) -> String {
    let sum = Summary::of(found);
    let mut text = if sum.changed {
        "### Connectivity changes\n\n".to_owned()
    } else {
        "### No connectivity changes\n\n".to_owned()
    };
    let _ = writeln!(
        text,
        "{}",
        escaped(summary(found).trim_end()).replace(". ", ".\n")
    );
    text.push('\n');
    for (effect, title, _) in SECTIONS {
        let rows = rows(found, effect, false);
        if rows.is_empty() {
            continue;
        }
        let (shown, cut) = bounded(rows, false);
        let head = ["source", "destination", "ports", "verdict", "because of"].map(str::to_owned);
        let all: Vec<Vec<String>> = std::iter::once(head).chain(shown).map(Vec::from).collect();
        let _ = writeln!(text, "**{title}**\n\n{}", table(&all));
        if cut > 0 {
            let _ = writeln!(
                text,
                "{cut} more lines; `polproof diff -o wide` shows all.\n"
            );
        }
    }
    for (title, of, ends) in one_sided(found) {
        let (lines, more) = named(of, ends, false);
        if lines.is_empty() {
            continue;
        }
        let _ = writeln!(text, "**{title}**\n");
        for line in lines {
            let _ = writeln!(text, "- {}", escaped(&line));
        }
        if more > 0 {
            let _ = writeln!(text, "- and {more} more");
        }
        text.push('\n');
    }
    text
}

fn bounded(mut rows: Vec<[String; 5]>, all: bool) -> (Vec<[String; 5]>, usize) {
    let cut = if all {
        0
    } else {
        rows.len().saturating_sub(LINES)
    };
    rows.truncate(rows.len().saturating_sub(cut));
    (rows, cut)
}

/// Source, destination, ports, verdicts, policies.
fn rows(found: &Found, effect: Effect, all: bool) -> Vec<[String; 5]> {
    let ends = found.after.ends();
    let words = |some: &[usize]| {
        if all {
            names::ends(ends, some, usize::MAX)
        } else {
            names::few(ends, some)
        }
    };
    let mut rows = Vec::new();
    for change in &found.difference.changes {
        for (ports, before, after) in together(change, effect) {
            rows.push([
                words(&change.sources),
                words(&change.destinations),
                ports,
                format!("{} => {}", names::access(&before), names::access(&after)),
                because(found, change, all),
            ]);
        }
    }
    rows
}

/// The ports of a change with one effect, by their verdicts.
fn together(change: &Change, effect: Effect) -> Vec<(String, Access, Access)> {
    let mut found: Vec<(Vec<&PortChange>, Access, Access)> = Vec::new();
    for of in change.ports.iter().filter(|of| of.effect() == effect) {
        let same = found.iter_mut().find(|(ports, before, after)| {
            (*before, *after) == (of.before, of.after)
                && ports.iter().all(|other| other.families == of.families)
        });
        match same {
            Some((ports, ..)) => ports.push(of),
            None => found.push((vec![of], of.before, of.after)),
        }
    }
    // Where all changes are of the same families, they need not be told.
    let one = change.ports.windows(2).all(|pair| match pair {
        [one, two] => one.families == two.families,
        _ => true,
    });
    found
        .into_iter()
        .map(|(ports, before, after)| {
            let segments: Vec<Segment> = ports
                .iter()
                .map(|of| Segment {
                    protocol: of.protocol,
                    first: of.first,
                    last: of.last,
                    access: of.after,
                })
                .collect();
            let families = ports
                .first()
                .map(|of| of.families.as_slice())
                .unwrap_or_default();
            let mark = match families {
                [family] if !one => format!(" ({})", names::family(*family)),
                _ => String::new(),
            };
            (
                format!("{}{mark}", names::segments(&segments)),
                before,
                after,
            )
        })
        .collect()
}

/// The policies, the first few of them unless all are asked for: a default-deny has all rules beside it.
fn because(found: &Found, change: &Change, all: bool) -> String {
    if change.responsible.is_empty() {
        return "no policy: labels, ports or addresses changed".to_owned();
    }
    let words: Vec<String> = change
        .responsible
        .iter()
        .filter_map(|of| {
            let policy = found.difference.policies.changes.get(of.policy)?;
            let name = if policy.id.namespace.is_empty() {
                format!("{} {}", policy.kind.name(), policy.id.name)
            } else {
                policy.id.to_string()
            };
            Some(format!("{} {name} ({})", of.direction, edit(policy.edit)))
        })
        .collect();
    let shown = if all {
        words.len()
    } else {
        words.len().min(POLICIES)
    };
    let more = match words.len().saturating_sub(shown) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let words: Vec<String> = words.into_iter().take(shown).collect();
    printable(format!("{}{more}", words.join(", ")))
}

fn one_sided(found: &Found) -> [(&'static str, &Connectivity, &[OneSided]); 2] {
    let difference = &found.difference;
    [
        (
            "New workloads (not counted above)",
            &found.after,
            &difference.new,
        ),
        (
            "Workloads that are gone (not counted above)",
            &found.before,
            &difference.gone,
        ),
    ]
}

fn named(of: &Connectivity, ends: &[OneSided], all: bool) -> (Vec<String>, usize) {
    let shown = if all {
        ends.len()
    } else {
        ends.len().min(NAMED)
    };
    let lines = ends
        .iter()
        .take(shown)
        .filter_map(|one| {
            let end = of.ends().get(one.end)?;
            let outside = |may: bool| if may { " and outside" } else { "" };
            let workloads = |count: u64| match count {
                1 => "1 workload".to_owned(),
                count => format!("{count} workloads"),
            };
            Some(printable(format!(
                "{end}: reached from {}{}, reaches {}{}",
                workloads(one.from),
                outside(one.from_outside),
                workloads(one.to),
                outside(one.to_outside)
            )))
        })
        .collect();
    (lines, ends.len().saturating_sub(shown))
}

fn summary(found: &Found) -> String {
    let sum = Summary::of(found);
    let outside = found
        .after
        .ends()
        .iter()
        .filter(|end| end.block.is_some())
        .count();
    let policies = &found.difference.policies.changes;
    let count = |wanted| policies.iter().filter(|of| edit(of.edit) == wanted).count();
    let mut text = String::new();
    if sum.changed {
        let _ = write!(
            text,
            "{} {} opened, {} closed",
            sum.opened,
            if sum.opened == 1 { "pair" } else { "pairs" },
            sum.closed
        );
        if sum.became_unknown > 0 {
            let _ = write!(text, ", {} became unknown", sum.became_unknown);
        }
        if sum.became_known > 0 {
            let _ = write!(text, ", {} became known", sum.became_known);
        }
    } else {
        text.push_str("No connectivity changed");
    }
    let _ = writeln!(
        text,
        " between the {} workloads of both sides and what is outside. Policies: {} added, {} removed, {} changed; \
         workloads: {} new, {} gone.",
        sum.common.saturating_sub(outside),
        count("added"),
        count("removed"),
        count("changed"),
        sum.new,
        sum.gone
    );
    text
}
