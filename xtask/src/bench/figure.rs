//! Figures, what they should be, and the table of both.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Section;

/// One figure.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Figure {
    /// What was measured, if there are several: a size, a command. A column of the table.
    #[serde(default)]
    pub(super) of: String,
    pub(super) name: String,
    pub(super) value: f64,
    #[serde(default)]
    pub(super) unit: String,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {}", number(bound)),
            Self::AtMost(bound) => format!("<= {}", number(bound)),
        }
    }
}

/// A promise: the figure's name, of what (nothing: of all that are measured), and its bound in the unit of the figure.
struct Goal {
    section: Section,
    of: &'static str,
    name: &'static str,
    bound: Bound,
}

const fn goal(section: Section, of: &'static str, name: &'static str, bound: Bound) -> Goal {
    Goal {
        section,
        of,
        name,
        bound,
    }
}

/// Of memory: an audit must fit beside a CI job.
const MEMORY: Bound = Bound::AtMost(500.0);

const GOALS: [Goal; 24] = {
    use Bound::{AtLeast, AtMost};
    use Section::{Audit, Bpf, Command, Engine, Matrix};
    [
        goal(Engine, "1k x 10k", "verdicts_per_second", AtLeast(5e6)),
        goal(Engine, "1k x 10k", "compile_ms", AtMost(300.0)),
        goal(Engine, "1k x 10k", "pod_change_us_median", AtMost(50.0)),
        goal(Audit, "", "audit_s", AtMost(5.0)),
        goal(Audit, "", "audit_peak_mib", MEMORY),
        goal(Matrix, "", "workload_s", AtMost(10.0)),
        goal(Matrix, "", "workload_peak_mib", MEMORY),
        goal(Matrix, "", "diff_peak_mib", MEMORY),
        goal(Command, "audit", "seconds", AtMost(5.0)),
        goal(Command, "matrix", "seconds", AtMost(10.0)),
        goal(Command, "", "peak_mib", MEMORY),
        goal(Command, "explain", "questions_per_second", AtLeast(1e5)),
        goal(Bpf, "", "bpf.established.ingress.net", AtMost(5.0)),
        goal(Bpf, "", "bpf.established.egress.net", AtMost(5.0)),
        goal(Bpf, "", "bpf.connect_close.v4.tcx", AtMost(1.03)),
        goal(Bpf, "", "bpf.connect_close.v6.tcx", AtMost(1.03)),
        goal(Bpf, "", "bpf.request_response.v4.tcx", AtMost(1.02)),
        goal(Bpf, "", "bpf.request_response.v6.tcx", AtMost(1.02)),
        goal(Bpf, "", "bpf.udp_stream.v4.tcx", AtMost(1.05)),
        goal(Bpf, "", "bpf.udp_stream.v6.tcx", AtMost(1.05)),
        goal(Bpf, "", "bpf.udp_new_socket.v4.tcx", AtMost(1.05)),
        goal(Bpf, "", "bpf.udp_new_socket.v6.tcx", AtMost(1.05)),
        goal(Bpf, "", "agent.cpu", AtMost(15.0)),
        goal(Bpf, "", "agent.rss", AtMost(64.0)),
    ]
};

impl Figure {
    /// Reads a line of output, if it is one of JSON.
    pub(super) fn read(line: &str) -> Result<Option<Self>> {
        if !line.trim_start().starts_with('{') {
            return Ok(None);
        }
        let figure: Self = serde_json::from_str(line)
            .with_context(|| format!("the benchmark printed a figure that is none: {line}"))?;
        ensure!(
            figure.value.is_finite(),
            "{}: {} is no figure",
            figure.name,
            figure.value
        );
        Ok(Some(figure))
    }

    fn text(&self, goals: &[&Goal]) -> String {
        let text = format!("{} {}", number(self.value), self.unit);
        let text = text.trim_end();
        let missed = |goal: &&Goal| goal.is_of(&self.of) && !goal.bound.met_by(self.value);
        if goals.iter().any(missed) {
            return format!("**{text}**");
        }
        text.to_owned()
    }
}

impl Goal {
    fn is_of(&self, column: &str) -> bool {
        self.of.is_empty() || self.of == column
    }

