//! Links on tcx (Linux 6.6), and their pins.
//!
//! A link is pinned as `links/<cookie>-<hook>-<since>`: the namespace's cookie, the row of [`HOOKS`], and the moment
//! (CLOCK_MONOTONIC, ns) from which it sees every packet. So a later agent knows what it takes over.
//!
//! A link lives and dies with its device, not with the namespace: a device that is moved to another one takes it along, and
//! the kernel refuses a second link of the same program on it. Records are then already of the namespace that the device is in,
//! since the programs read it from the device; so the link is adopted there, and its pin renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, TcAttachType};
use polproof_flow::record::{Instant, NetnsCookie};

use super::attach::{HOOKS, HookRow, INTERFACE};
use super::error::ObserveError;
use super::links;
use super::load::{Observer, file, program};
use super::netlink::{Interface, failed};
use super::netns::now;
use super::tc::Direction;

impl Direction {
    /// The hook's name in aya.
    pub(super) fn tcx(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

/// A pinned link's name and its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pin {
    path: PathBuf,
    since: Instant,
}

/// The pinned links by namespace and hook.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    links: BTreeMap<(NetnsCookie, &'static str), Pin>,
    /// Namespaces whose links went to another one since this was last asked.
    robbed: BTreeSet<NetnsCookie>,
}

impl Pins {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            links: BTreeMap::new(),
            robbed: BTreeSet::new(),
        }
    }

    pub(super) fn cookies(&self) -> Vec<NetnsCookie> {
        let mut cookies: Vec<_> = self.links.keys().map(|(cookie, _)| *cookie).collect();
        cookies.dedup();
        cookies
    }

    fn path(&self, netns: NetnsCookie, hook: &str, since: Instant) -> PathBuf {
        self.directory
            .join(format!("{}-{hook}-{}", netns.0, since.0))
    }

    /// The namespace that one of these links was attached in, by the hook.
    fn owner(&self, hook: &'static str, links: &[u32]) -> Option<NetnsCookie> {
        self.links
            .iter()
            .filter(|((_, of), _)| *of == hook)
            .find(|(_, pin)| links::pinned(&pin.path).is_ok_and(|link| links.contains(&link.id)))
            .map(|((netns, _), _)| *netns)
    }

    /// Has the link of a device that came from one namespace be that of the namespace in which it is now.
    fn adopt(
        &mut self,
        from: NetnsCookie,
        netns: NetnsCookie,
        hook: &'static str,
        since: Instant,
    ) -> Result<bool, ObserveError> {
        let path = self.path(netns, hook, since);
        let Some(pin) = self.links.get(&(from, hook)) else {
            return Ok(false);
        };
        // In one step: killed at any moment, an agent leaves the link pinned under one of the names.
        std::fs::rename(&pin.path, &path).map_err(file("rename the pin of a link", &path))?;
        self.links.remove(&(from, hook));
        self.robbed.insert(from);
        self.links.insert((netns, hook), Pin { path, since });
        Ok(true)
    }

    /// Removes the pins of these namespaces' links; says how many there were.
    pub(super) fn release(&mut self, of: &[NetnsCookie]) -> usize {
        let before = self.links.len();
        for netns in of {
            for row in &HOOKS {
                self.remove(*netns, row.name());
            }
        }
        before - self.links.len()
    }

    /// Namespaces that lost their links to another one since the last call: what is sent there now is not seen.
    pub(super) fn take_robbed(&mut self) -> Vec<NetnsCookie> {
        std::mem::take(&mut self.robbed).into_iter().collect()
    }

    /// Removes one pin: the link ends with it.
    fn remove(&mut self, netns: NetnsCookie, hook: &'static str) {
        if let Some(pin) = self.links.remove(&(netns, hook)) {
            remove_pin(&pin.path);
        }
    }
}

fn remove_pin(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove the pin of a link");
        }
        _ => {}
    }
}

