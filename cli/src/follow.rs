//! `polproof violations --follow`: every change, until Ctrl-C, over restarts of the collector.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use polproof_proto::v1;
use tonic::Code;

use crate::args::{Format, Global, Violations as Options};
use crate::connect::connect;
use crate::convert;
use crate::failure::{FINE, Failure};
use crate::output::{Screen, Tone, cut, note};
use crate::view::{Finding, Recovered, State};
use crate::violations::{HEAD, WIDE, filter, row};

/// The longest wait between attempts to reach the collector.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Column widths that hold most names; a stream cannot know what will come.
const WIDTHS: [usize; 7] = [9, 16, 22, 22, 6, 21, 30];
/// Those of the wide table.
const WIDE_WIDTHS: [usize; 9] = [20, 7, 16, 24, 32, 7, 40, 22, 40];

type Figures = (u64, u64, u64, u64, Option<Timestamp>, Option<Recovered>);

/// Prints until Ctrl-C.
pub(crate) async fn run(
    global: &Global,
    options: &Options,
    screen: &Screen,
) -> Result<u8, Failure> {
    let interrupt = async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            pressed = tokio::signal::ctrl_c() => pressed,
            _ = terminate.recv() => Ok(()),
        }
    };
    tokio::select! {
        ended = follow(global, options, screen) => ended,
        waited = interrupt => waited
            .map(|()| FINE)
            .map_err(|error| Failure::away(format!("cannot wait for Ctrl-C: {error}"))),
    }
}

async fn follow(global: &Global, options: &Options, screen: &Screen) -> Result<u8, Failure> {
    let mut filter = filter(options)?;
    // What was shown and is then taken back, or ends, must be said to.
    filter.include_retracted = true;
    filter.standing_only = false;
    let mut shown: HashMap<(String, String), Figures> = HashMap::new();
    let mut wait = Duration::from_millis(500);
    let mut lost = false;
    let mut client = connect(global).await?;
    if screen.for_people() {
        let head: Vec<_> = match screen.format {
            Format::Wide => WIDE.as_slice(),
            _ => HEAD.as_slice(),
        }
        .iter()
        .map(|cell| (Tone::Bold, (*cell).to_owned()))
        .collect();
        screen.write(&line(screen, &head))?;
    }
    loop {
        let request = v1::WatchFindingsRequest {
            filter: Some(filter.clone()),
        };
        let ended = match client.watch_findings(request).await {
            Err(status) => status,
            Ok(stream) => {
                let mut stream = stream.into_inner();
                if std::mem::take(&mut lost) {
                    note("the collector is back; going on");
                }
                loop {
                    match stream.message().await {
                        Ok(Some(finding)) => {
                            wait = Duration::from_millis(500);
                            show(&convert::finding(finding), options, screen, &mut shown)?;
                        }
                        Ok(None) => break tonic::Status::unavailable("it ended the stream"),
                        Err(status) => break status,
                    }
                }
            }
        };
        if matches!(
            ended.code(),
            Code::InvalidArgument
                | Code::NotFound
                | Code::Unimplemented
                | Code::PermissionDenied
                | Code::Unauthenticated
        ) {
            return Err(Failure::status(&global.collector, &ended));
        }
        loop {
            if !std::mem::replace(&mut lost, true) {
                note(&format!(
                    "the collector at {} is gone ({}); trying until it is back",
                    global.collector,
                    ended.message()
                ));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            if let Ok(again) = connect(global).await {
                client = again;
                break;
            }
        }
    }
}

fn show(
    finding: &Finding,
    options: &Options,
    screen: &Screen,
    shown: &mut HashMap<(String, String), Figures>,
) -> Result<(), Failure> {
    let figures = (
        finding.observed,
        finding.settled,
        finding.retracted,
        finding.witnessed,
        finding.last_seen,
        finding.recovered.clone(),
    );
    let key = (finding.id.clone(), finding.node.clone());
    let before = shown.get(&key);
    // A watch that begins again sends everything again.
    if before == Some(&figures)
        || (before.is_none() && finding.state == State::Retracted && !options.all)
        || (before.is_none() && finding.recovered.is_some() && options.standing)
    {
        return Ok(());
    }
    shown.insert(key, figures);
    if !screen.for_people() {
        return screen.item(finding);
    }
    let when = finding
        .last_seen
        .map(|time| {
            // Who watches knows the day.
            let form = match screen.format {
                Format::Wide => "%Y-%m-%dT%H:%M:%SZ",
                _ => "%H:%M:%SZ",
            };
            time.strftime(form).to_string()
        })
        .unwrap_or_default();
    screen.write(&line(screen, &row(finding, &when, screen.format)))
}

fn line(screen: &Screen, cells: &[(Tone, String)]) -> String {
    let mut widths = match screen.format {
        Format::Wide => WIDE_WIDTHS.to_vec(),
        _ => WIDTHS.to_vec(),
    };
    let whole = widths.clone();
    screen.fit(&mut widths);
    let mut text = String::new();
    for (index, ((tone, cell), width)) in cells.iter().zip(&widths).enumerate() {
        // Without a narrow terminal a long name may well go beyond its column.
        let cell = if widths == whole {
            cell.clone()
        } else {
            cut(cell, *width)
        };
        text.push_str(&screen.paint(*tone, &cell));
        if index + 1 < cells.len() {
            let gap = width.saturating_sub(cell.chars().count()) + 2;
            text.extend(std::iter::repeat_n(' ', gap));
        }
    }
    text.push('\n');
    text
}
