//! The node's own addresses. What comes from them to the node's pods (kubelet's probes, say) is exempt; not all of them are
//! in the Node object: kubelet's packets bear the address of the CNI's bridge.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, anyhow};
use nix::sched::{CloneFlags, setns};

/// Addresses of the namespace that `host_netns` is, else of our own.
pub(super) fn of_node(host_netns: Option<&Path>) -> anyhow::Result<Vec<IpAddr>> {
    let Some(path) = host_netns else {
        return ours();
    };
    std::thread::scope(|scope| {
        // On a thread of its own: the others stay where they are.
        scope
            .spawn(|| {
                let file = File::open(path)?;
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
                ours()
            })
            .join()
            .map_err(|_| anyhow!("the thread inside it panicked, which is a bug"))?
    })
    .with_context(|| {
        format!(
            "--host-netns {}: cannot look into it; give the node's network namespace (/proc/1/ns/net, which needs hostPID and \
             CAP_SYS_PTRACE)",
            path.display()
        )
    })
}

fn ours() -> anyhow::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .context("cannot list the node's addresses")?
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|ip| !ip.is_loopback())
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_that_is_no_namespace_is_named() {
        for path in ["/no/such/file", "/proc/version"] {
            let error = of_node(Some(Path::new(path))).unwrap_err();
            let text = format!("{error:#}");
            assert!(
                text.contains(&format!("--host-netns {path}")) && text.contains("hostPID"),
                "{text}"
            );
        }
        assert!(of_node(None).is_ok());
    }
}
