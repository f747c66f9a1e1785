//! A node's plans as programs for the hooks of its interfaces.
//!
//! ```text
//! parse -> [closed? drop] -> [remembered? pass] -> [open? pass] -> guards: drop | remember, pass
//!                                                                            '-> to a local pod: its own guards, redirect
//! ```
//!
//! Everything about the rules is in the instructions: a change is a new program.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use polproof_policy::{Direction, Family, Protocol};

use super::super::plan::{Guard, Peers, Plan};
use super::assembler::{
    Assembler, FP, If, Label, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Routine, Width,
};

/// `TC_ACT_UNSPEC`, `TCX_NEXT`: the next program, or on.
const PASS: i32 = -1;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;

// Offsets in struct __sk_buff.
const PROTOCOL: i16 = 16;

// The frame: what is remembered of a connection, then what was read of the headers.
/// Interface, protocol, the pod's address, the peer's, the pod's port, the peer's.
const KEY: i16 = -48;
/// Bytes of a key.
pub(super) const KEY_SIZE: u32 = 48;
const LOCAL: i16 = KEY + 8;
const REMOTE: i16 = KEY + 24;
const PORTS: i16 = KEY + 40;
const NOW: i16 = -56;
const SCRATCH: i16 = -64;
/// The IP header; IPv6's, the longest, has 40 bytes.
const HEADER: i16 = -104;

/// How long a datagram's connection is remembered, as conntrack does.
const IDLE: Duration = Duration::from_secs(30);
/// Ports from here on are clients'.
const EPHEMERAL: u32 = 32_768;

/// A pod's end on the host.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) interface: u32,
    pub(super) addresses: Vec<IpAddr>,
}

/// What a program is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role<'a> {
    /// Ingress of a pod's veth: what the pod sends.
    FromPod(&'a Port),
    /// Egress of a pod's veth: what it is to get.
    ToPod(&'a Port),
    /// Ingress of any other interface, where allowed packets are redirected.
    Uplink,
}

/// A node's rules, ready to be compiled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) plans: &'a [Plan; 2],
    /// The map of connections, if they are remembered.
    pub(super) map: Option<i32>,
    /// Local pods that packets are redirected to.
    pub(super) redirect: &'a [Port],
    /// What to add to an `Instant`'s distance from now to get the kernel's clock.
    pub(super) clock: Clock,
}

/// A moment of both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) instant: Instant,
    pub(super) kernel: Duration,
}

impl Clock {
    fn kernel_time(self, at: Instant) -> u64 {
        let later = at.saturating_duration_since(self.instant);
        let earlier = self.instant.saturating_duration_since(at);
        let time = (self.kernel + later).saturating_sub(earlier);
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
    }
}

struct Compiler<'a> {
    asm: Assembler,
    rules: Rules<'a>,
    pass: Label,
    drop: Label,
}

/// The program for one hook.
pub(super) fn program(rules: Rules<'_>, role: Role<'_>) -> Result<Vec<u8>> {
    let mut asm = Assembler::default();
    let (pass, drop) = (asm.label(), asm.label());
    let mut this = Compiler {
        asm,
        rules,
        pass,
        drop,
    };
    this.all(role);
    this.asm.place(pass);
    this.asm.exit(PASS);
    if this.asm.is_used(drop) {
        this.asm.place(drop);
        this.asm.exit(DROP);
    }
    this.asm.finish()
}

