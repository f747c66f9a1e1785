//! The matrix for people: a grid if it is small, and a list by destination namespace.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use polproof_policy::connectivity::{Access, Cell, Segment};

use super::{Found, names, view};
use crate::args::Format;
use crate::output::{Screen, Tone};

/// Lines of the list, unless it is wide.
const LINES: usize = 200;
/// Ends in a grid.
const GRID: usize = 12;
/// A cell of a grid.
const WIDEST: usize = 18;

/// A line of the list.
struct Line {
    sources: String,
    destinations: String,
    ports: String,
    access: Access,
}

/// All of it.
pub(super) fn text(found: &mut Found, screen: &Screen) -> String {
    let markdown = screen.format == Format::Markdown;
    let near = view::own_node(&mut found.matrix, &found.wanted);
    let mut text = String::new();
    if let Some(grid) = grid(found) {
        if markdown {
            text.push_str(&crate::matrix::person::markdown(&grid));
        } else {
            let head: Vec<&str> = grid
                .first()
                .map(|row| row.iter().map(String::as_str).collect())
                .unwrap_or_default();
            let rows: Vec<Vec<(Tone, String)>> = grid
                .iter()
                .skip(1)
                .map(|row| {
                    row.iter()
                        .map(|cell| (tone_of(cell), cell.clone()))
                        .collect()
                })
                .collect();
            text.push_str(&screen.table(&head, &rows));
        }
        text.push('\n');
    }
    let mut left = if screen.format == Format::Table {
        LINES
    } else {
        usize::MAX
    };
    let mut cut = 0_usize;
    for (namespace, lines) in lines(found, screen) {
        let shown = lines.len().min(left);
        left -= shown;
        cut += lines.len() - shown;
        if shown == 0 {
            continue;
        }
        let title = if namespace.is_empty() {
            "to outside the cluster"
        } else {
            &*namespace
        };
        let rows: Vec<[String; 4]> = lines
            .into_iter()
            .take(shown)
            .map(|line| {
                [
                    line.sources,
                    line.destinations,
                    line.ports,
                    names::access(&line.access),
                ]
            })
            .collect();
        if markdown {
            let _ = writeln!(text, "**{title}**\n");
            let head = ["source", "destination", "ports", "verdict"].map(str::to_owned);
            let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).map(Vec::from).collect();
            text.push_str(&self::markdown(&all));
        } else {
            let title = if namespace.is_empty() {
                title.to_owned()
            } else {
                format!("to namespace {title}")
            };
            let _ = writeln!(text, "{}", screen.paint(Tone::Bold, &title));
            let rows: Vec<Vec<(Tone, String)>> = rows
                .into_iter()
                .map(|[sources, destinations, ports, access]| {
                    let tone = tone_of(&access);
                    vec![
                        (Tone::Plain, sources),
                        (Tone::Dim, "->".to_owned()),
                        (Tone::Plain, destinations),
                        (Tone::Plain, ports),
                        (tone, access),
                    ]
                })
                .collect();
            text.push_str(&screen.table(&["SOURCE", "", "DESTINATION", "PORTS", "VERDICT"], &rows));
        }
        text.push('\n');
    }
    if cut > 0 {
        let _ = writeln!(
            text,
            "{cut} more lines: narrow it with -n, --from, --to or --port, give --by namespace, or -o wide or json for all\n"
        );
    }
    text.push_str(&summary(found, near.len()));
    text
}

fn summary(found: &Found, near: usize) -> String {
    let totals = &found.totals;
    let mut text = format!(
        "{} ends, {} pairs: {} may connect on every port, {} on some, {} on none",
        found.matrix.ends().len(),
        totals.pairs,
        totals.all,
        totals.some,
        totals.none
    );
    if totals.unknown > 0 {
        let _ = write!(text, ", {} are left open by the API", totals.unknown);
    }
    text.push_str(".\n");
    if found.wanted.only.is_none() {
        text.push_str("What is not listed is denied. A pod always reaches itself.\n");
    }
    if near > 0 {
        text.push_str(
            "hostNetwork pods are shown as the nodes that others are on; between a pod and its own node other rules hold \
             (-o json: own_node).\n",
        );
    }
    text
}

fn tone_of(text: &str) -> Tone {
    match text {
        "allow" | "all" => Tone::Good,
        "deny" | "-" => Tone::Dim,
        _ if text.starts_with("unknown") || text.starts_with("mixed") || text == "?" => Tone::Warn,
        _ => Tone::Plain,
    }
}

