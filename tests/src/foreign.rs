//! The smallest BPF programs of somebody else: `return verdict;`. To be noticed as foreign, and as the control of a
//! measurement.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::netns::Netns;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ENABLE_STATS: libc::c_long = 32;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;

/// `BPF_XDP` of include/uapi/linux/bpf.h.
pub const ATTACH_XDP: u32 = 37;
/// `BPF_TCX_INGRESS`.
pub const ATTACH_TCX_INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS`.
pub const ATTACH_TCX_EGRESS: u32 = 47;

/// A program on a hook, as long as this lives.
#[derive(Debug)]
pub struct Foreign {
    program: OwnedFd,
    _link: OwnedFd,
}

fn bpf(command: libc::c_long, attributes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are as long as said, and what they point to outlives the call.
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
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: all commands used here return a descriptor that is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program that returns `verdict` to eth0 of the namespace, on one of the `ATTACH_*`.
pub fn attach(netns: &Netns, attach: u32, verdict: i32) -> Result<Foreign> {
    netns.run(|| -> Result<Foreign> {
        let index = nix::net::if_::if_nametoindex("eth0")?;
        // r0 = verdict; exit
        let mut instructions = vec![0xb7, 0, 0, 0];
        instructions.extend(verdict.to_le_bytes());
        instructions.extend(0x95_u64.to_le_bytes());
        let license = c"GPL";
        let kind = if attach == ATTACH_XDP {
            BPF_PROG_TYPE_XDP
        } else {
            BPF_PROG_TYPE_SCHED_CLS
        };
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
        create.extend([0; 20]);
        let link = bpf(BPF_LINK_CREATE, &create).context("attach a foreign program")?;
        Ok(Foreign {
            program,
            _link: link,
        })
    })?
}

impl Foreign {
    /// What the program has cost so far.
    pub fn cost(&self) -> Result<Cost> {
        cost(&self.program)
    }
}

/// Run time of a program while [`enable_stats`] is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Time in it, with one reading of the clock, in nanoseconds.
    pub run_time_ns: u64,
    /// How often it ran.
    pub runs: u64,
}

impl Cost {
    /// What came after an earlier reading.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            run_time_ns: self.run_time_ns.saturating_sub(earlier.run_time_ns),
            runs: self.runs.saturating_sub(earlier.runs),
        }
    }
}

/// Has the kernel measure all BPF programs until the descriptor is dropped.
pub fn enable_stats() -> Result<OwnedFd> {
    bpf(BPF_ENABLE_STATS, &0_u32.to_ne_bytes()).context("enable BPF statistics")
}

/// Cost of the program with that id.
pub fn cost_of(id: u32) -> Result<Cost> {
    let mut attributes = Vec::new();
    attributes.extend(id.to_ne_bytes());
    attributes.extend([0; 8]);
    cost(&bpf(BPF_PROG_GET_FD_BY_ID, &attributes).context("find a program by id")?)
}

fn cost(program: &OwnedFd) -> Result<Cost> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let field = |name: &str| -> Result<u64> {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .with_context(|| format!("fdinfo has no {name}"))?;
        Ok(value.trim().parse()?)
    };
    Ok(Cost {
        run_time_ns: field("run_time_ns")?,
        runs: field("run_cnt")?,
    })
}
