//! Field offsets of the running kernel, from its own type information.
//!
//! A reader of the BTF format (the kernel's Documentation/bpf/btf.rst) for one purpose: the byte offset of a member,
//! also inside anonymous structs and unions. It trusts no length and no id in the data, and the work of a search is
//! bounded, so that damaged data is an error and never a panic or an endless loop.

use std::sync::OnceLock;

use super::error::ObserveError;
use super::identity::Identity;

/// Where the kernel keeps its BTF.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The kernel's function that tells the verifier what a program's context really is (Linux 6.2).
const CONTEXT_CAST: &str = "bpf_cast_to_kern_ctx";

/// The way from a packet to the cookie of its namespace: byte offsets, and whether they can be loaded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offsets {
    /// `sk_buff.dev`
    pub(super) sk_buff_dev: u32,
    /// `net_device.nd_net.net`
    pub(super) net_device_net: u32,
    /// `net.net_cookie`, or what stands for it ([`Identity::member`])
    pub(super) net_cookie: u32,
    /// Id of `bpf_cast_to_kern_ctx`, if the kernel has it and what is read is a whole member.
    pub(super) context_cast: Option<u32>,
}

impl Offsets {
    /// Reads /sys/kernel/btf/vmlinux.
    pub(super) fn of_running_kernel(identity: Identity) -> Result<Self, ObserveError> {
        // Megabytes to be walked for what cannot change.
        static BY_COOKIE: OnceLock<Offsets> = OnceLock::new();
        static BY_INODE: OnceLock<Offsets> = OnceLock::new();
        let known = match identity {
            Identity::Cookie => &BY_COOKIE,
            Identity::Inode => &BY_INODE,
        };
        if let Some(known) = known.get() {
            return Ok(*known);
        }
        let found = Self::read(identity)?;
        Ok(*known.get_or_init(|| found))
    }

    fn read(identity: Identity) -> Result<Self, ObserveError> {
        let data = std::fs::read(VMLINUX).map_err(|error| ObserveError::Btf(error.to_string()))?;
        Self::from_btf(&data, identity).map_err(|error| ObserveError::Btf(error.to_string()))
    }

    fn from_btf(data: &[u8], identity: Identity) -> Result<Self, BtfError> {
        let btf = Btf::parse(data)?;
        Ok(Self {
            sk_buff_dev: btf.offset("sk_buff", &["dev"])?,
            net_device_net: btf.offset("net_device", &["nd_net", "net"])?,
            net_cookie: btf.offset("net", identity.member())?,
            // An inode number is four bytes, and the programs load eight.
            context_cast: match identity {
                Identity::Cookie => btf.function(CONTEXT_CAST),
                Identity::Inode => None,
            },
        })
    }
}

/// Why an offset could not be found. Offsets in the messages are of bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum BtfError {
    #[error("it ends within its {0}")]
    Truncated(&'static str),
    #[error("it does not start with the magic number of BTF but with {0:#06x}")]
    Magic(u16),
    #[error("it is big-endian, and polproof runs on little-endian machines only")]
    BigEndian,
    #[error("it is of version {0}, and only version 1 is known")]
    Version(u8),
    #[error("there is no struct {0}")]
    NoStruct(String),
    #[error("{path}: no struct {name} has such a member{}", unknown(.unknown_kind))]
    NoMember {
        path: String,
        name: String,
        unknown_kind: Option<u32>,
    },
    #[error("type {id} is not there{}", unknown(.unknown_kind))]
    NoType { id: u32, unknown_kind: Option<u32> },
    #[error("{0}: the search does not end; types contain each other")]
    Endless(String),
    #[error("{0}: it is a bit field or lies outside of its struct")]
    Misplaced(String),
    #[error("{path}: there are several such structs, with offsets {one} and {other}")]
    Ambiguous { path: String, one: u32, other: u32 },
}

fn unknown(kind: &Option<u32>) -> String {
    kind.map_or_else(String::new, |kind| {
        format!(" (types from the first of the unknown kind {kind} on cannot be read)")
    })
}

const MAGIC: u16 = 0xeb9f;
/// Bytes of a type before what its kind adds.
const TYPE: usize = 12;
/// Bytes of a member of a struct or union.
const MEMBER: usize = 12;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_FLOAT: u32 = 16;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Typedefs and qualifiers in a row, and anonymous structs in each other; a kernel has a few.
const MAX_DEPTH: u32 = 32;
/// Members looked at for one offset: `sk_buff` and `net_device` have a few hundred, and more than this is no kernel.
const MAX_STEPS: u32 = 100_000;

