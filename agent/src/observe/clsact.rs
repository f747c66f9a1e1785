//! Filters on clsact, for kernels without tcx.
//!
//! A filter needs no pin: it lives as long as the device, and keeps its program and the program's maps. What a later
//! agent must know of it stands in its name, which `tc filter show dev eth0 ingress` prints:
//!
//! ```text
//! polproof:<hook>:<ring>:<namespace>:<since>:<qdisc>:<bpf directory>
//! ```
//!
//! `ring` is the kernel's id of the ring buffer that it writes into, `since` the moment (CLOCK_MONOTONIC, ns) from which
//! it sees every packet, `qdisc` is `made` if we added clsact for it and `found` if it was there. So nothing has to be kept
//! on disk, and nothing on disk can contradict what is attached.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use polproof_flow::record::{Instant, NetnsCookie};

use super::attach::{HookRow, INTERFACE};
use super::error::ObserveError;
use super::identity::{Generations, Identity};
use super::load::{Observer, program};
use super::netlink::{self, Interface};
use super::netns::{now, visit};
use super::tc::{self, Direction, Filter, Place, Qdisc};

/// Our place among the filters: nobody's custom, so that `tc filter add` of others without a priority, which counts
/// down from 49152, or with a small one does not meet it.
const PRIORITY: u16 = 0x7070;
/// The first of our handles; another agent's filter takes the next.
const HANDLE: u32 = 0x7070;
/// Filters of ours in one place that are met at most: one for each agent of the node.
const HANDLES: u32 = 16;

/// The kernel takes names of up to 255 bytes; a longer path is cut from the left.
const MAX_DIRECTORY: usize = 120;

/// What the name of one of our filters says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    hook: String,
    /// The map id of the ring buffer; a filter of another ring is of no use to us.
    ring: u32,
    netns: NetnsCookie,
    /// 0 while it is being attached.
    since: Instant,
    /// Whether we added the qdisc.
    qdisc_made: bool,
    pub(super) directory: String,
}

impl Label {
    fn text(&self) -> String {
        format!(
            "polproof:{}:{}:{}:{}:{}:{}",
            self.hook,
            self.ring,
            self.netns.0,
            self.since.0,
            if self.qdisc_made { "made" } else { "found" },
            self.directory
        )
    }

    /// `None` for the name of somebody else's filter.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("polproof:")?.splitn(6, ':');
        let hook = parts.next()?.to_owned();
        let ring = parts.next()?.parse().ok()?;
        let netns = NetnsCookie(parts.next()?.parse().ok()?);
        let since = Instant(parts.next()?.parse().ok()?);
        let qdisc_made = match parts.next()? {
            "made" => true,
            "found" => false,
            _ => return None,
        };
        let directory = parts.next()?.to_owned();
        Some(Self {
            hook,
            ring,
            netns,
            since,
            qdisc_made,
            directory,
        })
    }
}

/// A directory as it stands in the names.
pub(super) fn directory_label(directory: &Path) -> String {
    let text = directory.to_string_lossy();
    let from = text.len().saturating_sub(MAX_DIRECTORY);
    let from = (from..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or_default();
    text.get(from..).unwrap_or_default().to_owned()
}

/// Our filters, as far as this agent has met them.
#[derive(Debug)]
pub(super) struct Filters {
    ring: u32,
    directory: String,
    identity: Identity,
    held: BTreeMap<NetnsCookie, Held>,
}

/// Where filters of ours are.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    index: u32,
}

impl Filters {
    pub(super) fn new(ring: u32, directory: &Path, identity: Identity) -> Self {
        Self {
            ring,
            identity,
            directory: directory_label(directory),
            held: BTreeMap::new(),
        }
    }

    pub(super) fn hold(&mut self, netns: NetnsCookie, path: &Path, index: u32) {
        let path = path.to_owned();
        self.held.insert(netns, Held { path, index });
    }

    pub(super) fn cookies(&self) -> Vec<NetnsCookie> {
        self.held.keys().copied().collect()
    }

    /// Forgets namespaces that cannot be entered any more or have lost their device: the filters ended with it.
    pub(super) fn collect_dead(&mut self) -> Vec<NetnsCookie> {
        let gone: Vec<_> = self
            .held
            .iter()
            .filter(|(netns, held)| !held.is_alive(self.identity, **netns))
            .map(|(netns, _)| *netns)
            .collect();
        for netns in &gone {
            self.held.remove(netns);
        }
        gone
    }

