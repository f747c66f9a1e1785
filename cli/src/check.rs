//! `polproof check`.

use crate::args::Check as Options;
use crate::failure::Failure;
use crate::output::Screen;

/// Runs it.
#[expect(clippy::unused_async, reason = "reads a cluster, too")]
pub(crate) async fn run(options: &Options, _screen: &Screen) -> Result<u8, Failure> {
    Err(Failure::usage(format!("not there yet: {options:?}")))
}
