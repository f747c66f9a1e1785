//! `--queries`: questions and answers as lines of JSON, in order, one at a time.

use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write};
use std::net::IpAddr;
use std::path::Path;

use polproof_policy::ask::{Directory, End, Pairs};
use polproof_policy::explain::{Deciding, deciding, outcome_word, reason_word};
use polproof_policy::{Expectation, Family, Protocol, Snapshot};
use serde::{Deserialize, Serialize};

use super::{MOST_PAIRS, destination};
use crate::failure::{FINE, Failure};

/// Bytes of one line.
const LONGEST: u64 = 64 << 10;

/// One line in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Handed back as it is.
    #[serde(default)]
    id: Option<serde_json::Value>,
    src: Named,
    dst: Named,
    #[serde(default)]
    proto: Option<String>,
    port: u16,
    #[serde(default)]
    family: Option<String>,
}

/// An end as it is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Ip(Address),
    Pod(PodName),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Address {
    ip: IpAddr,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PodName {
    pod: String,
}

/// One line out.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<serde_json::Value>,
    src: Named,
    dst: Named,
    proto: &'static str,
    port: u16,
    family: &'static str,
    egress: &'static str,
    ingress: &'static str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    policies: Vec<Deciding<'a>>,
}

/// A line that has no answer.
#[derive(Serialize)]
struct Bad {
    error: String,
    line: u64,
}

/// Answers the questions of a file, or of standard input.
pub(super) fn run(snapshot: &Snapshot, file: &Path) -> Result<u8, Failure> {
    let input: Box<dyn Read> =
        if file == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(std::fs::File::open(file).map_err(|error| {
                Failure::usage(format!("cannot read {}: {error}", file.display()))
            })?)
        };
    let mut input = BufReader::with_capacity(256 << 10, input);
    let mut output = BufWriter::with_capacity(256 << 10, io::stdout().lock());
    answer_all(snapshot, &mut input, &mut output).map_err(|problem| match problem {
        Problem::Read(error) => Failure::usage(format!("cannot read {}: {error}", file.display())),
        Problem::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => Failure {
            message: String::new(),
            code: FINE,
        },
        Problem::Write(error) => Failure::usage(format!("cannot write to stdout: {error}")),
        Problem::Lines(number) => Failure::usage(format!(
            "{number} {} of {} could not be answered: see \"error\" in the output",
            if number == 1 { "line" } else { "lines" },
            if file == Path::new("-") {
                "standard input".to_owned()
            } else {
                file.display().to_string()
            }
        )),
    })?;
    Ok(FINE)
}

enum Problem {
    Read(io::Error),
    Write(io::Error),
    /// That many lines have no answer.
    Lines(u64),
}