    fn is_ours(&self, filter: &Filter) -> Option<Label> {
        label(filter).filter(|label| label.directory == self.directory)
    }
}

impl Held {
    fn is_alive(&self, identity: Identity, netns: NetnsCookie) -> bool {
        let asked = visit(&self.path, || {
            let same = identity.matches(netns, identity.here()?);
            let interface = netlink::interface(INTERFACE)?;
            Ok(same && interface.is_some_and(|interface| interface.index == self.index))
        });
        match asked {
            Ok(alive) => alive,
            // The file is gone, or is a plain one again. Anything else may pass.
            Err(ObserveError::Enter { source, .. }) => !matches!(
                source.raw_os_error(),
                Some(libc::ENOENT | libc::EINVAL | libc::ENOTDIR)
            ),
            Err(_) => true,
        }
    }
}

/// What the filter's name says, if it is one of polproof's.
pub(super) fn label(filter: &Filter) -> Option<Label> {
    if filter.kind != "bpf" || filter.priority != PRIORITY {
        return None;
    }
    filter.name.as_deref().and_then(Label::parse)
}

impl Observer {
    /// The identity of the namespace that we are in: what our filters there say, or a new one. Runs inside it.
    pub(super) fn identify(
        &self,
        here: NetnsCookie,
        interface: &Interface,
    ) -> Result<NetnsCookie, ObserveError> {
        if self.identity == Identity::Cookie {
            return Ok(here);
        }
        if tc::qdisc(interface.index)? == Qdisc::Clsact {
            for direction in Direction::BOTH {
                let known = tc::filters(interface.index, direction)?
                    .iter()
                    .filter_map(|filter| self.filters.is_ours(filter))
                    .find(|label| {
                        label.ring == self.filters.ring
                            && label.since != Instant(0)
                            && self.identity.matches(label.netns, here)
                    });
                if let Some(label) = known {
                    self.generations.learn(label.netns, label.since);
                    return Ok(label.netns);
                }
            }
        }
        let now = now();
        let fresh = Generations::fresh(here, now);
        // Before the first record of it can be read.
        self.generations.learn(fresh, now);
        Ok(fresh)
    }

    /// Sees to it that one hook has a filter with our present program; returns since when one of ours has been there.
    /// Runs inside the namespace.
    pub(super) fn ensure_filter(
        &mut self,
        netns: NetnsCookie,
        row: &HookRow,
        interface: &Interface,
    ) -> Result<Instant, ObserveError> {
        let failed = |what| move |source| ObserveError::Inside { what, source };
        let index = interface.index;
        let mut qdisc_made = match tc::qdisc(index)? {
            Qdisc::Clsact => made_by_us(&self.filters, index)?,
            Qdisc::Absent => tc::add_clsact(index).map_err(failed(
                "add the qdisc clsact to eth0 (is the kernel module sch_ingress there?)",
            ))?,
            Qdisc::Ingress => {
                return Err(failed(
                    "add the qdisc clsact to eth0, since somebody's qdisc ingress takes its place: remove it \
                     (tc qdisc del dev eth0 ingress)",
                )(io::Error::from_raw_os_error(libc::EBUSY)));
            }
        };
        let present = tc::filters(index, row.direction)?;
        let mine = present
            .iter()
            .find_map(|filter| Some((filter, self.filters.is_ours(filter)?)));
        let mut place = Place {
            index,
            direction: row.direction,
            priority: PRIORITY,
            handle: HANDLE,
        };
        let own = self.ours.id(row.direction);
        let program = program(&mut self.ebpf, row.program)?;
        let fd = program.fd()?;
        let put = |place: Place, label: &Label| {
            place.put(fd.as_fd(), &label.text()).map_err(failed(
                "attach a filter to clsact of eth0 (is the kernel module cls_bpf there?)",
            ))
        };
        if let Some((filter, label)) = mine {
            place.handle = filter.handle;
            qdisc_made |= label.qdisc_made;
            let continuous = label.ring == self.filters.ring
                && label.netns == netns
                && label.hook == row.name()
                && label.since != Instant(0);
            if continuous {
                if filter.program != Some(own) {
                    put(place, &label)?;
                }
                return Ok(label.since);
            }
        } else {
            let taken = |handle: &u32| {
                let sits = |f: &Filter| f.priority == PRIORITY && f.handle == *handle;
                present.iter().any(sits)
            };
            place.handle = (HANDLE..HANDLE + HANDLES)
                .find(|handle| !taken(handle))
                .ok_or_else(|| {
                    failed("attach a filter to clsact of eth0, where 16 other agents' are")(
                        io::Error::from_raw_os_error(libc::ENOSPC),
                    )
                })?;
        }
        let mut label = Label {
            hook: row.name().to_owned(),
            ring: self.filters.ring,
            netns,
            since: Instant(0),
            qdisc_made,
            directory: self.filters.directory.clone(),
        };
        // The moment is known once it is there: its name is then replaced, and with it nothing else.
        put(place, &label)?;
        label.since = now();
        put(place, &label)?;
        Ok(label.since)
    }
}

