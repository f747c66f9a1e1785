//! Links on tcx (Linux 6.6), and their pins.
//!
//! A link is pinned as `links/<cookie>-<hook>-<since>`: the namespace's cookie, the row of [`HOOKS`], and the moment
//! (CLOCK_MONOTONIC, ns) from which it sees every packet. So a later agent knows what it takes over.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, TcAttachType};
use polproof_flow::record::{Instant, NetnsCookie};

use super::attach::{HOOKS, HookRow, INTERFACE};
use super::error::ObserveError;
use super::load::{Observer, file, program};
use super::netlink::Interface;
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
}

impl Pins {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            links: BTreeMap::new(),
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
                if !matches!(link_interface(&path), Ok(0)) {
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
        if let Some(pin) = self.pins.links.get(&(netns, row.name())) {
            match link_interface(&pin.path) {
                Ok(index) if index == interface.index => return Ok(pin.since),
                // Of an eth0 that is no more.
                Ok(_) => self.pins.remove(netns, row.name()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.pins.remove(netns, row.name());
                }
                Err(error) => return Err(file("read the link pinned at", &pin.path)(error)),
            }
        }
        let program = program(&mut self.ebpf, row.program)?;
        let id = program.attach_with_options(
            INTERFACE,
            row.direction.tcx(),
            TcAttachOptions::TcxOrder(LinkOrder::default()),
        )?;
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
            .filter(|(_, pin)| match link_interface(&pin.path) {
                Ok(index) => index == 0,
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

/// `BPF_OBJ_GET` and `BPF_OBJ_GET_INFO_BY_FD` of include/uapi/linux/bpf.h.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// The interface number of a pinned tcx link: 0 once the device is gone. aya does not tell it.
fn link_interface(path: &Path) -> io::Result<u32> {
    #[repr(C)]
    struct Get {
        path: u64,
        fd: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Ask {
        fd: u32,
        length: u32,
        info: u64,
    }
    /// `struct bpf_link_info`, with the `tcx` arm of its union.
    #[repr(C, align(8))]
    #[derive(Default)]
    struct LinkInfo {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        interface: u32,
        attach: u32,
    }
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let get = Get {
        path: name.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the structure is that of the command and its path ends in a zero byte and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const get, size_of::<Get>()) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = LinkInfo::default();
    let ask = Ask {
        fd: link.as_raw_fd().cast_unsigned(),
        length: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: &raw mut info as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is that large.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const ask,
            size_of::<Ask>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info.interface)
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
