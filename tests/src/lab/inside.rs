//! What pods do in their own namespace: filters and redirections that no CNI made.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use polproof_policy::Protocol;

use super::node::Pod;
use super::wiring::feed;

/// What a pod's own netfilter does with what comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// Drops it.
    Drop,
    /// Answers with a RST (TCP), or with ICMP port unreachable.
    Reject,
    /// Gives it to a proxy on this port, as a mesh's sidecar does.
    Redirect(u16),
}

impl Pod {
    /// Adds a rule for a range of ports to the pod's own INPUT or PREROUTING, in both families.
    ///
    /// # Errors
    /// When the rules cannot be loaded.
    pub fn guard(&self, protocol: Protocol, ports: (u16, u16), inside: Inside) -> Result<()> {
        let name = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let what = format!("-p {name} --dport {}:{}", ports.0, ports.1);
        for (program, icmp) in [
            ("iptables-restore", "icmp-port-unreachable"),
            ("ip6tables-restore", "icmp6-port-unreachable"),
        ] {
            let mut script = String::new();
            let _ = match inside {
                Inside::Drop => {
                    write!(script, "*filter\n-A INPUT -i eth0 {what} -j DROP\nCOMMIT\n")
                }
                Inside::Reject => {
                    let with = match protocol {
                        Protocol::Tcp => "tcp-reset",
                        _ => icmp,
                    };
                    write!(
                        script,
                        "*filter\n-A INPUT -i eth0 {what} -j REJECT --reject-with {with}\nCOMMIT\n"
                    )
                }
                Inside::Redirect(port) => write!(
                    script,
                    "*nat\n-A PREROUTING -i eth0 {what} -j REDIRECT --to-ports {port}\nCOMMIT\n"
                ),
            };
            feed(self.netns(), program, &["--noflush"], &script)
                .with_context(|| format!("{inside:?} inside a pod"))?;
        }
        Ok(())
    }

    /// Gives what the pod's own processes send over TCP to a proxy inside the pod, as a mesh's sidecar does.
    ///
    /// # Errors
    /// When the rules cannot be loaded.
    pub fn redirect_outgoing(&self, ports: (u16, u16), to: u16) -> Result<()> {
        for program in ["iptables-restore", "ip6tables-restore"] {
            let script = format!(
                "*nat\n-A OUTPUT -o eth0 -p tcp --dport {}:{} -j REDIRECT --to-ports {to}\nCOMMIT\n",
                ports.0, ports.1
            );
            feed(self.netns(), program, &["--noflush"], &script)
                .context("redirect what a pod sends")?;
        }
        Ok(())
    }
}