impl Compiler<'_> {
    fn all(&mut self, role: Role<'_>) {
        let six = self.asm.label();
        self.asm.copy(R6, R1);
        self.asm.set(R1, 0);
        for offset in (KEY..0).step_by(8) {
            self.asm.store(Width::Double, FP, offset, R1);
        }
        self.asm.load(Width::Word, R1, R6, PROTOCOL);
        self.asm
            .jump_if(If::Equal, R1, u32::from(0x86dd_u16.to_be()), six);
        self.asm
            .jump_if(If::NotEqual, R1, u32::from(0x0800_u16.to_be()), self.pass);
        self.one_family(Family::V4, role);
        self.asm.place(six);
        self.one_family(Family::V6, role);
    }

    fn one_family(&mut self, family: Family, role: Role<'_>) {
        let Some(plan) = self.rules.plans.iter().find(|plan| plan.family == family) else {
            return;
        };
        let sends = matches!(role, Role::FromPod(_));
        self.parse(family, sends);
        match role {
            Role::FromPod(port) => self.end(plan, port, Direction::Egress),
            Role::ToPod(port) => self.end(plan, port, Direction::Ingress),
            Role::Uplink => {}
        }
        if !matches!(role, Role::ToPod(_)) {
            self.redirect(plan, sends);
        }
        self.asm.jump(self.pass);
    }

    /// Fills the key (but for the interface), R7 with the protocol and R9 with the destination's port. `sends`: the packet's
    /// source is the pod.
    fn parse(&mut self, family: Family, sends: bool) {
        let (source, destination) = if sends {
            (LOCAL, REMOTE)
        } else {
            (REMOTE, LOCAL)
        };
        match family {
            Family::V4 => {
                self.read(14, 20, HEADER);
                self.asm.load(Width::Half, R1, FP, HEADER + 6);
                // Later fragments are nothing without the first.
                self.asm.and(R1, i32::from(0x1fff_u16.to_be()));
                self.asm.jump_if(If::NotEqual, R1, 0, self.pass);
                self.asm.load(Width::Byte, R7, FP, HEADER + 9);
                for (from, to) in [(HEADER + 12, source), (HEADER + 16, destination)] {
                    self.asm.load(Width::Word, R1, FP, from);
                    self.asm.store(Width::Word, FP, to, R1);
                }
                self.asm.load(Width::Byte, R8, FP, HEADER);
                self.asm.and(R8, 0x0f);
                self.asm.shift_left(R8, 2);
                self.asm.add(R8, 14);
            }
            Family::V6 => {
                self.read(14, 40, HEADER);
                self.asm.load(Width::Byte, R7, FP, HEADER + 6);
                for (from, to) in [(HEADER + 8, source), (HEADER + 24, destination)] {
                    for half in [0, 8] {
                        self.asm.load(Width::Double, R1, FP, from + half);
                        self.asm.store(Width::Double, FP, to + half, R1);
                    }
                }
                self.asm.set(R8, 54);
            }
        }
        let judged = self.asm.label();
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            self.asm
                .jump_if(If::Equal, R7, u32::from(number(protocol)), judged);
        }
        self.asm.jump(self.pass);
        self.asm.place(judged);
        self.asm.store(Width::Word, FP, KEY + 4, R7);
        self.read_at_r8(4, SCRATCH);
        let (source, destination) = if sends {
            (PORTS, PORTS + 2)
        } else {
            (PORTS + 2, PORTS)
        };
        self.asm.load(Width::Half, R1, FP, SCRATCH);
        self.asm.store(Width::Half, FP, source, R1);
        self.asm.load(Width::Half, R9, FP, SCRATCH + 2);
        self.asm.store(Width::Half, FP, destination, R9);
        self.asm.order_half(R9);
        // TCP's flags; nothing for the others.
        let flagless = self.asm.label();
        let done = self.asm.label();
        self.asm
            .jump_if(If::NotEqual, R7, u32::from(number(Protocol::Tcp)), flagless);
        self.asm.add(R8, 13);
        self.read_at_r8(1, SCRATCH);
        self.asm.jump(done);
        self.asm.place(flagless);
        self.asm.set(R1, 0);
        self.asm.store(Width::Byte, FP, SCRATCH, R1);
        self.asm.place(done);
    }

    fn read(&mut self, offset: i32, length: i32, to: i16) {
        self.asm.set(R2, offset);
        self.read_at_r2(length, to);
    }

    fn read_at_r8(&mut self, length: i32, to: i16) {
        self.asm.copy(R2, R8);
        self.read_at_r2(length, to);
    }

    fn read_at_r2(&mut self, length: i32, to: i16) {
        self.asm.copy(R1, R6);
        self.asm.copy(R3, FP);
        self.asm.add(R3, i32::from(to));
        self.asm.set(R4, length);
        self.asm.call(Routine::LoadBytes);
        // What cannot be read is cut short, and nobody's attempt.
        self.asm.jump_if_zero(If::NotEqual, R0, self.pass);
    }

    /// What the node of a pod decides at that pod's veth. Falls through when the packet may go on.
    fn end(&mut self, plan: &Plan, port: &Port, direction: Direction) {
        let own: Vec<IpAddr> = port
            .addresses
            .iter()
            .copied()
            .filter(|ip| Family::of(*ip) == plan.family)
            .collect();
        let allowed = self.asm.label();
        let decided = self.asm.label();
        self.asm.set(R1, port.interface.cast_signed());
        self.asm.store(Width::Word, FP, KEY, R1);
        self.load_remote(plan.family);
        for ip in &plan.own {
            self.if_remote(*ip, decided);
        }
        self.until(
            own.iter().filter_map(|ip| time(&plan.closed, *ip)),
            self.drop,
        );
        self.if_remembered(decided);
        self.until(own.iter().filter_map(|ip| time(&plan.open, *ip)), allowed);
        let guards = plan
            .guards
            .iter()
            .filter(|guard| own.contains(&guard.pod) && guard.direction == direction);
        self.load_remote(plan.family);
        for guard in guards {
            self.guard(guard);
        }
        self.asm.place(allowed);
        self.remember();
        self.asm.place(decided);
    }

    /// The peer's address: R8 for IPv4; R4 and R5 for IPv6.
    fn load_remote(&mut self, family: Family) {
        match family {
            Family::V4 => self.asm.load(Width::Word, R8, FP, REMOTE),
            Family::V6 => {
                self.asm.load(Width::Double, R4, FP, REMOTE);
                self.asm.load(Width::Double, R5, FP, REMOTE + 8);
            }
        }
    }

    fn if_remote(&mut self, ip: IpAddr, to: Label) {
        match ip {
            IpAddr::V4(ip) => {
                let word = u32::from_ne_bytes(ip.octets());
                self.asm.jump_if(If::Equal, R8, word, to);
            }
            IpAddr::V6(ip) => {
                let [high, low] = halves(ip);
                let other = self.asm.label();
                self.asm.set_double(R1, high);
                self.asm.jump_if_reg(If::NotEqual, R4, R1, other);
                self.asm.set_double(R1, low);
                self.asm.jump_if_reg(If::Equal, R5, R1, to);
                self.asm.place(other);
            }
        }
    }

    fn guard(&mut self, guard: &Guard) {
        let next = self.asm.label();
        let (first, last) = guard.ports;
        self.asm
            .jump_if(If::NotEqual, R7, u32::from(number(guard.protocol)), next);
        self.asm.jump_if(If::Below, R9, u32::from(first), next);
        self.asm.jump_if(If::Above, R9, u32::from(last), next);
        match &guard.denied {
            Peers::Only(peers) => {
                for ip in peers {
                    self.if_remote(*ip, self.drop);
                }
            }
            Peers::AllBut(peers) => {
                for ip in peers {
                    self.if_remote(*ip, next);
                }
                self.asm.jump(self.drop);
            }
        }
        self.asm.place(next);
    }

    /// Jumps while the kernel's clock is before the last of the times.
    fn until(&mut self, times: impl Iterator<Item = Instant>, to: Label) {
        let Some(last) = times.max() else {
            return;
        };
        self.asm.call(Routine::Now);
        self.asm.set_double(R1, self.rules.clock.kernel_time(last));
        self.asm.jump_if_reg(If::Below, R0, R1, to);
    }

    /// Jumps when the packet is one of a connection that was let through. A SYN always begins a new one.
    fn if_remembered(&mut self, to: Label) {
        let Some(map) = self.rules.map else {
            return;
        };
        let forgotten = self.asm.label();
        self.asm.load(Width::Byte, R1, FP, SCRATCH);
        self.asm.and(R1, 0x12);
        self.asm.jump_if(If::Equal, R1, 0x02, forgotten);
        self.asm.set_map(R1, map);
        self.asm.copy(R2, FP);
        self.asm.add(R2, i32::from(KEY));
        self.asm.call(Routine::MapLookup);
        self.asm.jump_if_zero(If::Equal, R0, forgotten);
        self.asm
            .jump_if(If::Equal, R7, u32::from(number(Protocol::Tcp)), to);
        self.asm.copy(R8, R0);
        self.asm.call(Routine::Now);
        self.asm.load(Width::Double, R1, R8, 0);
        self.asm.copy(R2, R0);
        self.asm.subtract(R2, R1);
        let idle = u64::try_from(IDLE.as_nanos()).unwrap_or(u64::MAX);
        self.asm.set_double(R3, idle);
        self.asm.jump_if_reg(If::Above, R2, R3, forgotten);
        self.asm.store(Width::Double, R8, 0, R0);
        self.asm.jump(to);
        self.asm.place(forgotten);
    }

    fn remember(&mut self) {
        let Some(map) = self.rules.map else {
            return;
        };
        self.asm.call(Routine::Now);
        self.asm.store(Width::Double, FP, NOW, R0);
        self.asm.set_map(R1, map);
        self.asm.copy(R2, FP);
        self.asm.add(R2, i32::from(KEY));
        self.asm.copy(R3, FP);
        self.asm.add(R3, i32::from(NOW));
        self.asm.set(R4, 0);
        self.asm.call(Routine::MapUpdate);
    }

    /// What goes to a local pod is judged for it and put into its namespace. Connections that are rewritten on the host must stay
    /// on its stack: answers of those are not remembered here, so that is where they go.
    fn redirect(&mut self, plan: &Plan, sends: bool) {
        let pods = self.rules.redirect;
        for port in pods {
            for ip in port
                .addresses
                .iter()
                .filter(|ip| Family::of(**ip) == plan.family)
            {
                let next = self.asm.label();
                self.redirect_to(plan, port, *ip, sends, next);
                self.asm.place(next);
            }
        }
    }

    fn redirect_to(&mut self, plan: &Plan, port: &Port, ip: IpAddr, sends: bool, next: Label) {
        let (mine, remembered) = (self.asm.label(), self.asm.label());
        let target = if sends { REMOTE } else { LOCAL };
        match ip {
            IpAddr::V4(ip) => {
                self.asm.load(Width::Word, R1, FP, target);
                let word = u32::from_ne_bytes(ip.octets());
                self.asm.jump_if(If::NotEqual, R1, word, next);
            }
            IpAddr::V6(ip) => {
                for (half, value) in halves(ip).into_iter().enumerate() {
                    let offset = if half == 0 { target } else { target + 8 };
                    self.asm.load(Width::Double, R1, FP, offset);
                    self.asm.set_double(R2, value);
                    self.asm.jump_if_reg(If::NotEqual, R1, R2, next);
                }
            }
        }
        if sends {
            self.turn_key();
        }
        self.asm.set(R1, port.interface.cast_signed());
        self.asm.store(Width::Word, FP, KEY, R1);
        self.if_remembered(remembered);
        // New, or none of ours: an answer to what went through the stack.
        let flags = self.asm.label();
        self.asm
            .jump_if(If::Equal, R7, u32::from(number(Protocol::Tcp)), flags);
        self.asm.jump_if(If::Below, R9, EPHEMERAL, mine);
        self.asm.jump(self.pass);
        self.asm.place(flags);
        self.asm.load(Width::Byte, R1, FP, SCRATCH);
        self.asm.and(R1, 0x12);
        self.asm.jump_if(If::NotEqual, R1, 0x02, self.pass);
        self.asm.place(mine);
        self.end(plan, port, Direction::Ingress);
        self.asm.place(remembered);
        self.asm.copy(R1, R6);
        self.asm.set(R2, 0);
        self.asm.call(Routine::ChangeType);
        self.asm.set(R1, port.interface.cast_signed());
        self.asm.set(R2, 0);
        self.asm.call(Routine::RedirectPeer);
        self.asm.leave();
    }

    /// The key as the other pod's: local and remote change places.
    fn turn_key(&mut self) {
        for (a, b, width) in [
            (LOCAL, REMOTE, Width::Double),
            (LOCAL + 8, REMOTE + 8, Width::Double),
            (PORTS, PORTS + 2, Width::Half),
        ] {
            self.asm.load(width, R1, FP, a);
            self.asm.load(width, R2, FP, b);
            self.asm.store(width, FP, a, R2);
            self.asm.store(width, FP, b, R1);
        }
    }
}

fn time(times: &[(IpAddr, Instant)], of: IpAddr) -> Option<Instant> {
    times
        .iter()
        .filter(|(ip, _)| *ip == of)
        .map(|(_, until)| *until)
        .max()
}

/// The two halves as the machine loads them.
const fn halves(ip: std::net::Ipv6Addr) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = ip.octets();
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    ]
}

const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}