/// By namespace of the destination (empty is outside).
fn lines(found: &Found, screen: &Screen) -> BTreeMap<String, Vec<Line>> {
    let ends = found.matrix.ends();
    let mut by_namespace: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    let words = |some: &[usize]| {
        if screen.format == Format::Table {
            names::few(ends, some)
        } else {
            names::ends(ends, some, usize::MAX)
        }
    };
    for connection in &found.connections {
        let sources = words(&connection.sources);
        let mut destinations: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for end in &connection.destinations {
            if let Some(of) = ends.get(*end) {
                destinations.entry(&of.namespace).or_default().push(*end);
            }
        }
        let mut rows: Vec<(String, Access)> = Vec::new();
        let verdicts = found.matrix.verdicts(&connection.cell);
        for (families, ports) in &verdicts {
            let mark = match families.as_slice() {
                [family] if verdicts.len() > 1 => format!(" ({})", names::family(*family)),
                _ => String::new(),
            };
            for (access, segments) in names::by_access(&found.wanted.segments(ports)) {
                if access == Access::Deny && found.wanted.only.is_none() {
                    continue;
                }
                rows.push((format!("{}{mark}", names::segments(&segments)), access));
            }
        }
        for (namespace, destinations) in destinations {
            let destinations = words(&destinations);
            let lines = by_namespace.entry(namespace.to_owned()).or_default();
            lines.extend(rows.iter().map(|(ports, access)| Line {
                sources: sources.clone(),
                destinations: destinations.clone(),
                ports: ports.clone(),
                access: *access,
            }));
        }
    }
    by_namespace
}

/// Rows of cells, the first one the heading: destinations by number. Only if all ends fit.
fn grid(found: &Found) -> Option<Vec<Vec<String>>> {
    let ends = found.matrix.ends();
    let of =
        |list: &[bool], end: usize| list.is_empty() || list.get(end).copied().unwrap_or_default();
    let filter = &found.wanted.ends;
    let pairs = |source: usize, destination: usize| found.wanted.pair(source, destination, ends);
    let all = 0..ends.len();
    let any_to = |source: usize| (0..ends.len()).any(|to| pairs(source, to));
    let any_from = |to: usize| (0..ends.len()).any(|source| pairs(source, to));
    if ends.len() > 8 * GRID {
        return None;
    }
    let sources: Vec<usize> = all
        .clone()
        .filter(|end| of(&filter.sources, *end) && any_to(*end))
        .collect();
    let destinations: Vec<usize> = all
        .filter(|end| of(&filter.destinations, *end) && any_from(*end))
        .collect();
    let fits = |ends: &[usize]| (2..=GRID).contains(&ends.len());
    if !fits(&sources) || !fits(&destinations) {
        return None;
    }
    let mut cells: BTreeMap<(usize, usize), &Cell> = BTreeMap::new();
    for connection in &found.connections {
        for source in &connection.sources {
            for destination in &connection.destinations {
                cells.insert((*source, *destination), &connection.cell);
            }
        }
    }
    let number = |end: usize| format!("[{}]", end + 1);
    let mut head = vec!["FROM \\ TO".to_owned()];
    head.extend(destinations.iter().map(|end| number(*end)));
    let mut rows = vec![head];
    for source in sources {
        let name = ends
            .get(source)
            .map(ToString::to_string)
            .unwrap_or_default();
        let mut row = vec![format!(
            "{} {}",
            number(source),
            crate::printable::printable(name)
        )];
        for destination in &destinations {
            let itself = source == *destination && !super::csv::has_others(&found.matrix, source);
            row.push(match cells.get(&(source, *destination)) {
                _ if itself || !pairs(source, *destination) => String::new(),
                Some(cell) => short(found, cell),
                None => "-".to_owned(),
            });
        }
        rows.push(row);
    }
    Some(rows)
}

/// What is allowed, in a word.
fn short(found: &Found, cell: &Cell) -> String {
    let mut words: Vec<String> = Vec::new();
    for (_, ports) in found.matrix.verdicts(cell) {
        let shown = found.wanted.segments(&ports);
        let open: Vec<Segment> = shown
            .iter()
            .filter(|of| found.wanted.only.is_some() || of.access != Access::Deny)
            .copied()
            .collect();
        if open.is_empty() {
            continue;
        }
        let sure = open
            .iter()
            .all(|of| matches!(of.access, Access::Allow | Access::Deny));
        let text = names::segments(&open);
        words.push(if sure { text } else { format!("{text}?") });
    }
    words.dedup();
    let text = words.join(" | ");
    match text.chars().count() {
        0 => "-".to_owned(),
        length if length > WIDEST => "some".to_owned(),
        _ => text,
    }
}

/// A table in Markdown; the first row is its heading.
pub(crate) fn markdown(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        for cell in row {
            let _ = write!(text, "| {} ", escaped(cell));
        }
        text.push_str("|\n");
        if at == 0 {
            text.push_str(&"| --- ".repeat(row.len()));
            text.push_str("|\n");
        }
    }
    text
}

/// Text that Markdown shows as it is.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' | '*' | '_' | '`' | '[' | ']' | '<' | '>' | '\\' | '#' | '~' => {
                safe.push('\\');
                safe.push(character);
            }
            '\n' | '\r' => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}
