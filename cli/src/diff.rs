//! `polproof diff`.

mod person;
mod sides;
mod view;

use polproof_policy::connectivity::{Connectivity, Difference, Options as What, blocks, compare};

use crate::args::{Diff as Options, FailOn, Format};
use crate::failure::{FINE, Failure, VIOLATIONS};
use crate::matrix::progress::Progress;
use crate::output::Screen;
use sides::Sides;

/// What was found, for every format.
struct Found {
    before: Connectivity,
    after: Connectivity,
    difference: Difference,
    sides: Sides,
}

/// Runs it.
pub(crate) async fn run(options: &Options, screen: &Screen) -> Result<u8, Failure> {
    let sides = Sides::load(options).await?;
    let what = What {
        by: options.by.into(),
        // Both sides have the same ends outside.
        blocks: blocks(&sides.before.snapshot)
            .into_iter()
            .chain(blocks(&sides.after.snapshot))
            .collect(),
    };
    let mut before = Connectivity::of(&sides.before.snapshot, &what);
    let mut after = Connectivity::of(&sides.after.snapshot, &what);
    let mut progress = Progress::new("diff", options.progress);
    let difference = compare(&mut before, &mut after, |done, all| {
        progress.step(done, all)
    });
    progress.end();
    let code = code(options.fail_on, &difference);
    let found = Found {
        before,
        after,
        difference,
        sides,
    };
    match screen.format {
        Format::Json | Format::Yaml => screen.document(&view::Diff::of(&found))?,
        Format::Markdown => screen.write(&person::markdown(&found))?,
        _ => screen.write(&person::text(&found, screen))?,
    }
    Ok(code)
}

/// New and gone workloads are no changes: they come and go with what people deploy, and are named apart.
fn code(fail_on: FailOn, difference: &Difference) -> u8 {
    let mut changes = difference.changes.iter().flat_map(|change| &change.ports);
    let fails = match fail_on {
        FailOn::Never => false,
        FailOn::Any => changes.next().is_some(),
        FailOn::Opened => changes.any(|change| change.loosens()),
        FailOn::Closed => changes.any(|change| change.tightens()),
    };
    if fails { VIOLATIONS } else { FINE }
}
