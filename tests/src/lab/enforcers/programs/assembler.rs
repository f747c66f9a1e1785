//! BPF instructions, by hand: no compiler for BPF is needed to run the lab.

use anyhow::{Context, Result, bail};

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reg(pub(super) u8);

pub(super) const R0: Reg = Reg(0);
pub(super) const R1: Reg = Reg(1);
pub(super) const R2: Reg = Reg(2);
pub(super) const R3: Reg = Reg(3);
pub(super) const R4: Reg = Reg(4);
pub(super) const R5: Reg = Reg(5);
pub(super) const R6: Reg = Reg(6);
pub(super) const R7: Reg = Reg(7);
pub(super) const R8: Reg = Reg(8);
pub(super) const R9: Reg = Reg(9);
/// The frame's end.
pub(super) const FP: Reg = Reg(10);

/// A place to jump to, further down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// Helpers of the kernel, by number.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Routine {
    MapLookup = 1,
    MapUpdate = 2,
    Now = 5,
    LoadBytes = 26,
    ChangeType = 32,
    RedirectPeer = 155,
}

/// A width of memory, as in the instruction.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Width {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// A condition of a jump.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum If {
    Equal = 0x10,
    Above = 0x20,
    NotEqual = 0x50,
    Below = 0xa0,
}

/// A program in the making.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<[u8; 8]>,
    /// Where each label is, once it is.
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, op: u8, dst: Reg, src: Reg, offset: i16, immediate: i32) {
        let mut instruction = [0; 8];
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = immediate.to_le_bytes();
        instruction.clone_from(&[op, src.0 << 4 | dst.0, low, high, a, b, c, d]);
        self.code.push(instruction);
    }

    /// A label for later.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub(super) fn place(&mut self, label: Label) {
        let here = self.code.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(here);
        }
    }

    /// Whether anything jumps to it: the verifier wants no code that is never reached.
    pub(super) fn is_used(&self, label: Label) -> bool {
        self.jumps.iter().any(|(_, to)| *to == label)
    }

    pub(super) fn copy(&mut self, dst: Reg, src: Reg) {
        self.push(0xbf, dst, src, 0, 0);
    }

    pub(super) fn set(&mut self, dst: Reg, value: i32) {
        self.push(0xb7, dst, R0, 0, value);
    }

    pub(super) fn set_double(&mut self, dst: Reg, value: u64) {
        self.double(dst, R0, value);
    }

    /// The map of that descriptor.
    pub(super) fn set_map(&mut self, dst: Reg, descriptor: i32) {
        self.double(dst, R1, u64::from(descriptor.cast_unsigned()));
    }

    fn double(&mut self, dst: Reg, kind: Reg, value: u64) {
        let low = (value & 0xffff_ffff) as u32;
        let high = (value >> 32) as u32;
        self.push(0x18, dst, kind, 0, low.cast_signed());
        self.push(0x00, R0, R0, 0, high.cast_signed());
    }

    pub(super) fn add(&mut self, dst: Reg, value: i32) {
        self.push(0x07, dst, R0, 0, value);
    }

    pub(super) fn subtract(&mut self, dst: Reg, src: Reg) {
        self.push(0x1f, dst, src, 0, 0);
    }

    pub(super) fn and(&mut self, dst: Reg, value: i32) {
        self.push(0x57, dst, R0, 0, value);
    }

    pub(super) fn shift_left(&mut self, dst: Reg, by: i32) {
        self.push(0x67, dst, R0, 0, by);
    }

    /// 16 bits in network order to a number.
    pub(super) fn order_half(&mut self, dst: Reg) {
        self.push(0xdc, dst, R0, 0, 16);
    }

    pub(super) fn load(&mut self, width: Width, dst: Reg, at: Reg, offset: i16) {
        self.push(0x61 | width as u8, dst, at, offset, 0);
    }

    pub(super) fn store(&mut self, width: Width, at: Reg, offset: i16, src: Reg) {
        self.push(0x63 | width as u8, at, src, offset, 0);
    }

    pub(super) fn call(&mut self, helper: Routine) {
        self.push(0x85, R0, R0, 0, helper as i32);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(0x05, R0, R0, 0, 0);
    }

    /// Jumps if the lower 32 bits compare so.
    pub(super) fn jump_if(&mut self, what: If, left: Reg, right: u32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(0x06 | what as u8, left, R0, 0, right.cast_signed());
    }

    /// Jumps if the registers compare so.
    pub(super) fn jump_if_reg(&mut self, what: If, left: Reg, right: Reg, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(0x0d | what as u8, left, right, 0, 0);
    }

    /// Jumps if the whole register is (or is not) 0.
    pub(super) fn jump_if_zero(&mut self, what: If, left: Reg, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(0x05 | what as u8, left, R0, 0, 0);
    }

    pub(super) fn exit(&mut self, result: i32) {
        self.set(R0, result);
        self.leave();
    }

    /// Ends with what is in [`R0`].
    pub(super) fn leave(&mut self) {
        self.push(0x95, R0, R0, 0, 0);
    }

    /// The instructions as bytes.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        for (at, label) in &self.jumps {
            let Some(to) = self.labels.get(label.0).copied().flatten() else {
                bail!("a jump of instruction {at} leads nowhere");
            };
            let far = i64::try_from(to)? - i64::try_from(*at)? - 1;
            let far = i16::try_from(far)
                .with_context(|| format!("{} instructions are too many", self.code.len()))?;
            if let Some([_, _, low, high, ..]) = self.code.get_mut(*at) {
                [*low, *high] = far.to_le_bytes();
            }
        }
        Ok(self.code.concat())
    }
}
