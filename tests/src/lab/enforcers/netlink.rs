//! One request of netlink and its acknowledgement.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// A message under construction.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

const HEADER: usize = 16;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
const ACK: u16 = 4;
/// `NLM_F_EXCL`: it must not be there.
pub(super) const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`.
pub(super) const CREATE: u16 = 0x400;

impl Message {
    /// A request of that type with a body of its family.
    pub(super) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        let flags = flags | REQUEST | ACK;
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        Self { bytes }
    }

    /// With an attribute.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend(attribute(kind, value));
        self
    }

    /// Sends it inside the namespace. Fails with the kernel's error number.
    pub(super) fn send(mut self, netns: &Netns, protocol: libc::c_int) -> Result<()> {
        let length = u32::try_from(self.bytes.len())?;
        if let Some(field) = self.bytes.get_mut(..4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        netns.run(move || exchange(&self.bytes, protocol))?
    }
}

/// An attribute, padded.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn exchange(request: &[u8], protocol: libc::c_int) -> Result<()> {
    // SAFETY: no pointers are passed.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            protocol,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("open a netlink socket");
    }
    // SAFETY: the descriptor was just made and is ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the buffer is as long as said and outlives the call.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            request.as_ptr().cast(),
            request.len(),
            0,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error()).context("send a netlink request");
    }
    let mut answer = [0_u8; 4096];
    // SAFETY: as above.
    let received = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            0,
        )
    };
    if received < 0 {
        return Err(io::Error::last_os_error()).context("read a netlink answer");
    }
    let Some(code) = answer
        .get(HEADER..HEADER + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes)
        .filter(|_| received >= 20)
    else {
        bail!("a netlink answer of {received} bytes is too short");
    };
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)).context("netlink"),
    }
}