fn answer_all<R: Read>(
    snapshot: &Snapshot,
    input: &mut BufReader<R>,
    output: &mut impl Write,
) -> Result<(), Problem> {
    let directory = Directory::new(snapshot);
    let mut text = Vec::new();
    let mut bad = 0;
    for line in 1.. {
        text.clear();
        let read = input
            .by_ref()
            .take(LONGEST)
            .read_until(b'\n', &mut text)
            .map_err(Problem::Read)?;
        if read == 0 {
            break;
        }
        let whole = text.ends_with(b"\n") || (read as u64) < LONGEST;
        if !whole {
            input.skip_until(b'\n').map_err(Problem::Read)?;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let answered = if whole {
            answer(&directory, &text)
        } else {
            Err(format!(
                "a line of more than {LONGEST} bytes is no question"
            ))
        };
        match answered {
            Ok(answer) => serde_json::to_writer(&mut *output, &answer),
            Err(error) => {
                bad += 1;
                serde_json::to_writer(&mut *output, &Bad { error, line })
            }
        }
        .map_err(|error| Problem::Write(error.into()))?;
        output.write_all(b"\n").map_err(Problem::Write)?;
        // Who asks one question at a time waits for its answer.
        if input.buffer().is_empty() {
            output.flush().map_err(Problem::Write)?;
        }
    }
    output.flush().map_err(Problem::Write)?;
    if bad > 0 {
        return Err(Problem::Lines(bad));
    }
    Ok(())
}

fn answer<'d>(directory: &'d Directory, text: &[u8]) -> Result<Answer<'d>, String> {
    let question: Question = serde_json::from_slice(text).map_err(|error| {
        format!(
            "{}; a question looks like {{\"src\":\"shop/web\",\"dst\":{{\"ip\":\"203.0.113.9\"}},\"proto\":\"TCP\",\"port\":443}}",
            plain(&error)
        )
    })?;
    if question.port == 0 {
        return Err("port 0: a port is from 1 to 65535".to_owned());
    }
    let protocol = match &question.proto {
        None => Protocol::Tcp,
        Some(text) => destination::protocol(text)
            .ok_or_else(|| format!("proto {text:?} is none of TCP, UDP and SCTP"))?,
    };
    let family = match question.family.as_deref() {
        None => None,
        Some("IPv4") => Some(Family::V4),
        Some("IPv6") => Some(Family::V6),
        Some(other) => return Err(format!("family {other:?} is neither IPv4 nor IPv6")),
    };
    let find = |named: &Named| -> Result<End, String> {
        match named {
            Named::Text(text) => directory.end(text),
            Named::Ip(address) => directory.address(address.ip),
            Named::Pod(pod) => directory.end(&pod.pod),
        }
        .map_err(|error| error.to_string())
    };
    let (source, target) = (find(&question.src)?, find(&question.dst)?);
    let pairs = directory
        .pairs(&source, &target, protocol, Some(question.port))
        .map_err(|error| error.to_string())?;
    if pairs.count() > MOST_PAIRS {
        return Err(format!(
            "that is {} pairs of pods; ask for a pod of the larger end",
            pairs.count()
        ));
    }
    let families = match &family {
        Some(family) => std::slice::from_ref(family),
        None => &[Family::V4, Family::V6],
    };
    let verdict = families
        .iter()
        .find_map(|family| judge(directory, &pairs, *family, protocol))
        .ok_or_else(|| match family {
            Some(family) => polproof_policy::ask::AskError::NotInFamily { family }.to_string(),
            None => polproof_policy::ask::AskError::NoCommonFamily.to_string(),
        })?;
    Ok(Answer {
        id: question.id,
        src: question.src,
        dst: question.dst,
        proto: destination::word(protocol),
        port: question.port,
        family: polproof_policy::ask::family_name(verdict.family),
        egress: verdict.egress,
        ingress: verdict.ingress,
        verdict: verdict.verdict,
        reason: verdict.reason,
        policies: verdict.policies,
    })
}

struct Judged<'d> {
    family: Family,
    egress: &'static str,
    ingress: &'static str,
    verdict: &'static str,
    reason: Option<&'static str>,
    policies: Vec<Deciding<'d>>,
}

/// The verdict of all pairs together, if there are any in this family.
fn judge<'d>(
    directory: &'d Directory,
    pairs: &Pairs,
    family: Family,
    protocol: Protocol,
) -> Option<Judged<'d>> {
    const DIFFER: &str = "PodsDiffer";
    let snapshot = directory.snapshot();
    let mut all: Option<Judged<'d>> = None;
    for pair in pairs.of(family) {
        let verdict = snapshot.evaluate(&pair.query(protocol));
        let both: Expectation = verdict.expectation();
        let one = (
            outcome_word(verdict.egress.expectation),
            outcome_word(verdict.ingress.expectation),
            outcome_word(both),
        );
        match &mut all {
            None => {
                all = Some(Judged {
                    family,
                    egress: one.0,
                    ingress: one.1,
                    verdict: one.2,
                    reason: reason_word(both),
                    policies: deciding(&verdict).collect(),
                });
            }
            Some(all) => {
                for (held, word) in [(&mut all.egress, one.0), (&mut all.ingress, one.1)] {
                    if *held != word {
                        *held = "unknown";
                    }
                }
                if all.verdict != one.2 || all.reason != reason_word(both) {
                    all.verdict = "unknown";
                    all.reason = Some(DIFFER);
                }
            }
        }
    }
    all
}

/// What is wrong, without a place: every line is line 1 to the parser.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(text, _)| text);
    if text.contains("untagged") {
        return "src and dst are each a string or {\"ip\": \"...\"} or {\"pod\": \"namespace/pod\"}"
            .to_owned();
    }
    text.to_owned()
}
