//! Where things are printed, and how.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::args::{Format, When};
use crate::failure::{FINE, Failure};

/// Stdout with a format.
#[derive(Debug)]
pub(crate) struct Screen {
    /// Table, JSON or YAML.
    pub(crate) format: Format,
    color: bool,
}

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
        Self { format, color }
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
            Format::Json | Format::Table => {
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
        let heading = head
            .iter()
            .map(|cell| (Tone::Bold, (*cell).to_owned()))
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&heading).chain(rows) {
            let mut line = String::new();
            for (index, ((tone, cell), width)) in row.iter().zip(&widths).enumerate() {
                line.push_str(&self.paint(*tone, cell));
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

/// A line on stderr, for what is not part of the answer.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "polproof: {text}");
}
