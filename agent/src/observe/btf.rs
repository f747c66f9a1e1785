//! Field offsets of the running kernel, from its BTF.

use btf_rs::{Btf, BtfType, Type};

use super::error::ObserveError;

/// Byte offsets on the way from a packet to the cookie of its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offsets {
    /// `sk_buff.dev`
    pub(super) sk_buff_dev: u32,
    /// `net_device.nd_net.net`
    pub(super) net_device_net: u32,
    /// `net.net_cookie`
    pub(super) net_cookie: u32,
}

impl Offsets {
    /// Reads /sys/kernel/btf/vmlinux.
    pub(super) fn of_running_kernel() -> Result<Self, ObserveError> {
        let btf = Btf::from_file_with_backend("/sys/kernel/btf/vmlinux", btf_rs::Backend::Mmap)
            .map_err(|error| ObserveError::Btf(error.to_string()))?;
        Ok(Self {
            sk_buff_dev: offset(&btf, "sk_buff", &["dev"])?,
            net_device_net: offset(&btf, "net_device", &["nd_net", "net"])?,
            net_cookie: offset(&btf, "net", &["net_cookie"])?,
        })
    }
}

/// Byte offset of a path of members below a named struct.
fn offset(btf: &Btf, name: &str, path: &[&str]) -> Result<u32, ObserveError> {
    let wrong = |why: String| ObserveError::Btf(format!("{name}.{}: {why}", path.join(".")));
    let mut current = btf
        .resolve_types_by_name(name)
        .map_err(|error| wrong(error.to_string()))?
        .into_iter()
        .find(|found| matches!(found, Type::Struct(_)))
        .ok_or_else(|| wrong("no such struct".to_owned()))?;
    let mut bits: u32 = 0;
    for member in path {
        let (at, inner) = find(btf, &current, member, 0)
            .map_err(|error| wrong(error.to_string()))?
            .ok_or_else(|| wrong(format!("no member {member}")))?;
        bits = bits.saturating_add(at);
        current = inner;
    }
    if bits == 0 && name == "net" || !bits.is_multiple_of(8) {
        return Err(wrong(format!("an offset of {bits} bits makes no sense")));
    }
    Ok(bits / 8)
}

/// Anonymous structs and unions nest a few levels in `sk_buff`; more is no kernel.
const MAX_DEPTH: u32 = 16;

/// Bit offset and type of a member, also inside anonymous structs and unions.
fn find(
    btf: &Btf,
    within: &Type,
    wanted: &str,
    depth: u32,
) -> Result<Option<(u32, Type)>, btf_rs::Error> {
    let members = match strip(btf, within.clone())? {
        Type::Struct(inner) | Type::Union(inner) => inner.members,
        _ => return Ok(None),
    };
    if depth > MAX_DEPTH {
        return Ok(None);
    }
    for member in members {
        // A member without a name has no name offset to resolve in some kernels: treat it as anonymous.
        let name = btf.resolve_name(&member).unwrap_or_default();
        if name == wanted {
            return Ok(Some((
                member.bit_offset(),
                btf.resolve_chained_type(&member)?,
            )));
        }
        if name.is_empty() {
            let inner = btf.resolve_chained_type(&member)?;
            if let Some((at, found)) = find(btf, &inner, wanted, depth + 1)? {
                return Ok(Some((member.bit_offset().saturating_add(at), found)));
            }
        }
    }
    Ok(None)
}

/// The type behind typedefs and qualifiers.
fn strip(btf: &Btf, mut current: Type) -> Result<Type, btf_rs::Error> {
    for _ in 0..MAX_DEPTH {
        let next = match &current {
            Type::Typedef(inner) => btf.resolve_chained_type(inner as &dyn BtfType)?,
            Type::Const(inner) | Type::Volatile(inner) | Type::Restrict(inner) => {
                btf.resolve_chained_type(inner as &dyn BtfType)?
            }
            Type::TypeTag(inner) => btf.resolve_chained_type(inner as &dyn BtfType)?,
            _ => return Ok(current),
        };
        current = next;
    }
    Ok(current)
}