/// Whether a filter of ours in either direction says that we added the qdisc.
fn made_by_us(filters: &Filters, index: u32) -> Result<bool, ObserveError> {
    for direction in Direction::BOTH {
        let made = tc::filters(index, direction)?
            .iter()
            .filter_map(|filter| filters.is_ours(filter))
            .any(|label| label.qdisc_made);
        if made {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What [`sweep`] did in one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Filters removed.
    pub(crate) filters: u32,
    /// Whether the qdisc went too.
    pub(crate) qdiscs: u32,
    /// Filters of agents with another directory, which were left.
    pub(crate) others: u32,
}

/// Removes the filters of the agents with this directory from every interface of the namespace, and a clsact that one
/// of them had added and that is empty now.
pub(crate) fn sweep(netns: &Path, bpf_dir: &Path) -> Result<Swept, ObserveError> {
    let directory = directory_label(bpf_dir);
    visit(netns, || {
        let mut swept = Swept::default();
        for index in tc::with_clsact()? {
            sweep_interface(index, &directory, &mut swept)?;
        }
        Ok(swept)
    })
}

fn sweep_interface(index: u32, directory: &str, swept: &mut Swept) -> Result<(), ObserveError> {
    let mut made = false;
    let mut left = false;
    for direction in Direction::BOTH {
        for filter in tc::filters(index, direction)? {
            match label(&filter) {
                Some(label) if label.directory == directory => {
                    let place = Place {
                        index,
                        direction,
                        priority: filter.priority,
                        handle: filter.handle,
                    };
                    match place.clear() {
                        // It went by itself: the device did.
                        Err(error) if is_gone(&error) => {}
                        other => other.map_err(netlink::failed("remove a tc filter"))?,
                    }
                    swept.filters += 1;
                    made |= label.qdisc_made;
                }
                other => {
                    left = true;
                    swept.others += u32::from(other.is_some());
                }
            }
        }
    }
    // Whoever adds a filter between the look and this loses it: the kernel has no conditional removal.
    if made && !left {
        match tc::remove_clsact(index) {
            Err(error) if is_gone(&error) => {}
            other => other.map_err(netlink::failed("remove the qdisc clsact"))?,
        }
        swept.qdiscs += 1;
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn example() -> Label {
        Label {
            hook: "egress".to_owned(),
            ring: 7,
            netns: NetnsCookie(77),
            since: Instant(123),
            qdisc_made: true,
            directory: "/sys/fs/bpf/a:b".to_owned(),
        }
    }

    #[test]
    fn a_name_says_what_it_was_given() {
        let text = example().text();
        assert_eq!(text, "polproof:egress:7:77:123:made:/sys/fs/bpf/a:b");
        assert_eq!(Label::parse(&text), Some(example()));
        for wrong in [
            "",
            "polproof",
            "polproof:egress:7:77:123:made",
            "polproof:egress:7:77:123:bought:/x",
            "polproof:egress:x:77:123:made:/x",
            "cilium:egress:7:77:123:made:/x",
        ] {
            assert_eq!(Label::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_long_directory_is_cut_to_what_the_kernel_takes() {
        let long = format!("/sys/fs/bpf/{}", "ä".repeat(400));
        let label = Label {
            ring: u32::MAX,
            netns: NetnsCookie(u64::MAX),
            since: Instant(u64::MAX),
            directory: directory_label(Path::new(&long)),
            ..example()
        };
        assert!(label.text().len() < 256, "{}", label.text().len());
        assert_eq!(Label::parse(&label.text()), Some(label));
        assert_eq!(directory_label(Path::new("/x")), "/x");
    }
}
