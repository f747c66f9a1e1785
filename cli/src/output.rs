//! Where things are printed, and how.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::args::{Format, When};
use crate::failure::{FINE, Failure};
use crate::printable::printable;

/// Stdout with a format.
#[derive(Debug)]
pub(crate) struct Screen {
    /// Table, JSON or YAML.
    pub(crate) format: Format,
    color: bool,
    /// Columns of the terminal, if it is one.
    width: Option<usize>,
}

/// No column becomes narrower than this.
const NARROWEST: usize = 10;

/// What a word means, and so its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it is.
    Plain,
    /// Headings.
    Bold,
    /// Something is wrong.
    Bad,
    /// Look at it.
    Warn,
    /// Fine.
    Good,
    /// Less important.
    Dim,
}

impl Screen {
    /// Looks at the terminal and at NO_COLOR.
    pub(crate) fn new(format: Format, color: When) -> Self {
        let color = match color {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                std::io::stdout().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        };
        let width = terminal_size::terminal_size_of(std::io::stdout())
            .map(|(terminal_size::Width(width), _)| usize::from(width));
        Self {
            format,
            color,
            width,
        }
    }

    /// A word in its colour.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Bold => "1",
            Tone::Bad => "1;31",
            Tone::Warn => "33",
            Tone::Good => "32",
            Tone::Dim => "2",
        };
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// Whether the format is one for people.
    pub(crate) const fn for_people(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Makes the widest columns narrower until a row fits into the terminal: a row that wraps is no row. Wide tables,
    /// and those that go to a file or a pipe, are left as they are.
    pub(crate) fn fit(&self, widths: &mut [usize]) {
        let (Some(room), Format::Table) = (self.width, self.format) else {
            return;
        };
        loop {
            let total = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
            let widest = widths.iter_mut().max();
            match widest {
                Some(width) if total > room && *width > NARROWEST => {
                    *width -= 1;
                }
                _ => return,
            }
        }
    }

    /// Writes to stdout. A reader that has gone (`| head`) ends the command quietly.
    pub(crate) fn write(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::BrokenPipe => Failure {
                    message: String::new(),
                    code: FINE,
                },
                _ => Failure::usage(format!("cannot write to stdout: {error}")),
            })
    }

    /// Writes a value as one JSON or YAML document.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = match self.format {
            Format::Yaml => serde_saphyr::to_string(value)
                .map_err(|error| Failure::usage(format!("cannot write YAML: {error}")))?,
            _ => {
                let mut text = serde_json::to_string_pretty(value)
                    .map_err(|error| Failure::usage(format!("cannot write JSON: {error}")))?;
                text.push('\n');
                text
            }
        };
        self.write(&text)
    }

    /// Writes one value of a stream: a line of JSON, or a YAML document.
    pub(crate) fn item<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        if self.format == Format::Yaml {
            self.write("---\n")?;
            return self.document(value);
        }
        let mut text = serde_json::to_string(value)
            .map_err(|error| Failure::usage(format!("cannot write JSON: {error}")))?;
        text.push('\n');
        self.write(&text)
    }

    /// Rows under a heading, in columns. The last column is not padded.
    pub(crate) fn table(&self, head: &[&str], rows: &[Vec<(Tone, String)>]) -> String {
        let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
        for row in rows {
            for (width, (_, cell)) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        self.fit(&mut widths);
        let heading = head
            .iter()
            .map(|cell| (Tone::Bold, (*cell).to_owned()))
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&heading).chain(rows) {
            let mut line = String::new();
            for (index, ((tone, cell), width)) in row.iter().zip(&widths).enumerate() {
                let cell = cut(cell, *width);
                line.push_str(&self.paint(*tone, &cell));
                if index + 1 < row.len() {
                    let gap = width.saturating_sub(cell.chars().count()) + 2;
                    line.extend(std::iter::repeat_n(' ', gap));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The text, or its beginning if it is too long.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// A line on stderr, for what is not part of the answer.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "polproof: {}", printable(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_into_the_terminal() {
        let row: Vec<_> = [
            "11s ago",
            "monitoring/prometheus-0",
            "shop/db:5432/TCP (IPv6)",
            "1234",
            "provisional",
            "ingress shop/default-deny +2",
        ]
        .map(|cell| (Tone::Plain, cell.to_owned()))
        .to_vec();
        let head = [
            "SEEN",
            "SOURCE",
            "DESTINATION",
            "COUNT",
            "STATE",
            "DENIED BY",
        ];
        let longest = |format, width| {
            let screen = Screen {
                format,
                color: false,
                width,
            };
            screen
                .table(&head, std::slice::from_ref(&row))
                .lines()
                .map(|line| line.chars().count())
                .max()
        };
        assert_eq!(longest(Format::Table, Some(80)), Some(80));
        assert_eq!(longest(Format::Table, Some(100)), Some(100));
        let whole = longest(Format::Table, None);
        assert_eq!(longest(Format::Table, Some(200)), whole);
        assert_eq!(longest(Format::Wide, Some(80)), whole);
        assert!(longest(Format::Table, Some(1)) < Some(80));
    }
}