/// Type information, its sections found and its types counted.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where in `types` each one starts; the first has the id 1.
    starts: Vec<usize>,
    /// A kind that a newer kernel has: its length is not known, so what follows cannot be read. What precedes can.
    unknown_kind: Option<u32>,
}

/// `struct btf_type`
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    /// Whether the members' offsets carry a bit field size in their upper 8 bits.
    has_bit_fields: bool,
    members: usize,
    /// Size in bytes of structs and unions; for typedefs, pointers and qualifiers the id of what they refer to.
    size_or_type: u32,
}

/// A member that was found.
#[derive(Clone, Copy)]
struct Found {
    bits: u32,
    id: u32,
}

impl<'a> Btf<'a> {
    fn parse(data: &'a [u8]) -> Result<Self, BtfError> {
        let header = BtfError::Truncated("header");
        let [first, second, version, _flags] = array(data, 0).ok_or(header)?;
        match u16::from_le_bytes([first, second]) {
            MAGIC => {}
            magic if magic == MAGIC.swap_bytes() => return Err(BtfError::BigEndian),
            magic => return Err(BtfError::Magic(magic)),
        }
        if version != 1 {
            return Err(BtfError::Version(version));
        }
        let field = |offset| word(data, offset).ok_or(BtfError::Truncated("header"));
        // Newer headers are longer; the sections start after whatever the header says.
        let start = field(4)?;
        let section = |offset: u32, length: u32, what| {
            let from = (start as usize).checked_add(offset as usize);
            let to = from.and_then(|from| from.checked_add(length as usize));
            from.zip(to)
                .and_then(|(from, to)| data.get(from..to))
                .ok_or(BtfError::Truncated(what))
        };
        let types = section(field(8)?, field(12)?, "types")?;
        let strings = section(field(16)?, field(20)?, "names")?;
        let mut btf = Self {
            types,
            strings,
            starts: Vec::new(),
            unknown_kind: None,
        };
        btf.count_types()?;
        Ok(btf)
    }

