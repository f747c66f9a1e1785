//! The matrix as CSV: a row for each pair and run of ports, written as it is found.

use std::collections::BTreeMap;

use polproof_policy::connectivity::{Access, Connectivity};

use super::filter::Wanted;
use super::{names, view};
use crate::args::Matrix as Options;
use crate::failure::Failure;
use crate::matrix::progress::Progress;
use crate::output::Screen;

/// Rows are handed to stdout when they are this many bytes.
const CHUNK: usize = 1 << 20;

/// Every pair, those that are denied included; no more is held than what is found for groups of equal ends.
pub(super) fn print(
    matrix: &mut Connectivity,
    wanted: &Wanted,
    options: &Options,
    screen: &Screen,
) -> Result<(), Failure> {
    let mut progress = Progress::new("matrix", options.progress);
    let (connections, _) = matrix.fold(
        &wanted.ends,
        |ports| wanted.keeps(ports, |_| true),
        |done, all| progress.step(done, all),
    );
    progress.end();
    let names: Vec<String> = matrix
        .ends()
        .iter()
        .map(|end| field(&end.to_string()))
        .collect();
    let mut text =
        "source,destination,families,protocol,first_port,last_port,verdict,detail\n".to_owned();
    let mut rests = BTreeMap::new();
    for connection in &connections {
        let rests = rests.entry(connection.cell).or_insert_with(|| {
            let rows = view::rows(matrix, wanted, &connection.cell).into_iter();
            rows.map(|(families, of)| {
                let detail = match of.access {
                    Access::Allow | Access::Deny => String::new(),
                    Access::Unknown(reason) => field(&reason.to_string()),
                    Access::Mixed(_) => field(&names::access(&of.access)),
                };
                let word = names::word(&of.access);
                let families = families.join(" ");
                format!(
                    "{families},{},{},{},{word},{detail}",
                    of.protocol, of.first, of.last
                )
            })
            .collect::<Vec<String>>()
        });
        for source in &connection.sources {
            for destination in &connection.destinations {
                if source == destination && !has_others(matrix, *source) {
                    continue;
                }
                let (Some(from), Some(to)) = (names.get(*source), names.get(*destination)) else {
                    continue;
                };
                for rest in rests.iter() {
                    text.push_str(from);
                    text.push(',');
                    text.push_str(to);
                    text.push(',');
                    text.push_str(rest);
                    text.push('\n');
                }
                if text.len() > CHUNK {
                    screen.write(&text)?;
                    text.clear();
                }
            }
        }
    }
    screen.write(&text)
}

/// A pod by itself is no pair.
pub(super) fn has_others(matrix: &Connectivity, end: usize) -> bool {
    matrix
        .ends()
        .get(end)
        .is_some_and(|end| end.pods.len() > 1 || &*end.owner != "Pod")
}

/// Quoted where it must be; what a spreadsheet would take for a formula is made text.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}
