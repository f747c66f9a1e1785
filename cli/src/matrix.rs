//! `polproof matrix`.

mod csv;
mod dot;
mod filter;
pub(crate) mod names;
pub(crate) mod person;
pub(crate) mod progress;
mod svg;
pub(crate) mod view;

use polproof_policy::connectivity::{Access, Connection, Connectivity, Options as What, Totals};

use crate::args::{Format, Matrix as Options};
use crate::failure::{FINE, Failure};
use crate::output::{Screen, note};
use crate::source;
use filter::Wanted;
use progress::Progress;

/// What was found, for every format.
struct Found {
    matrix: Connectivity,
    wanted: Wanted,
    connections: Vec<Connection>,
    totals: Totals,
    /// Where the objects come from.
    name: String,
}

/// Runs it.
pub(crate) async fn run(options: &Options, screen: &Screen) -> Result<u8, Failure> {
    let loaded = source::load(options.path.as_deref(), &options.source).await?;
    source::note_refused(&loaded);
    let mut matrix = Connectivity::of(
        &loaded.view.snapshot,
        &What {
            by: options.by.into(),
            ..What::default()
        },
    );
    if matrix.ends().iter().all(|end| end.block.is_some()) {
        return Err(Failure::usage(format!(
            "there are no pods in {}: a matrix needs pods, or workloads such as Deployments; give the folder that has \
             them, too",
            loaded.name
        )));
    }
    let wanted = Wanted::of(options, &matrix)?;
    if screen.format == Format::Csv {
        return csv::print(&mut matrix, &wanted, options, screen).map(|()| FINE);
    }
    let mut progress = Progress::new("matrix", options.progress);
    // What is not listed is denied, in every format that has room for this sentence.
    let svg = screen.format == Format::Svg;
    let (connections, totals) = matrix.fold(
        &wanted.ends,
        |ports| {
            wanted.keeps(ports, |access| {
                svg || options.only.is_some() || *access != Access::Deny
            })
        },
        |done, all| progress.step(done, all),
    );
    progress.end();
    let mut found = Found {
        matrix,
        wanted,
        connections,
        totals,
        name: loaded.name,
    };
    if found.totals.pairs == 0 {
        note("no pair of ends is left: --namespace, --from and --to leave none");
    }
    match screen.format {
        Format::Json | Format::Yaml => screen.document(&view::Matrix::of(&mut found, options))?,
        Format::Dot => screen.write(&dot::graph(&found)?)?,
        Format::Svg => screen.write(&svg::picture(&found)?)?,
        _ => screen.write(&person::text(&mut found, screen))?,
    }
    Ok(FINE)
}
