//! What the node's CNI configuration claims. A hint for people, never a verdict: flannel enforces when something
//! is chained to it, and Cilium does not when it is told not to. Only traffic proves.
//!
//! ```text
//! *.conf, *.conflist, *.json --conf::read--> Chain (every plugin, multus delegates included) --DETECTORS--> CniHint
//! ```
//!
//! A detector is one file and one line in [`DETECTORS`]. It sees one chain and says what it recognises.

mod aws;
mod bridge;
mod calico;
mod cilium;
pub mod conf;
mod flannel;
mod watch;

use std::path::PathBuf;

pub use conf::{Chain, Plugin};
pub use watch::watch;

/// What a configuration claims about enforcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// It enforces NetworkPolicies by default.
    Enforces,
    /// It does not enforce by itself.
    DoesNotEnforce,
    /// The file does not decide: another component does.
    Depends,
}

/// One recognised CNI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniHint {
    /// Name as people say it.
    pub name: String,
    /// What it claims.
    pub claim: Claim,
    /// File and plugin types that it was recognised by.
    pub evidence: String,
    /// What to do to have policies enforced; empty where nothing is to be done.
    pub remedy: String,
}

/// What a detector says of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Recognised {
    name: &'static str,
    claim: Claim,
    remedy: String,
}

/// Recognises one CNI in a chain.
type Detect = fn(&Chain) -> Option<Recognised>;

/// Every detector. The generic one is asked only if no other recognises the chain.
const DETECTORS: &[Detect] = &[flannel::detect, calico::detect, cilium::detect, aws::detect];

/// Plugin types that enforce NetworkPolicies when they are chained to another CNI.
const ENGINES: &[(&str, &str)] = &[("calico", "Calico"), ("cilium-cni", "Cilium")];

/// Reads the folders and asks every detector. A file that cannot be read is a hint too.
pub fn detect(folders: &[PathBuf]) -> Vec<CniHint> {
    let mut hints = Vec::new();
    for folder in folders {
        let mut in_effect = true;
        for file in conf::read(folder) {
            let chain = match file.chain {
                Ok(chain) => chain,
                Err(why) => {
                    hints.push(CniHint {
                        name: "unreadable".to_owned(),
                        claim: Claim::Depends,
                        evidence: format!("{}: {why}", file.path.display()),
                        remedy: "correct or remove the file: the container runtime may refuse to start pods"
                            .to_owned(),
                    });
                    continue;
                }
            };
            for found in recognise(&chain) {
                let mut evidence = format!(
                    "{} (types {})",
                    file.path.display(),
                    chain.types().join(", ")
                );
                if !in_effect {
                    // Runtimes take the first file by name.
                    evidence.push_str("; not in effect: another file sorts before it");
                }
                hints.push(CniHint {
                    name: found.name.to_owned(),
                    claim: found.claim,
                    evidence,
                    remedy: found.remedy,
                });
            }
            in_effect = false;
        }
    }
    hints
}

fn recognise(chain: &Chain) -> Vec<Recognised> {
    let found: Vec<_> = DETECTORS.iter().filter_map(|d| d(chain)).collect();
    if found.is_empty() {
        return bridge::detect(chain).into_iter().collect();
    }
    found
}

/// The engine that is chained to a plugin of another type, if one is.
fn chained_engine(chain: &Chain) -> Option<&'static str> {
    ENGINES
        .iter()
        .find(|(kind, _)| chain.has(kind))
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests;
