#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use proptest::prelude::*;

use super::*;

/// Writes BTF.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

const BIT_FIELDS: u32 = 1 << 31;

impl Writer {
    fn new() -> Self {
        Self {
            strings: vec![0],
            ..Self::default()
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// A type without anything after it; returns its id.
    fn plain(&mut self, kind: u32, name: &str, size_or_type: u32) -> u32 {
        let name = self.name(name);
        self.words(&[name, kind << 24, size_or_type]);
        self.count += 1;
        self.count
    }

    fn pointer(&mut self) -> u32 {
        self.plain(KIND_PTR, "", 0)
    }

    /// Members are `(name, type, offset)`.
    fn members(&mut self, info: u32, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let name = self.name(name);
        let count = u32::try_from(members.len()).unwrap();
        self.words(&[name, info | count, size]);
        for (name, id, offset) in members {
            let name = self.name(name);
            self.words(&[name, *id, *offset]);
        }
        self.count += 1;
        self.count
    }

    fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.members(KIND_STRUCT << 24, name, size, members)
    }

    fn finish(&self) -> Vec<u8> {
        let mut data = vec![0x9f, 0xeb, 1, 0];
        let types = u32::try_from(self.types.len()).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        for word in [24, 0, types, types, strings] {
            data.extend_from_slice(&word.to_le_bytes());
        }
        data.extend_from_slice(&self.types);
        data.extend_from_slice(&self.strings);
        data
    }
}

fn offset(data: &[u8], name: &str, path: &[&str]) -> Result<u32, BtfError> {
    Btf::parse(data)?.offset(name, path)
}

/// The shapes of the kernel: `dev` inside union, struct; `nd_net` a typedef of a struct; one of each other kind before.
fn kernel_like() -> Writer {
    let mut btf = Writer::new();
    btf.plain(KIND_INT, "u64", 8);
    btf.words(&[64]);
    btf.plain(KIND_ARRAY, "", 0);
    btf.words(&[1, 1, 4]);
    btf.members(KIND_ENUM << 24, "e", 4, &[]);
    btf.plain(KIND_FWD, "net", 0);
    btf.plain(KIND_FUNC_PROTO, "", 0);
    btf.plain(KIND_FUNC, "f", 5);
    btf.plain(KIND_VAR, "v", 1);
    btf.words(&[0]);
    btf.members(KIND_DATASEC << 24, "d", 4, &[("", 7, 0)]);
    btf.plain(KIND_FLOAT, "float", 4);
    btf.plain(KIND_DECL_TAG, "tag", 1);
    btf.words(&[0]);
    btf.members(KIND_ENUM64 << 24, "e64", 8, &[("x", 0, 0)]);
    let pointer = btf.pointer();
    let inner = btf.structure("", 24, &[("next", pointer, 0), ("dev", pointer, 128)]);
    let union = btf.members(KIND_UNION << 24, "", 24, &[("", inner, 0)]);
    let info = (KIND_STRUCT << 24) | BIT_FIELDS;
    let members = [("len", 1, 0), ("bit", 1, (1 << 24) | 65), ("", union, 128)];
    btf.members(info, "sk_buff", 232, &members);
    let possible = btf.structure("", 8, &[("net", pointer, 0)]);
    let typedef = btf.plain(KIND_TYPEDEF, "possible_net_t", possible);
    let constant = btf.plain(KIND_CONST, "", typedef);
    btf.structure(
        "net_device",
        2048,
        &[("a", 1, 0), ("nd_net", constant, 2240)],
    );
    btf.structure("net", 4096, &[("net_cookie", 1, 1024)]);
    btf
}

#[test]
fn members_are_found_through_anonymous_ones_and_typedefs() {
    let offsets = Offsets::from_btf(&kernel_like().finish(), Identity::Cookie).unwrap();
    assert_eq!(
        offsets,
        Offsets {
            sk_buff_dev: 32,
            net_device_net: 280,
            net_cookie: 128,
            context_cast: None,
        }
    );
}

#[test]
fn a_function_is_found_by_its_name_and_kind() {
    let mut btf = kernel_like();
    btf.structure("bpf_cast_to_kern_ctx", 8, &[]);
    btf.plain(KIND_FUNC, "bpf_cast_to_kern_ctx_of_another", 5);
    let id = btf.plain(KIND_FUNC, "bpf_cast_to_kern_ctx", 5);
    btf.structure("ns_common", 16, &[("inum", 1, 0)]);
    let common = btf.count;
    btf.structure("net", 4096, &[("ns", common, 2048)]);
    let data = btf.finish();
    let cast = |identity| Offsets::from_btf(&data, identity).map(|offsets| offsets.context_cast);
    assert_eq!(cast(Identity::Cookie), Ok(Some(id)));
    // A number of four bytes is not what the programs would load.
    assert_eq!(cast(Identity::Inode), Ok(None));
}

#[test]
fn what_is_not_there_is_named() {
    let data = kernel_like().finish();
    let error = |name, path: &[&str]| offset(&data, name, path).unwrap_err().to_string();
    assert_eq!(error("sock", &["x"]), "there is no struct sock");
    assert_eq!(
        error("sk_buff", &["device"]),
        "sk_buff.device: no struct sk_buff has such a member"
    );
    // A pointer is not followed, a prefix of a name is not the name, and a bit has no byte.
    assert!(error("sk_buff", &["dev", "name"]).contains("no struct sk_buff"));
    assert!(error("net", &["net_cook"]).contains("net.net_cook"));
    assert!(error("sk_buff", &["bit"]).contains("bit field"));
}

#[test]
fn structs_of_one_name_must_agree() {
    let mut btf = kernel_like();
    btf.structure("net", 100, &[("other", 1, 0)]);
    btf.structure("net", 4096, &[("net_cookie", 1, 1024)]);
    assert_eq!(offset(&btf.finish(), "net", &["net_cookie"]), Ok(128));
    btf.structure("net", 4096, &[("net_cookie", 1, 512)]);
    assert!(matches!(
        offset(&btf.finish(), "net", &["net_cookie"]),
        Err(BtfError::Ambiguous {
            one: 128,
            other: 64,
            ..
        })
    ));
}

#[test]
fn a_member_outside_of_its_struct_is_refused() {
    for bits in [4096 * 8 - 63, 4096 * 8, u32::MAX, 3] {
        let mut btf = Writer::new();
        let pointer = btf.pointer();
        btf.structure("net", 4096, &[("net_cookie", pointer, bits)]);
        let result = offset(&btf.finish(), "net", &["net_cookie"]);
        assert!(
            matches!(result, Err(BtfError::Misplaced(_))),
            "{bits}: {result:?}"
        );
    }
}

#[test]
fn other_files_and_byte_orders_are_named() {
    let good = kernel_like().finish();
    let with = |at: usize, byte: u8| {
        let mut data = good.clone();
        data[at] = byte;
        Btf::parse(&data).map(|_| ()).unwrap_err()
    };
    assert_eq!(with(0, 0x7f), BtfError::Magic(0xeb7f));
    assert_eq!(with(2, 2), BtfError::Version(2));
    let mut swapped = good.clone();
    swapped.swap(0, 1);
    let error = Btf::parse(&swapped).map(|_| ()).unwrap_err();
    assert_eq!(error, BtfError::BigEndian);
    assert!(error.to_string().contains("big-endian"));
}

#[test]
fn every_truncation_is_an_error() {
    let good = kernel_like().finish();
    for length in 0..good.len() {
        let error = Btf::parse(&good[..length]).map(|_| ()).unwrap_err();
        assert!(matches!(error, BtfError::Truncated(_)), "{length}: {error}");
    }
}

#[test]
fn absurd_lengths_are_errors() {
    let good = kernel_like().finish();
    // Header length, and offset and length of both sections.
    for at in [4, 8, 12, 16, 20] {
        for value in [u32::MAX, u32::MAX - 23, 1 << 31] {
            let mut data = good.clone();
            data[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(Btf::parse(&data).is_err(), "{value} at {at}");
        }
    }
    // More members than there are bytes.
    let mut btf = Writer::new();
    btf.words(&[0, (KIND_STRUCT << 24) | 0x00ff_ffff, 8]);
    assert!(Btf::parse(&btf.finish()).is_err());
}

#[test]
fn an_unknown_kind_ends_the_types_but_not_the_search() {
    let mut btf = kernel_like();
    btf.plain(99, "new", 0);
    btf.structure("late", 8, &[("x", 1, 0)]);
    let data = btf.finish();
    assert!(Offsets::from_btf(&data, Identity::Cookie).is_ok());
    let error = offset(&data, "late", &["x"]).unwrap_err().to_string();
    assert!(error.contains("unknown kind 99"), "{error}");
}

#[test]
fn cycles_end() {
    // A typedef of itself.
    let mut btf = Writer::new();
    btf.plain(KIND_TYPEDEF, "t", 1);
    btf.structure("net", 64, &[("", 1, 0)]);
    let result = offset(&btf.finish(), "net", &["net_cookie"]);
    assert!(matches!(result, Err(BtfError::Endless(_))), "{result:?}");
    // A struct that holds itself, once.
    let mut btf = Writer::new();
    btf.structure("net", 64, &[("", 1, 0)]);
    let result = offset(&btf.finish(), "net", &["net_cookie"]);
    assert!(matches!(result, Err(BtfError::Endless(_))), "{result:?}");
    // Structs that hold each the next many times: no cycle, yet 300^20 ways.
    let mut btf = Writer::new();
    for id in 1..=20 {
        btf.structure(
            if id == 1 { "net" } else { "" },
            64,
            &[("", id + 1, 0); 300],
        );
    }
    btf.structure("", 64, &[]);
    let result = offset(&btf.finish(), "net", &["net_cookie"]);
    assert!(matches!(result, Err(BtfError::Endless(_))), "{result:?}");
}

#[test]
fn a_type_that_is_not_there_is_named() {
    let mut btf = Writer::new();
    btf.structure("net", 64, &[("", 77, 0)]);
    let result = offset(&btf.finish(), "net", &["net_cookie"]);
    let (id, unknown_kind) = (77, None);
    assert_eq!(result, Err(BtfError::NoType { id, unknown_kind }));
}

proptest! {
    /// Damage anywhere gives an answer or an error.
    #[test]
    fn damage_never_panics(damage in prop::collection::vec((0_usize..1000, any::<u8>()), 1..8)) {
        let mut data = kernel_like().finish();
        for (at, byte) in damage {
            let at = at % data.len();
            data[at] = byte;
        }
        let _ = Offsets::from_btf(&data, Identity::Cookie);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut data = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0];
        data.extend_from_slice(&noise);
        let _ = Offsets::from_btf(&data, Identity::Cookie);
    }
}

/// Any kernel that the tests run on has BTF; without it the agent does not work either.
#[test]
fn the_running_kernel_has_the_offsets() {
    let offsets = Offsets::of_running_kernel(Identity::Cookie).unwrap();
    // `dev` follows two pointers, and the two others lie beyond the hot start of large structs.
    assert_eq!(offsets.sk_buff_dev, 16);
    assert!(
        offsets.net_device_net >= 8 && offsets.net_device_net < 4096,
        "{offsets:?}"
    );
    assert!(
        offsets.net_cookie >= 8 && offsets.net_cookie < 8192,
        "{offsets:?}"
    );
    let data = std::fs::read(VMLINUX).unwrap();
    let btf = Btf::parse(&data).unwrap();
    assert!(btf.starts.len() > 10_000 && btf.unknown_kind.is_none());
    // The same on every kernel: the header of Ethernet.
    assert_eq!(btf.offset("ethhdr", &["h_source"]), Ok(6));
}