/// The meaning of a pin's file name; `None` for a name that is not ours.
fn parse_pin(name: &str) -> Option<(NetnsCookie, &'static str, Instant)> {
    let mut parts = name.split('-');
    let netns = NetnsCookie(parts.next()?.parse().ok()?);
    let hook = parts.next()?;
    let hook = HOOKS.iter().find(|row| row.name() == hook)?.name();
    let since = Instant(parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((netns, hook, since))
}

impl Observer {
    /// Replaces the program of every live pinned link by the one just loaded, and removes dead ones.
    pub(super) fn take_over_links(&mut self) -> Result<(), ObserveError> {
        let directory = self.pins.directory.clone();
        let entries = std::fs::read_dir(&directory).map_err(file("list", &directory))?;
        let (mut taken, mut dead) = (0_u32, 0_u32);
        for entry in entries {
            let entry = entry.map_err(file("list", &directory))?;
            let path = entry.path();
            let Some((netns, hook, since)) = entry.file_name().to_str().and_then(parse_pin) else {
                tracing::warn!(path = %path.display(), "a pin with a name that no agent of this version gave: left alone");
                continue;
            };
            if let Err(error) = self.take_over(&path, hook) {
                // Only a link whose device is gone may be removed: any other one still sees packets.
                if !links::pinned(&path).is_ok_and(|link| link.is_dead()) {
                    return Err(error);
                }
                dead += 1;
                remove_pin(&path);
                continue;
            }
            taken += 1;
            // Two pins of one hook: an agent died between making the second and removing the first.
            if let Some(earlier) = self.pins.links.insert((netns, hook), Pin { path, since }) {
                remove_pin(&earlier.path);
            }
        }
        if taken + dead > 0 {
            tracing::info!(taken, dead, "took over the links of an earlier agent");
        }
        Ok(())
    }

    fn take_over(&mut self, path: &Path, hook: &'static str) -> Result<(), ObserveError> {
        let row = HOOKS
            .iter()
            .find(|row| row.name() == hook)
            .ok_or(ObserveError::Missing("hook of that name"))?;
        let unusable = |error: LinkError| ObserveError::File {
            what: "take over the link pinned at",
            path: path.to_owned(),
            source: io::Error::other(error),
        };
        let link = FdLink::from(PinnedLink::from_pin(path).map_err(unusable)?);
        let link = SchedClassifierLink::try_from(link).map_err(unusable)?;
        let program = program(&mut self.ebpf, row.program)?;
        let id = program.attach_to_link(link)?;
        // Its pin keeps the link; a descriptor for each pod would be many.
        drop(program.take_link(id)?);
        Ok(())
    }

    /// Sees to it that one hook has a live, pinned link; returns since when it does. Runs inside the namespace.
    pub(super) fn ensure_link(
        &mut self,
        netns: NetnsCookie,
        row: &HookRow,
        interface: &Interface,
    ) -> Result<Instant, ObserveError> {
        let on_hook = || {
            links::on(interface.index, row.direction)
                .map_err(failed("list the links of eth0 (BPF_PROG_QUERY)"))
        };
        if let Some(pin) = self.pins.links.get(&(netns, row.name())) {
            match links::pinned(&pin.path) {
                // By the link itself: the number of an interface says nothing of the namespace that it is in.
                Ok(link) if on_hook()?.contains(&link.id) => return Ok(pin.since),
                // Of an eth0 that is no more, or is another namespace's now.
                Ok(_) => self.pins.remove(netns, row.name()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.pins.remove(netns, row.name());
                }
                Err(error) => return Err(file("read the link pinned at", &pin.path)(error)),
            }
        }
        let program = program(&mut self.ebpf, row.program)?;
        let id = match program.attach_with_options(
            INTERFACE,
            row.direction.tcx(),
            TcAttachOptions::TcxOrder(LinkOrder::default()),
        ) {
            Ok(id) => id,
            Err(error) if is_there(&error) => {
                let present = on_hook()?;
                let since = now();
                return match self.pins.owner(row.name(), &present) {
                    Some(from) if self.pins.adopt(from, netns, row.name(), since)? => {
                        tracing::info!(
                            hook = row.name(),
                            from = from.0,
                            to = netns.0,
                            "eth0 came from another network namespace with our program on it, which stays"
                        );
                        Ok(since)
                    }
                    // A link whose pin was removed lives for a moment longer: it is tried again.
                    _ => Err(error.into()),
                };
            }
            Err(error) => return Err(error.into()),
        };
        let since = now();
        let link = program.take_link(id)?;
        let link = FdLink::try_from(link).map_err(|error| ObserveError::Inside {
            what: "use the new link",
            source: io::Error::other(error),
        })?;
        let path = self.pins.path(netns, row.name(), since);
        link.pin(&path).map_err(|source| ObserveError::Pin {
            path: path.clone(),
            source,
        })?;
        self.pins
            .links
            .insert((netns, row.name()), Pin { path, since });
        Ok(since)
    }

    /// Removes the pins of links whose device is gone, and returns the namespaces that now have no link left.
    pub(super) fn collect_dead_links(&mut self) -> Vec<NetnsCookie> {
        let dead: Vec<_> = self
            .pins
            .links
            .iter()
            .filter(|(_, pin)| match links::pinned(&pin.path) {
                Ok(link) => link.is_dead(),
                // Anything else may pass, and the link live on.
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            })
            .map(|(key, _)| *key)
            .collect();
        for (netns, hook) in &dead {
            self.pins.remove(*netns, hook);
        }
        let mut gone: Vec<_> = dead.into_iter().map(|(netns, _)| netns).collect();
        gone.dedup();
        let left = self.pins.cookies();
        gone.retain(|netns| !left.contains(netns));
        gone
    }
}

/// Whether the kernel refuses to attach a program since it is attached there.
fn is_there(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EEXIST))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn pin_names() {
        let pins = Pins::new(PathBuf::from("/x"));
        let path = pins.path(NetnsCookie(77), "egress", Instant(123));
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(
            parse_pin(name),
            Some((NetnsCookie(77), "egress", Instant(123)))
        );
        for wrong in [
            "",
            "77",
            "77-egress",
            "77-sideways-1",
            "x-egress-1",
            "7-egress-1-2",
        ] {
            assert_eq!(parse_pin(wrong), None, "{wrong}");
        }
    }
}
