//! The matrix as a picture that stands by itself: sources down, destinations across, a square for each pair.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use polproof_policy::connectivity::{Access, Cell};

use super::{Found, names};
use crate::failure::Failure;

/// Ends on a side.
const MOST: usize = 250;
/// A square.
const SIDE: usize = 18;
/// Of a letter of 11 pixels, about.
const LETTER: usize = 7;
const TOP: usize = 92;

const ALL: &str = "#1a7f5a";
const SOME: &str = "#8fcfa8";
const NONE: &str = "#f1f1ee";
const OPEN: &str = "#f2b134";
const MIXED: &str = "#5b8fd6";

/// The picture.
pub(super) fn picture(found: &Found) -> Result<String, Failure> {
    let ends = found.matrix.ends();
    let mut cells: BTreeMap<(usize, usize), &Cell> = BTreeMap::new();
    let count: usize = found
        .connections
        .iter()
        .map(|of| of.sources.len().saturating_mul(of.destinations.len()))
        .fold(0, usize::saturating_add);
    let too_many = |number: usize| {
        Failure::usage(format!(
            "{number} ends are too many for a picture (at most {MOST}): narrow it with -n, --from or --to, or give \
             --by namespace"
        ))
    };
    if count > MOST * MOST {
        return Err(too_many(ends.len()));
    }
    for connection in &found.connections {
        for source in &connection.sources {
            for destination in &connection.destinations {
                if source != destination || super::csv::has_others(&found.matrix, *source) {
                    cells.insert((*source, *destination), &connection.cell);
                }
            }
        }
    }
    // Asked about a namespace, nobody wants a row for each workload elsewhere that has nothing to do with it.
    let either = &found.wanted.ends.either;
    let chosen = |end: usize| either.is_empty() || either.get(end) == Some(&true);
    let linked: BTreeMap<(usize, usize), bool> = cells
        .iter()
        .map(|(pair, cell)| (*pair, either.is_empty() || meaning(found, cell).0 != NONE))
        .collect();
    let side = |end: fn(&(usize, usize)) -> usize| -> Vec<usize> {
        let shown = linked
            .iter()
            .filter(|(pair, linked)| **linked || chosen(end(pair)));
        shown.map(|(pair, _)| end(pair)).collect()
    };
    let mut sources = side(|(source, _)| *source);
    let mut destinations = side(|(_, destination)| *destination);
    for side in [&mut sources, &mut destinations] {
        side.sort_unstable();
        side.dedup();
        if side.len() > MOST {
            return Err(too_many(side.len()));
        }
    }
    let name = |end: &usize| ends.get(*end).map(ToString::to_string).unwrap_or_default();
    let longest = |of: &[usize]| {
        of.iter()
            .map(|end| name(end).chars().count())
            .max()
            .unwrap_or(0)
    };
    let left = (longest(&sources) * LETTER + 24).clamp(160, 460);
    let head = (longest(&destinations) * 5 + 24).clamp(60, 330);
    let (across, down) = (destinations.len() * SIDE, sources.len() * SIDE);
    let width = (left + across + head).max(760);
    let height = TOP + head + down + 24;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"11\" fill=\"#222\">\n<title>Who may talk to whom</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"16\" font-weight=\"600\">Who may talk to whom</text>\n\
         <text x=\"12\" y=\"42\" fill=\"#666\">{}: rows connect to columns; point at a square for its ports</text>\n",
        escaped(&found.name)
    );
    legend(&mut text);
    for (at, destination) in destinations.iter().enumerate() {
        let (x, y) = (left + at * SIDE + SIDE / 2 + 4, TOP + head - 6);
        let shown = escaped(&clip(&name(destination), 60));
        let full = escaped(&name(destination));
        let _ = writeln!(
            text,
            "<text transform=\"translate({x},{y}) rotate(-55)\">{shown}<title>{full}</title></text>"
        );
    }
    let top = TOP + head;
    for (row, source) in sources.iter().enumerate() {
        let y = top + row * SIDE;
        let shown = escaped(&clip(&name(source), 62));
        let full = escaped(&name(source));
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{shown}<title>{full}</title></text>",
            left - 8,
            y + 13
        );
        for (column, destination) in destinations.iter().enumerate() {
            let Some(cell) = cells.get(&(*source, *destination)) else {
                continue;
            };
            let x = left + column * SIDE;
            let (colour, says) = meaning(found, cell);
            let title = escaped(&format!(
                "{} -> {}\n{says}",
                name(source),
                name(destination)
            ));
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{0}\" height=\"{0}\" rx=\"2\" fill=\"{colour}\"><title>{title}</title></rect>",
                SIDE - 2
            );
        }
    }
    separators(&mut text, found, &sources, left, top, across, true);
    separators(&mut text, found, &destinations, left, top, down, false);
    text.push_str("</svg>\n");
    Ok(text)
}

fn legend(text: &mut String) {
    let mut x = 12;
    for (colour, word) in [
        (ALL, "every port"),
        (SOME, "some ports"),
        (NONE, "denied"),
        (MIXED, "pods differ"),
        (OPEN, "left open by the API"),
    ] {
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"56\" width=\"14\" height=\"14\" rx=\"2\" fill=\"{colour}\" stroke=\"#bbb\" stroke-width=\"0.5\"/>\
             <text x=\"{}\" y=\"67\">{word}</text>",
            x + 20
        );
        x += 20 + word.len() * LETTER + 18;
    }
}

/// A line where the namespace changes.
fn separators(
    text: &mut String,
    found: &Found,
    side: &[usize],
    left: usize,
    top: usize,
    length: usize,
    rows: bool,
) {
    let namespace = |end: &usize| found.matrix.ends().get(*end).map(|end| &*end.namespace);
    let pairs = side.iter().zip(side.iter().skip(1)).enumerate();
    for (at, _) in pairs.filter(|(_, (one, two))| namespace(one) != namespace(two)) {
        let place = (at + 1) * SIDE - 1;
        let (x1, y1, x2, y2) = if rows {
            (left - 4, top + place, left + length, top + place)
        } else {
            (left + place, top - 4, left + place, top + length)
        };
        let _ = writeln!(
            text,
            "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" stroke=\"#999\" stroke-width=\"1\"/>"
        );
    }
}

/// A colour, and the ports.
fn meaning(found: &Found, cell: &Cell) -> (&'static str, String) {
    let mut says: Vec<String> = Vec::new();
    let mut any = [false; 4];
    for (families, ports) in found.matrix.verdicts(cell) {
        let families: Vec<_> = families.into_iter().map(names::family).collect();
        let segments: Vec<_> = match found.wanted.port {
            Some(_) => found.wanted.segments(&ports),
            None => ports.segments().collect(),
        };
        for (access, segments) in names::by_access(&segments) {
            let place = match access {
                Access::Allow => 0,
                Access::Deny => 1,
                Access::Unknown(_) => 2,
                Access::Mixed(_) => 3,
            };
            if let Some(any) = any.get_mut(place) {
                *any = true;
            }
            says.push(format!(
                "{}: {} ({})",
                names::access(&access),
                names::segments(&segments),
                families.join(", ")
            ));
        }
    }
    let colour = match any {
        [true, false, false, false] => ALL,
        [_, _, _, true] => MIXED,
        [true, ..] => SOME,
        [false, _, true, false] => OPEN,
        _ => NONE,
    };
    (colour, says.join("\n"))
}

fn clip(text: &str, width: usize) -> String {
    crate::output::cut(text, width)
}

/// Text within an element.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' => safe.push('\n'),
            other if other.is_control() => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}
