//! `polproof violations`: what was delivered although the policies deny it, and what else contradicts them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use polproof_proto::v1;

use crate::args::{Format, Global, Violations as Options};
use crate::connect::connect;
use crate::convert;
use crate::failure::{FINE, Failure, VIOLATIONS};
use crate::output::{Screen, Tone};
use crate::view::{Denier, End, Finding, State, Violations};

mod summary;

/// Findings on one page of the collector.
const PAGE: u32 = 1_000;
/// Lines of a table; `-o json` has everything.
const SHOWN: usize = 200;

/// The headings of the table.
pub(crate) const HEAD: [&str; 7] = [
    "SEEN",
    "KIND",
    "SOURCE",
    "DESTINATION",
    "COUNT",
    "STATE",
    "DENIED BY",
];
/// The headings of the wide table.
pub(crate) const WIDE: [&str; 9] = [
    "LAST SEEN",
    "LASTED",
    "KIND",
    "SOURCE",
    "DESTINATION:PORT/PROTO",
    "COUNT",
    "STATE",
    "EVIDENCE",
    "DENIED BY",
];

/// The filter for the collector.
pub(crate) fn filter(options: &Options) -> Result<v1::FindingFilter, Failure> {
    let since = options
        .since
        .as_deref()
        .map(|text| duration(text).map(|duration| Timestamp::now() - duration))
        .transpose()?;
    Ok(v1::FindingFilter {
        namespace: options.namespace.clone().unwrap_or_default(),
        node: options.node.clone().unwrap_or_default(),
        since: since.map(convert::timestamp),
        kinds: options
            .kind
            .iter()
            .copied()
            .map(convert::kind_number)
            .collect(),
        include_retracted: options.all,
        standing_only: options.standing,
    })
}

fn duration(text: &str) -> Result<SignedDuration, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "--since {text:?} is no duration; for example 90s, 15m, 12h or 7d"
        ))
    };
    let span: Span = text.parse().map_err(|_| wrong())?;
    let duration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| wrong())?;
    // Beyond a century the subtraction from now stops making sense.
    if duration.is_negative() || duration.as_hours() > 24 * 366 * 100 {
        return Err(wrong());
    }
    Ok(duration)
}

