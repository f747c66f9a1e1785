//! Queueing disciplines and filters of the classic traffic control, of one interface in the calling thread's namespace.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::error::ObserveError;
use super::netlink::{
    Attributes, NLM_F_CREATE, NLM_F_EXCL, attribute, change, dump, failed, u32_at,
};

const TCMSG: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
/// The program's return value is the verdict.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;

/// One of the two chains of clsact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Into the pod.
    Ingress,
    /// Out of the pod.
    Egress,
}

impl Direction {
    pub(super) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

/// What holds the filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Qdisc {
    /// Nothing.
    Absent,
    /// `clsact`: both directions.
    Clsact,
    /// `ingress`, which takes clsact's place and knows one direction only.
    Ingress,
}

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// `bpf`, `u32`, `flower`, ...
    pub(super) kind: String,
    pub(super) priority: u16,
    pub(super) handle: u32,
    /// Id of a BPF filter's program.
    pub(super) program: Option<u32>,
    /// Name that whoever attached a BPF filter gave it.
    pub(super) name: Option<String>,
}

/// Which of the two qdiscs the interface has.
pub(super) fn qdisc(index: u32) -> Result<Qdisc, ObserveError> {
    let mut found = Qdisc::Absent;
    qdiscs(|owner, qdisc| {
        if owner == index {
            found = qdisc;
        }
    })?;
    Ok(found)
}

/// The interfaces that have clsact.
pub(super) fn with_clsact() -> Result<Vec<u32>, ObserveError> {
    let mut found = Vec::new();
    qdiscs(|owner, qdisc| {
        if qdisc == Qdisc::Clsact {
            found.push(owner);
        }
    })?;
    Ok(found)
}

/// Hands on every qdisc of the two kinds; the kernel's dump knows no filter by interface.
fn qdiscs(mut each: impl FnMut(u32, Qdisc)) -> Result<(), ObserveError> {
    dump(libc::RTM_GETQDISC, &tcmsg(0, 0, 0, 0), |kind, body| {
        if kind != libc::RTM_NEWQDISC {
            return;
        }
        let Some(index) = u32_at(body, 4) else {
            return;
        };
        match kind_of(body).as_deref() {
            Some("clsact") => each(index, Qdisc::Clsact),
            Some("ingress") => each(index, Qdisc::Ingress),
            _ => {}
        }
    })
    .map_err(failed("list queueing disciplines"))
}

/// The filters of one direction, in the order of the kernel.
pub(super) fn filters(index: u32, direction: Direction) -> Result<Vec<Filter>, ObserveError> {
    let mut found: Vec<Filter> = Vec::new();
    let asked = tcmsg(index, 0, direction.parent(), 0);
    let dumped = dump(libc::RTM_GETTFILTER, &asked, |kind, body| {
        if kind == libc::RTM_NEWTFILTER
            && let Some(filter) = parse(body)
        {
            found.push(filter);
        }
    });
    match dumped {
        // The qdisc vanished, or (`ingress`) has no such chain.
        Err(error) if found.is_empty() && error.raw_os_error().is_some_and(no_such) => {}
        other => other.map_err(failed("list tc filters"))?,
    }
    // Each priority is listed once as itself, without a handle, and then with each of its filters.
    let with_handles: Vec<_> = found
        .iter()
        .filter(|filter| filter.handle != 0)
        .map(|filter| filter.priority)
        .collect();
    found.retain(|filter| filter.handle != 0 || !with_handles.contains(&filter.priority));
    Ok(found)
}

fn no_such(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP)
}

fn parse(body: &[u8]) -> Option<Filter> {
    let information = u32_at(body, 16)?;
    let mut filter = Filter {
        kind: kind_of(body).unwrap_or_else(|| "of an unknown kind".to_owned()),
        priority: u16::try_from(information >> 16).ok()?,
        handle: u32_at(body, 8)?,
        program: None,
        name: None,
    };
    if filter.kind == "bpf" {
        let options = Attributes(body.get(TCMSG..)?)
            .filter(|(kind, _)| *kind == TCA_OPTIONS)
            .flat_map(|(_, nested)| Attributes(nested));
        for (kind, value) in options {
            match kind {
                TCA_BPF_ID => filter.program = u32_at(value, 0),
                TCA_BPF_NAME => filter.name = Some(text(value)),
                _ => {}
            }
        }
    }
    Some(filter)
}

/// Adds clsact; says whether it was not there.
pub(super) fn add_clsact(index: u32) -> io::Result<bool> {
    let mut body = tcmsg(index, CLSACT_HANDLE, CLSACT, 0).to_vec();
    attribute(&mut body, TCA_KIND, b"clsact\0")?;
    match change(libc::RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &body) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes clsact with whatever filters it holds.
pub(super) fn remove_clsact(index: u32) -> io::Result<()> {
    let mut body = tcmsg(index, CLSACT_HANDLE, CLSACT, 0).to_vec();
    attribute(&mut body, TCA_KIND, b"clsact\0")?;
    change(libc::RTM_DELQDISC, 0, &body)
}

/// Where a filter of ours sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) index: u32,
    pub(super) direction: Direction,
    pub(super) priority: u16,
    pub(super) handle: u32,
}

impl Place {
    fn message(self) -> io::Result<Vec<u8>> {
        let protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
        let information = u32::from(self.priority) << 16 | u32::from(protocol.to_be());
        let parent = self.direction.parent();
        let mut body = tcmsg(self.index, self.handle, parent, information).to_vec();
        attribute(&mut body, TCA_KIND, b"bpf\0")?;
        Ok(body)
    }

    /// Puts a program there. One that is there is replaced in place: each packet meets the old or the new one.
    pub(super) fn put(self, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let mut options = Vec::new();
        let fd = program.as_raw_fd().cast_unsigned().to_ne_bytes();
        attribute(&mut options, TCA_BPF_FD, &fd)?;
        attribute(
            &mut options,
            TCA_BPF_NAME,
            &[name.as_bytes(), b"\0"].concat(),
        )?;
        let flags = TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes();
        attribute(&mut options, TCA_BPF_FLAGS, &flags)?;
        let mut body = self.message()?;
        attribute(&mut body, TCA_OPTIONS, &options)?;
        change(libc::RTM_NEWTFILTER, NLM_F_CREATE, &body)
    }

    /// Takes the filter away.
    pub(super) fn clear(self) -> io::Result<()> {
        change(libc::RTM_DELTFILTER, 0, &self.message()?)
    }
}

fn kind_of(body: &[u8]) -> Option<String> {
    let (_, value) =
        Attributes(body.get(TCMSG..)?).find(|(attribute, _)| *attribute == TCA_KIND)?;
    Some(text(value))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// `struct tcmsg`: interface, handle, parent, and (priority, protocol).
fn tcmsg(index: u32, handle: u32, parent: u32, information: u32) -> [u8; TCMSG] {
    let mut body = [0; TCMSG];
    let (_, rest) = body.split_at_mut(4);
    for (place, value) in rest
        .chunks_exact_mut(4)
        .zip([index, handle, parent, information])
    {
        place.copy_from_slice(&value.to_ne_bytes());
    }
    body
}
