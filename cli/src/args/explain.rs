//! `polproof explain`.

use std::path::PathBuf;

/// Options of explain.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  polproof explain shop/web shop/db:5432\n  polproof explain shop/web 10.96.0.10:53/UDP\n  \
                  polproof explain --manifests ./policies 192.0.2.7 '[fd00::5]:443'"
)]
pub(crate) struct Explain {
    /// Who connects: NAMESPACE/POD or an IP address
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// To whom: NAMESPACE/POD or an IP address (IPv6 in brackets); port 80 and TCP if not said
    #[arg(value_name = "DST[:PORT[/PROTOCOL]]")]
    pub(crate) destination: String,
    /// Read the objects from a file or folder of manifests instead of asking the collector
    #[arg(long, value_name = "PATH")]
    pub(crate) manifests: Option<PathBuf>,
}