/// Lists them.
pub(crate) async fn run(
    global: &Global,
    options: &Options,
    screen: &Screen,
) -> Result<u8, Failure> {
    let filter = filter(options)?;
    let mut client = connect(global).await?;
    let failed = |status: tonic::Status| Failure::status(&global.collector, &status);
    let mut findings: Vec<Finding> = Vec::new();
    let mut places = std::collections::HashMap::new();
    let mut page_token = String::new();
    loop {
        let page = client
            .list_findings(v1::ListFindingsRequest {
                filter: Some(filter.clone()),
                page_size: PAGE,
                page_token,
            })
            .await
            .map_err(failed)?
            .into_inner();
        for finding in page.findings.into_iter().map(convert::finding) {
            // What changed while we read comes again at the end, with newer figures.
            let place = *places
                .entry((finding.id.clone(), finding.node.clone()))
                .or_insert(findings.len());
            match findings.get_mut(place) {
                Some(earlier) => *earlier = finding,
                None => findings.push(finding),
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.last_seen));
    let mut attempts_by_kind = BTreeMap::new();
    for finding in &findings {
        let sum: &mut u64 = attempts_by_kind.entry(finding.kind).or_default();
        *sum = sum.saturating_add(finding.count);
    }
    let all = Violations {
        findings,
        violations: attempts_by_kind.get("unenforced").copied().unwrap_or(0),
        attempts_by_kind,
    };
    match screen.format {
        Format::Json | Format::Yaml => screen.document(&all)?,
        _ => screen.write(&table(&all, options, screen))?,
    }
    // Who asks for a kind wants to know of it.
    let asked_for =
        !options.kind.is_empty() && all.attempts_by_kind.values().any(|count| *count > 0);
    Ok(if all.violations > 0 || asked_for {
        VIOLATIONS
    } else {
        FINE
    })
}

fn table(all: &Violations, options: &Options, screen: &Screen) -> String {
    if all.findings.is_empty() {
        let mut filters = Vec::new();
        if let Some(namespace) = &options.namespace {
            filters.push(format!("namespace {namespace}"));
        }
        if let Some(node) = &options.node {
            filters.push(format!("node {node}"));
        }
        if let Some(since) = &options.since {
            filters.push(format!("the last {since}"));
        }
        if !options.kind.is_empty() {
            let names: Vec<&str> = options.kind.iter().map(|kind| kind.name()).collect();
            filters.push(format!("the kind {}", names.join(" or ")));
        }
        if options.standing {
            filters.push("what has not ended".to_owned());
        }
        let of = if filters.is_empty() {
            String::new()
        } else {
            format!(" for {}", filters.join(", "))
        };
        return format!(
            "{}\nThat alone proves nothing: `polproof status` says what was tested, and whether all pods are watched.\n",
            screen.paint(Tone::Good, &format!("No violation{of}."))
        );
    }
    let now = Timestamp::now();
    let rows: Vec<_> = all
        .findings
        .iter()
        .take(SHOWN)
        .map(|finding| row(finding, &age(finding.last_seen, now), screen.format))
        .collect();
    let mut text = match screen.format {
        Format::Wide => screen.table(&WIDE, &rows),
        _ => screen.table(&HEAD, &rows),
    };
    text.push('\n');
    if all.findings.len() > SHOWN {
        text.push_str(&format!(
            "... and {} more: narrow it with -n, --node or --since, or see all with -o json\n",
            all.findings.len() - SHOWN
        ));
    }
    text.push_str(&summary::summary(all, screen));
    if let Some(finding) = all.findings.iter().find(|finding| finding.count > 0) {
        text.push_str(&format!(
            "Why, rule by rule:     {}\n",
            explain_command(finding)
        ));
        if screen.format != Format::Wide {
            text.push_str("Every deciding policy: polproof violations -o wide\n");
        }
        text.push_str("Which nodes it is on:  polproof status\n");
    }
    text
}

/// The question whose answer says why this is denied.
fn explain_command(finding: &Finding) -> String {
    let end = |end: &End| match end.kind {
        "pod" => format!("{}/{}", end.namespace, end.name),
        _ => end.address.clone(),
    };
    let destination = end(&finding.destination);
    let destination = if destination.contains(':') {
        format!("'[{destination}]:")
    } else {
        format!("{destination}:")
    };
    let quote = if destination.starts_with('\'') {
        "'"
    } else {
        ""
    };
    format!(
        "polproof explain {} {destination}{}/{}{quote}",
        end(&finding.source),
        finding.port,
        finding.protocol
    )
}

/// One line of the table, or of the wide one.
pub(crate) fn row(finding: &Finding, when: &str, format: Format) -> Vec<(Tone, String)> {
    let wide = format == Format::Wide;
    let provisional = finding.count.saturating_sub(finding.settled);
    let (tone, state) = match finding.state {
        State::Provisional => (Tone::Warn, "provisional".to_owned()),
        State::Standing if provisional > 0 && wide => {
            (Tone::Bad, format!("standing ({provisional} provisional)"))
        }
        State::Standing => (Tone::Bad, "standing".to_owned()),
        State::Retracted => (Tone::Dim, "retracted".to_owned()),
    };
    let (tone, state) = match &finding.recovered {
        Some(recovered) if finding.state != State::Retracted => {
            (Tone::Plain, summary::ended(recovered, wide))
        }
        _ => (tone, state),
    };
    let family = if finding.destination.address.contains(':') {
        " (IPv6)"
    } else {
        ""
    };
    let mut cells = vec![(Tone::Plain, when.to_owned())];
    if wide {
        cells.push((Tone::Plain, summary::lasted(finding)));
    }
    cells.extend([
        (Tone::Plain, finding.kind.to_owned()),
        (Tone::Plain, name(&finding.source)),
        (
            Tone::Plain,
            format!(
                "{}:{}/{}{family}",
                name(&finding.destination),
                finding.port,
                finding.protocol
            ),
        ),
        (Tone::Plain, finding.count.to_string()),
        (tone, state),
    ]);
    // These policies allow it, and it does not get through.
    let allowed = if matches!(finding.kind, "over_blocked" | "reply_lost") {
        "allowed by "
    } else {
        ""
    };
    if wide {
        cells.push((Tone::Plain, summary::evidence(finding)));
        let by = denied_by(&finding.denied_by);
        cells.push((Tone::Plain, format!("{allowed}{by}")));
    } else {
        let by = denied_by_first(&finding.denied_by);
        cells.push((Tone::Plain, format!("{allowed}{by}")));
    }
    cells
}

/// "ingress shop/default-deny +2": one of them, and how many more.
fn denied_by_first(policies: &[Denier]) -> String {
    // The plainest denial is that of a policy without any rule in the direction.
    let Some(first) = policies
        .iter()
        .find(|policy| policy.rules_without_match.is_empty())
        .or_else(|| policies.first())
    else {
        return String::new();
    };
    let more = match policies.len() - 1 {
        0 => String::new(),
        more => format!(" +{more}"),
    };
    format!("{} {}{more}", first.direction, policy_name(first))
}

fn policy_name(policy: &Denier) -> String {
    if let Some(rule) = policy.denying_rule {
        format!("{}/{} rule {rule}", policy.kind, policy.name)
    } else if policy.namespace.is_empty() {
        policy.name.clone()
    } else {
        format!("{}/{}", policy.namespace, policy.name)
    }
}

fn name(end: &End) -> String {
    match end.kind {
        "pod" => format!("{}/{}", end.namespace, end.name),
        "node" => format!("node {} ({})", end.name, end.address),
        kind => format!("{} ({kind})", end.address),
    }
}

/// "ingress of shop/db: shop/default-deny (no rule), shop/db (none of 2 rules)".
fn denied_by(policies: &[Denier]) -> String {
    let mut text = String::new();
    for direction in ["egress", "ingress", "unknown"] {
        let named: Vec<String> = policies
            .iter()
            .filter(|policy| policy.direction == direction)
            .map(|policy| {
                if policy.denying_rule.is_some() {
                    return policy_name(policy);
                }
                let rules = match policy.rules_without_match.len() {
                    0 => "no rule".to_owned(),
                    1 => "its rule does not match".to_owned(),
                    count => format!("none of {count} rules matches"),
                };
                format!("{} ({rules})", policy_name(policy))
            })
            .collect();
        if !named.is_empty() {
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(&format!("{direction}: {}", named.join(", ")));
        }
    }
    text
}

/// "3s ago".
pub(crate) fn age(then: Option<Timestamp>, now: Timestamp) -> String {
    let Some(then) = then else {
        return "never".to_owned();
    };
    format!("{} ago", short(now.duration_since(then).as_secs().max(0)))
}

pub(crate) fn short(seconds: i64) -> String {
    match seconds {
        s if s < 120 => format!("{s}s"),
        s if s < 7_200 => format!("{}m", s / 60),
        s if s < 172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// "1 node", "2 nodes".
pub(crate) fn plural(count: u64, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}
