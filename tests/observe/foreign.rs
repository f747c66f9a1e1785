//! The smallest programs of somebody else: `return verdict;`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use polproof_tests::netns::Netns;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
pub const ATTACH_XDP: u32 = 37;
pub const ATTACH_TCX_INGRESS: u32 = 46;
pub const ATTACH_TCX_EGRESS: u32 = 47;

/// Attached as long as it lives.
#[derive(Debug)]
pub struct Foreign {
    _program: OwnedFd,
    _link: OwnedFd,
}

fn bpf(command: libc::c_long, attributes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are as long as said; pointers in them outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            attributes.len(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a descriptor of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) })
}

/// Attaches a program that returns `verdict` to eth0 of the namespace.
pub fn attach(netns: &Netns, attach: u32, verdict: i32) -> Result<Foreign> {
    netns.run(|| -> Result<Foreign> {
        let index = nix::net::if_::if_nametoindex("eth0")?;
        // r0 = verdict; exit
        let mut instructions = Vec::new();
        instructions.extend(0xb7_u64.to_le_bytes());
        instructions[4..8].copy_from_slice(&verdict.to_le_bytes());
        instructions.extend(0x95_u64.to_le_bytes());
        let license = c"GPL";
        let kind = if attach == ATTACH_XDP { XDP } else { SCHED_CLS };
        let mut load = Vec::new();
        load.extend(kind.to_ne_bytes());
        load.extend(2_u32.to_ne_bytes());
        load.extend((instructions.as_ptr() as u64).to_ne_bytes());
        load.extend((license.as_ptr() as u64).to_ne_bytes());
        let program = bpf(BPF_PROG_LOAD, &load).context("load a foreign program")?;
        let mut create = Vec::new();
        create.extend(program.as_raw_fd().to_ne_bytes());
        create.extend(index.to_ne_bytes());
        create.extend(attach.to_ne_bytes());
        create.extend(0_u32.to_ne_bytes());
        create.extend([0; 16]);
        let link = bpf(BPF_LINK_CREATE, &create).context("attach a foreign program")?;
        Ok(Foreign {
            _program: program,
            _link: link,
        })
    })?
}