    /// `audit: <= 5.000, met`.
    fn text(&self, row: &[&Figure]) -> String {
        let values: Vec<f64> = row
            .iter()
            .filter(|figure| self.is_of(&figure.of))
            .map(|figure| figure.value)
            .collect();
        let verdict = match values.as_slice() {
            [] => "not measured",
            values if values.iter().all(|value| self.bound.met_by(*value)) => "met",
            _ => "NOT MET",
        };
        let bound = self.bound.text();
        if self.of.is_empty() {
            return format!("{bound}: {verdict}");
        }
        format!("{} {bound}: {verdict}", self.of)
    }
}

/// Figures as a table with a row for each name and a column for each thing measured; those that miss their goal are bold.
pub(super) fn table(section: Section, figures: &[Figure]) -> String {
    let (mut columns, mut names) = (Vec::new(), Vec::new());
    let goals: Vec<&Goal> = GOALS.iter().filter(|it| it.section == section).collect();
    for figure in figures {
        if !columns.contains(&figure.of.as_str()) {
            columns.push(&figure.of);
        }
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    for goal in &goals {
        if !names.contains(&goal.name) {
            names.push(goal.name);
        }
    }
    let mut head = vec!["figure".to_owned()];
    head.extend(columns.iter().map(|of| match *of {
        "" => "measured".to_owned(),
        of => of.to_owned(),
    }));
    head.push("goal".to_owned());
    let mut rows = vec![head];
    for name in names {
        let row: Vec<&Figure> = figures.iter().filter(|it| it.name == name).collect();
        let goals: Vec<&Goal> = goals.iter().copied().filter(|it| it.name == name).collect();
        let mut cells = vec![name.to_owned()];
        for column in &columns {
            let figure = row.iter().find(|it| it.of == *column);
            cells.push(figure.map_or_else(String::new, |it| it.text(&goals)));
        }
        let goals: Vec<String> = goals.iter().map(|goal| goal.text(&row)).collect();
        cells.push(goals.join("; "));
        rows.push(cells);
    }
    markdown(&rows)
}

/// A Markdown table that is also readable as text.
fn markdown(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 3);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut lines = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        lines.push(format!("| {} |", cells.join(" | ")));
        if index == 0 {
            let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            lines.push(format!("| {} |", dashes.join(" | ")));
        }
    }
    lines.join("\n")
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.2} M", value / 1e6),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn figure(of: &str, name: &str, value: f64) -> Figure {
        Figure {
            of: of.into(),
            name: name.into(),
            value,
            unit: "u".into(),
        }
    }

    #[test]
    fn figures_are_taken_out_of_the_output_and_a_broken_one_is_an_error() {
        let read = Figure::read(r#"{"of":"a","name":"compile_ms","value":12.5,"unit":"u"}"#);
        assert_eq!(read.unwrap(), Some(figure("a", "compile_ms", 12.5)));
        assert_eq!(Figure::read("running 1 benchmark").unwrap(), None);
        assert!(Figure::read(r#"{"name":"x"}"#).is_err());
    }

    #[test]
    fn the_table_says_what_was_met_and_what_was_not_measured() {
        let text = table(
            Section::Engine,
            &[
                figure("1k x 10k", "compile_ms", 400.0),
                figure("1k x 10k", "verdicts_per_second", 6e6),
                figure("1k x 10k", "other", 1.0),
                figure("5k x 100k", "compile_ms", 4000.0),
            ],
        );
        let line = |name: &str| {
            text.lines()
                .find(|line| line.contains(name))
                .unwrap()
                .to_owned()
        };
        assert!(line("compile_ms").contains("NOT MET"), "{text}");
        assert!(line("compile_ms").contains("**400 u**"), "{text}");
        // The goal is for the other size.
        assert!(line("compile_ms").contains("| 4000 u"), "{text}");
        assert!(line("verdicts_per_second").contains(": met"), "{text}");
        assert!(
            line("pod_change_us_median").contains("not measured"),
            "{text}"
        );
        assert!(!line("other").contains("met"), "{text}");
    }

    #[test]
    fn a_goal_of_all_columns_is_missed_by_one() {
        let text = table(
            Section::Audit,
            &[
                figure("usual", "audit_s", 1.0),
                figure("hard", "audit_s", 6.0),
            ],
        );
        assert!(text.contains("| 1 u "), "{text}");
        assert!(text.contains("| **6 u** "), "{text}");
        assert!(text.contains("<= 5: NOT MET"), "{text}");
    }
}
