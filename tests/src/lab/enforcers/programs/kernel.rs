//! The few commands of bpf(2) and rtnetlink that it takes to get a program onto an interface.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context, Result};

use super::super::netlink::{CREATE, EXCLUSIVE, Message, attribute};
use crate::netns::Netns;

const MAP_CREATE: libc::c_long = 0;
const MAP_DELETE: libc::c_long = 3;
const MAP_NEXT_KEY: libc::c_long = 4;
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;
const MAP_TYPE_LRU_HASH: u32 = 9;
const PROG_TYPE_SCHED_CLS: u32 = 3;

/// Connections that a node remembers.
const MOST_CONNECTIONS: u32 = 65_536;

/// A hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Ingress,
    Egress,
}

fn bpf(command: libc::c_long, attributes: &mut [u8]) -> io::Result<RawFd> {
    // SAFETY: the attributes are as long as said, and what they point to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            attributes.len(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

fn descriptor(command: libc::c_long, attributes: &mut [u8]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: called only with commands that return a descriptor that is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A map of connections and when they were last seen.
pub(super) fn connections(key_size: u32) -> Result<OwnedFd> {
    let fields = [MAP_TYPE_LRU_HASH, key_size, 8, MOST_CONNECTIONS, 0];
    let mut attributes: Vec<u8> = fields.into_iter().flat_map(u32::to_ne_bytes).collect();
    descriptor(MAP_CREATE, &mut attributes).context("make a map of connections")
}

/// Empties it.
pub(super) fn clear(map: &OwnedFd, key_size: usize) -> Result<()> {
    let mut key = vec![0_u8; key_size];
    for _ in 0..=MOST_CONNECTIONS {
        let next = key.as_mut_ptr() as u64;
        match bpf(MAP_NEXT_KEY, &mut entry(map, 0, next)) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            Err(error) => return Err(error).context("find a connection"),
        }
        match bpf(MAP_DELETE, &mut entry(map, next, 0)) {
            Ok(_) => {}
            // A program was faster.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error).context("forget a connection"),
        }
    }
    Ok(())
}

fn entry(map: &OwnedFd, key: u64, value: u64) -> Vec<u8> {
    let mut attributes = Vec::new();
    attributes.extend(map.as_raw_fd().to_ne_bytes());
    attributes.extend([0; 4]);
    attributes.extend(key.to_ne_bytes());
    attributes.extend(value.to_ne_bytes());
    attributes.extend([0; 8]);
    attributes
}

/// Loads a program for an interface's hook.
pub(super) fn load(instructions: &[u8]) -> Result<OwnedFd> {
    let load = |log: &mut [u8]| {
        let count = u32::try_from(instructions.len() / 8).map_err(io::Error::other)?;
        let size = u32::try_from(log.len()).map_err(io::Error::other)?;
        let license = c"GPL";
        let mut attributes = Vec::new();
        attributes.extend(PROG_TYPE_SCHED_CLS.to_ne_bytes());
        attributes.extend(count.to_ne_bytes());
        attributes.extend((instructions.as_ptr() as u64).to_ne_bytes());
        attributes.extend((license.as_ptr() as u64).to_ne_bytes());
        attributes.extend(u32::from(!log.is_empty()).to_ne_bytes());
        attributes.extend(size.to_ne_bytes());
        let at = if log.is_empty() {
            0
        } else {
            log.as_mut_ptr() as u64
        };
        attributes.extend(at.to_ne_bytes());
        descriptor(PROG_LOAD, &mut attributes)
    };
    load(&mut []).or_else(|error| {
        let mut log = vec![0_u8; 1 << 20];
        load(&mut log).map_err(|_| {
            let text = String::from_utf8_lossy(&log);
            let text = text.trim_end_matches('\0').trim_end();
            let tail = text.len().saturating_sub(1500);
            anyhow::anyhow!(
                "load a program of {} instructions: {error}; the verifier's last words: {}",
                instructions.len() / 8,
                text.get(tail..).unwrap_or(text)
            )
        })
    })
}

/// Puts a program onto a hook by a link of tcx. To be called inside the interface's namespace.
pub(super) fn link(program: &OwnedFd, interface: u32, side: Side) -> Result<OwnedFd> {
    let kind = match side {
        Side::Ingress => crate::foreign::ATTACH_TCX_INGRESS,
        Side::Egress => crate::foreign::ATTACH_TCX_EGRESS,
    };
    let mut attributes = Vec::new();
    attributes.extend(program.as_raw_fd().to_ne_bytes());
    attributes.extend(interface.to_ne_bytes());
    attributes.extend(kind.to_ne_bytes());
    attributes.extend([0; 20]);
    descriptor(LINK_CREATE, &mut attributes).context("attach by tcx")
}

/// Puts another program behind a link.
pub(super) fn relink(link: &OwnedFd, program: &OwnedFd) -> Result<()> {
    let mut attributes = Vec::new();
    attributes.extend(link.as_raw_fd().to_ne_bytes());
    attributes.extend(program.as_raw_fd().to_ne_bytes());
    attributes.extend([0; 8]);
    bpf(LINK_UPDATE, &mut attributes)
        .map(drop)
        .context("replace a program of tcx")
}

/// Takes a link's program off now. Closing the descriptor might not: a process that is just being started has it, too.
pub(super) fn unlink(link: &OwnedFd) -> Result<()> {
    let mut attributes = link.as_raw_fd().to_ne_bytes();
    match bpf(LINK_DETACH, &mut attributes) {
        Ok(_) => Ok(()),
        // With its interface it went by itself.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOLINK | libc::ENODEV)) => Ok(()),
        Err(error) => Err(error).context("take a program of tcx off"),
    }
}

/// `struct tcmsg`.
fn traffic_control(interface: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for field in [interface, handle, parent, info] {
        body.extend(field.to_ne_bytes());
    }
    body
}

/// `ETH_P_ALL`.
const EVERY_PROTOCOL: u16 = 3;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;

/// Adds the clsact qdisc, unless it is there.
pub(super) fn add_clsact(netns: &Netns, interface: u32) -> Result<()> {
    let body = traffic_control(interface, CLSACT_HANDLE, CLSACT, 0);
    let made = Message::new(libc::RTM_NEWQDISC, CREATE | EXCLUSIVE, &body)
        .with(KIND, b"clsact\0")
        .send(netns, libc::NETLINK_ROUTE);
    match made {
        Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
        other => other.context("add clsact"),
    }
}

/// Takes it away with all its filters; an interface that is gone has none.
pub(super) fn delete_clsact(netns: &Netns, interface: u32) -> Result<()> {
    let body = traffic_control(interface, CLSACT_HANDLE, CLSACT, 0);
    let gone = Message::new(libc::RTM_DELQDISC, 0, &body)
        .with(KIND, b"clsact\0")
        .send(netns, libc::NETLINK_ROUTE);
    match gone {
        Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(()),
        other => other.context("delete clsact"),
    }
}

/// Makes a program the filter of a side, in place of the one before.
pub(super) fn filter(netns: &Netns, interface: u32, side: Side, program: &OwnedFd) -> Result<()> {
    let parent = match side {
        Side::Ingress => 0xffff_fff2,
        Side::Egress => 0xffff_fff3,
    };
    // Priority 1, every protocol.
    let info = 1 << 16 | u32::from(EVERY_PROTOCOL.to_be());
    let mut options = attribute(6, &program.as_raw_fd().to_ne_bytes());
    options.extend(attribute(7, b"polproof_lab\0"));
    // Its result is what happens.
    options.extend(attribute(8, &1_u32.to_ne_bytes()));
    Message::new(
        libc::RTM_NEWTFILTER,
        CREATE,
        &traffic_control(interface, 1, parent, info),
    )
    .with(KIND, b"bpf\0")
    .with(OPTIONS, &options)
    .send(netns, libc::NETLINK_ROUTE)
    .context("attach by clsact")
}

fn errno(error: &anyhow::Error) -> Option<i32> {
    error.downcast_ref::<io::Error>()?.raw_os_error()
}