    fn count_types(&mut self) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let truncated = BtfError::Truncated("types");
            let kind = self.type_at(at).ok_or(BtfError::Truncated("types"))?;
            let Some(added) = kind.added() else {
                self.unknown_kind = Some(kind.kind);
                return Ok(());
            };
            // No overflow on 64 bits: at most 2^24 entries of 12 bytes.
            let next = at + TYPE + added;
            if next > self.types.len() {
                return Err(truncated);
            }
            self.starts.push(at);
            at = next;
        }
        Ok(())
    }

    /// The id of a function.
    fn function(&self, name: &str) -> Option<u32> {
        let index = self.starts.iter().position(|start| {
            self.type_at(*start)
                .is_some_and(|found| found.kind == KIND_FUNC && self.is_named(found.name, name))
        })?;
        u32::try_from(index + 1).ok()
    }

    /// The byte offset of a path of members below a named struct.
    fn offset(&self, name: &str, path: &[&str]) -> Result<u32, BtfError> {
        let text = format!("{name}.{}", path.join("."));
        let mut steps = MAX_STEPS;
        let mut result = None;
        let mut any = false;
        for start in &self.starts {
            let Some(candidate) = self.type_at(*start) else {
                continue;
            };
            if candidate.kind != KIND_STRUCT || !self.is_named(candidate.name, name) {
                continue;
            }
            any = true;
            let Some(bits) = self.walk(*start, path, &text, &mut steps)? else {
                continue;
            };
            let bytes = bits / 8;
            // All that is read by these offsets has 8 bytes.
            if !bits.is_multiple_of(8) || bytes.saturating_add(8) > candidate.size_or_type {
                return Err(BtfError::Misplaced(text));
            }
            match result {
                Some(one) if one != bytes => {
                    return Err(BtfError::Ambiguous {
                        path: text,
                        one,
                        other: bytes,
                    });
                }
                _ => result = Some(bytes),
            }
        }
        result.ok_or_else(|| {
            if any || self.unknown_kind.is_some() {
                BtfError::NoMember {
                    path: text,
                    name: name.to_owned(),
                    unknown_kind: self.unknown_kind,
                }
            } else {
                BtfError::NoStruct(name.to_owned())
            }
        })
    }

    /// Bit offset of the path below the struct that starts at `start`.
    fn walk(
        &self,
        start: usize,
        path: &[&str],
        text: &str,
        steps: &mut u32,
    ) -> Result<Option<u32>, BtfError> {
        let mut bits: u32 = 0;
        let mut start = Some(start);
        for member in path {
            let within = match start {
                Some(start) => start,
                // The member before is no struct.
                None => return Ok(None),
            };
            let Some(found) = self.find(within, member, text, 0, steps)? else {
                return Ok(None);
            };
            bits = bits.saturating_add(found.bits);
            start = self.strip(found.id, text)?;
        }
        Ok(Some(bits))
    }

    /// A member of the struct or union that starts at `start`, also inside anonymous ones.
    fn find(
        &self,
        start: usize,
        wanted: &str,
        text: &str,
        depth: u32,
        steps: &mut u32,
    ) -> Result<Option<Found>, BtfError> {
        let Some(within) = self.type_at(start) else {
            return Ok(None);
        };
        if !within.has_members() {
            return Ok(None);
        }
        if depth > MAX_DEPTH {
            return Err(BtfError::Endless(text.to_owned()));
        }
        for index in 0..within.members {
            *steps = steps
                .checked_sub(1)
                .ok_or_else(|| BtfError::Endless(text.to_owned()))?;
            let at = start + TYPE + index * MEMBER;
            let (Some(name), Some(id), Some(offset)) = (
                word(self.types, at),
                word(self.types, at + 4),
                word(self.types, at + 8),
            ) else {
                return Err(BtfError::Truncated("types"));
            };
            let (bits, width) = if within.has_bit_fields {
                (offset & 0x00ff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            if name == 0 {
                let Some(inner) = self.strip(id, text)? else {
                    continue;
                };
                if let Some(found) = self.find(inner, wanted, text, depth + 1, steps)? {
                    return Ok(Some(Found {
                        bits: bits.saturating_add(found.bits),
                        id: found.id,
                    }));
                }
            } else if self.is_named(name, wanted) {
                if width != 0 {
                    return Err(BtfError::Misplaced(text.to_owned()));
                }
                return Ok(Some(Found { bits, id }));
            }
        }
        Ok(None)
    }

    /// Where the type behind typedefs and qualifiers starts; `None` for void.
    fn strip(&self, mut id: u32, text: &str) -> Result<Option<usize>, BtfError> {
        for _ in 0..MAX_DEPTH {
            let Some(index) = id.checked_sub(1) else {
                return Ok(None);
            };
            let start = self.starts.get(index as usize).copied();
            let Some((start, found)) = start.and_then(|start| Some((start, self.type_at(start)?)))
            else {
                return Err(BtfError::NoType {
                    id,
                    unknown_kind: self.unknown_kind,
                });
            };
            match found.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = found.size_or_type;
                }
                _ => return Ok(Some(start)),
            }
        }
        Err(BtfError::Endless(text.to_owned()))
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = word(self.types, at.checked_add(4)?)?;
        Some(Type {
            name: word(self.types, at)?,
            // Bits 29 and 30, and 16 to 23 of the count, are zero by the format of today and their natural extension.
            kind: (info >> 24) & 0x7f,
            has_bit_fields: info >> 31 != 0,
            members: (info & 0x00ff_ffff) as usize,
            size_or_type: word(self.types, at.checked_add(8)?)?,
        })
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        self.strings
            .get(name as usize..)
            .and_then(|rest| rest.strip_prefix(wanted.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

impl Type {
    fn has_members(self) -> bool {
        matches!(self.kind, KIND_STRUCT | KIND_UNION)
    }

    /// Bytes that follow; `None` if the kind is not known.
    fn added(self) -> Option<usize> {
        Some(match self.kind {
            KIND_PTR | KIND_FWD | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT
            | KIND_FUNC | KIND_FLOAT | KIND_TYPE_TAG => 0,
            KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION => self.members * MEMBER,
            KIND_ENUM | KIND_FUNC_PROTO => self.members * 8,
            KIND_DATASEC | KIND_ENUM64 => self.members * 12,
            _ => return None,
        })
    }
}

fn array(data: &[u8], at: usize) -> Option<[u8; 4]> {
    data.get(at..at.checked_add(4)?)?.try_into().ok()
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    array(data, at).map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests;
