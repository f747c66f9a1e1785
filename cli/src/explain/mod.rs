//! `polproof explain`: what the policies say of a connection.

mod destination;
mod queries;
mod text;

use polproof_policy::{Family as AddressFamily, ask};
use polproof_proto::v1;

use crate::args::{Explain as Options, Format, Global};
use crate::connect::connect;
use crate::convert;
use crate::failure::{FINE, Failure, VIOLATIONS};
use crate::output::Screen;
use crate::printable::printable;
use crate::source::{self, Loaded};
use crate::view::{Explanation, Family};
use destination::{Destination, destination, unbracket};

pub(crate) use destination::{protocol, word};
pub(crate) use text::tone;

/// Pairs of pods that one question may be about.
pub(crate) const MOST_PAIRS: usize = 4_000_000;

/// Explains.
pub(crate) async fn run(
    global: &Global,
    options: &Options,
    screen: &Screen,
) -> Result<u8, Failure> {
    let named = options.cluster.context.is_some() || options.cluster.kubeconfig.is_some();
    let own_objects = options.manifests.is_some() || named;
    if let Some(file) = &options.queries {
        if !own_objects {
            return Err(Failure::usage(
                "--queries needs the objects here: give --manifests PATH, or a cluster (--context NAME or --kubeconfig FILE)",
            ));
        }
        if screen.format == Format::Yaml {
            return Err(Failure::usage(
                "--queries answers one JSON object a line: leave -o yaml out",
            ));
        }
        if both_stdin(options) {
            return Err(Failure::usage(
                "--queries - and --manifests - cannot both read standard input: write one of them to a file",
            ));
        }
        let loaded = source::load(options.manifests.as_deref(), &options.cluster).await?;
        source::note_refused(&loaded);
        return queries::run(&loaded.view.snapshot, file);
    }
    let (Some(source), Some(to)) = (&options.source, &options.destination) else {
        return Err(Failure::usage("give SRC and DST, or --queries FILE"));
    };
    let destination = destination(to)?;
    let source = unbracket(source).to_owned();
    let family = options.family.map(|family| match family {
        crate::args::Family::V4 => AddressFamily::V4,
        crate::args::Family::V6 => AddressFamily::V6,
    });
    let answered = if own_objects {
        let loaded = source::load(options.manifests.as_deref(), &options.cluster).await?;
        source::note_refused(&loaded);
        from_objects(&loaded, &source, &destination, family)?
    } else {
        from_collector(global, &source, &destination, family).await?
    };
    let explanation = Explanation {
        verdict: overall(&answered.families),
        source,
        port: answered
            .port
            .or(destination.port)
            .unwrap_or(ask::DEFAULT_PORT),
        protocol: word(destination.protocol),
        destination: destination.end,
        notes: answered.notes,
        families: answered.families,
    };
    match screen.format {
        Format::Json | Format::Yaml => screen.document(&explanation)?,
        _ => screen.write(&text::text(&explanation, screen))?,
    }
    Ok(if options.exit_code && explanation.verdict != "allow" {
        VIOLATIONS
    } else {
        FINE
    })
}

fn both_stdin(options: &Options) -> bool {
    let stdin = std::path::Path::new("-");
    [&options.queries, &options.manifests]
        .iter()
        .all(|path| path.as_deref() == Some(stdin))
}

fn from_objects(
    loaded: &Loaded,
    source: &str,
    destination: &Destination,
    family: Option<AddressFamily>,
) -> Result<convert::Answered, Failure> {
    let directory = ask::Directory::new(&loaded.view.snapshot);
    let question = ask::Question {
        source,
        destination: &destination.end,
        port: destination.port,
        protocol: destination.protocol,
        family,
    };
    ask::ask(&directory, &question, MOST_PAIRS)
        .map(convert::answered)
        .map_err(|error| Failure::usage(printable(missing(&error, loaded))))
}

/// The cluster's own lists are no help for manifests.
pub(crate) fn missing(error: &ask::AskError, loaded: &Loaded) -> String {
    match error {
        ask::AskError::Missing {
            kind, name, near, ..
        } if near.is_empty() && loaded.view.source == polproof_cluster::SourceKind::Manifests => {
            format!(
                "there is no {kind} {name} in {}; it needs the pods or workloads too (kubectl get pods -A -o yaml), or ask \
                 with an address",
                loaded.name
            )
        }
        other => other.to_string(),
    }
}

async fn from_collector(
    global: &Global,
    source: &str,
    destination: &Destination,
    family: Option<AddressFamily>,
) -> Result<convert::Answered, Failure> {
    let mut client = connect(global).await.map_err(|failure| Failure {
        message: format!(
            "{}; manifests or a cluster answer without a collector: --manifests PATH or --context NAME",
            failure.message
        ),
        ..failure
    })?;
    let answer = client
        .explain(v1::ExplainRequest {
            source: source.to_owned(),
            destination: destination.end.clone(),
            port: u32::from(destination.port.unwrap_or(ask::DEFAULT_PORT)),
            port_by_default: destination.port.is_none(),
            protocol: convert::protocol(destination.protocol),
            family: family.map(ask::family_name).unwrap_or_default().to_owned(),
        })
        .await
        .map_err(|status| Failure::status(&global.collector, &status))?
        .into_inner();
    Ok(convert::replied(answer))
}

fn overall(families: &[Family]) -> String {
    let mut verdicts = families
        .iter()
        .map(|family| family.verdict.split(':').next().unwrap_or_default());
    let first = verdicts.next().unwrap_or("unknown");
    if verdicts.all(|verdict| verdict == first) {
        first.to_owned()
    } else {
        "mixed".to_owned()
    }
}
