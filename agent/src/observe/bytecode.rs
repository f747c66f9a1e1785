//! The embedded BPF object, and the one change that is made to it: aya cannot yet call functions of the kernel that
//! are no helpers, so the call is put in place here.

use polproof_agent_common::CONTEXT_CAST_MARK;

/// Bytes of an instruction. Sections with programs begin at a multiple of it.
const INSTRUCTION: usize = 8;
/// `r0 = ` a number: `BPF_ALU64 | BPF_MOV | BPF_K`, then registers and offset.
const SET_R0: [u8; 4] = [0xb7, 0, 0, 0];
/// A call of the kernel's function of an id: `BPF_JMP | BPF_CALL`, `BPF_PSEUDO_KFUNC_CALL` as the source register.
const CALL: [u8; 4] = [0x85, 0x20, 0, 0];

/// Keeps the bytes aligned for the ELF reader.
#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("POLPROOF_BPF_EMBED")));

/// The ELF object of the BPF programs; empty if the agent was built without one (see build.rs).
pub fn bpf_object() -> &'static [u8] {
    &OBJECT.0
}

/// The object with calls of the kernel's function of this id (`bpf_cast_to_kern_ctx`) where its programs want them; `None`
/// if they want none.
pub(super) fn with_context_cast(object: &[u8], id: u32) -> Option<Vec<u8>> {
    let mark = instruction(SET_R0, CONTEXT_CAST_MARK);
    let call = instruction(CALL, id);
    let mut changed = object.to_vec();
    let mut any = false;
    for found in changed.chunks_exact_mut(INSTRUCTION) {
        if *found == mark {
            found.copy_from_slice(&call);
            any = true;
        }
    }
    any.then_some(changed)
}

fn instruction(operation: [u8; 4], immediate: u32) -> [u8; INSTRUCTION] {
    let mut bytes = [0; INSTRUCTION];
    let (first, last) = bytes.split_at_mut(operation.len());
    first.copy_from_slice(&operation);
    last.copy_from_slice(&immediate.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn count(object: &[u8], wanted: [u8; INSTRUCTION]) -> usize {
        object
            .chunks_exact(INSTRUCTION)
            .filter(|found| **found == wanted)
            .count()
    }

    #[test]
    fn each_mark_becomes_a_call_and_nothing_else_changes() {
        let mark = instruction(SET_R0, CONTEXT_CAST_MARK);
        let other = instruction(SET_R0, 1);
        let object = [other, mark, other, mark].concat();
        let changed = with_context_cast(&object, 77).unwrap();
        let call = [0x85, 0x20, 0, 0, 77, 0, 0, 0];
        assert_eq!(changed, [other, call, other, call].concat());
    }

    #[test]
    fn what_has_no_mark_is_left_alone() {
        let mark = instruction(SET_R0, CONTEXT_CAST_MARK);
        assert_eq!(with_context_cast(&[], 77), None);
        assert_eq!(with_context_cast(&mark[1..], 77), None);
        // Not where an instruction can begin.
        assert_eq!(
            with_context_cast(&[&[0; 4], &mark[..], &[0; 4]].concat(), 77),
            None
        );
    }

    #[test]
    fn the_programs_have_marks() {
        if bpf_object().is_empty() {
            return;
        }
        let mark = instruction(SET_R0, CONTEXT_CAST_MARK);
        let changed = with_context_cast(bpf_object(), 77).unwrap();
        assert_eq!(count(&changed, mark), 0);
        assert_eq!(
            count(&changed, instruction(CALL, 77)),
            count(bpf_object(), mark)
        );
    }
}
