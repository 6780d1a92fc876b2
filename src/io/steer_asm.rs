//! A small assembler for eBPF: instructions by method, jumps by label.
//!
//! The kernel's verifier proves each program before it is taken, so a mistake here is an error at start and never a wrong access.

/// A register. [`R10`] is the frame pointer; [`R0`] to [`R5`] are lost in a call, of which `R1` to `R5` are the arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reg(u8);

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
pub(super) const R10: Reg = Reg(10);

/// A 64-bit operation on a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Alu {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    Or = 0x40,
    And = 0x50,
    Shl = 0x60,
    Shr = 0x70,
    Neg = 0x80,
    Mod = 0x90,
    Xor = 0xa0,
    Mov = 0xb0,
}

/// An unsigned comparison of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Cond {
    Eq = 0x10,
    Ge = 0x30,
    Ne = 0x50,
    Lt = 0xa0,
}

/// How much a load or store moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// What an operation or a comparison takes beside its register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operand {
    Reg(Reg),
    /// Extended with its sign to 64 bits.
    Imm(i32),
}

impl From<Reg> for Operand {
    fn from(reg: Reg) -> Operand {
        Operand::Reg(reg)
    }
}

impl From<i32> for Operand {
    fn from(imm: i32) -> Operand {
        Operand::Imm(imm)
    }
}

/// A place in the program that jumps go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label(usize);

/// `struct bpf_insn`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Insn {
    code: u8,
    /// Destination in the low, source in the high half.
    regs: u8,
    off: i16,
    imm: i32,
}

const LD_IMM64: u8 = 0x18;
const LDX_MEM: u8 = 0x61;
const ST_MEM: u8 = 0x62;
const STX_MEM: u8 = 0x63;
const JMP: u8 = 0x05;
const ALU64: u8 = 0x07;
/// The second operand is a register.
const BY_REG: u8 = 0x08;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// In the source register of `LD_IMM64`: the value is a map's file descriptor, which the kernel makes a pointer of.
const PSEUDO_MAP_FD: u8 = 1;

/// A program being written.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<Insn>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u8, dst: Reg, src: u8, off: i16, imm: i32) {
        self.code.push(Insn {
            code,
            regs: src << 4 | dst.0,
            off,
            imm,
        });
    }

    /// `dst = dst OP operand`; for [`Alu::Mov`] `dst = operand`.
    pub(super) fn alu(&mut self, op: Alu, dst: Reg, operand: impl Into<Operand>) {
        match operand.into() {
            Operand::Reg(src) => self.push(ALU64 | op as u8 | BY_REG, dst, src.0, 0, 0),
            Operand::Imm(imm) => self.push(ALU64 | op as u8, dst, 0, 0, imm),
        }
    }

    pub(super) fn mov(&mut self, dst: Reg, operand: impl Into<Operand>) {
        self.alu(Alu::Mov, dst, operand);
    }

    pub(super) fn neg(&mut self, dst: Reg) {
        self.push(ALU64 | Alu::Neg as u8, dst, 0, 0, 0);
    }

    /// `dst = value`, all 64 bits.
    pub(super) fn mov64(&mut self, dst: Reg, value: u64) {
        self.push(LD_IMM64, dst, 0, 0, value as u32 as i32);
        self.push(0, R0, 0, 0, (value >> 32) as i32);
    }

    /// `dst` = the map behind a file descriptor.
    pub(super) fn mov_map(&mut self, dst: Reg, fd: i32) {
        self.push(LD_IMM64, dst, PSEUDO_MAP_FD, 0, fd);
        self.push(0, R0, 0, 0, 0);
    }

    /// `dst = *(src + off)`, the rest of the register zero.
    pub(super) fn load(&mut self, size: Size, dst: Reg, src: Reg, off: i16) {
        self.push(LDX_MEM | size as u8, dst, src.0, off, 0);
    }

    /// `*(dst + off) = value`.
    pub(super) fn store(&mut self, size: Size, dst: Reg, off: i16, value: impl Into<Operand>) {
        match value.into() {
            Operand::Reg(src) => self.push(STX_MEM | size as u8, dst, src.0, off, 0),
            Operand::Imm(imm) => self.push(ST_MEM | size as u8, dst, 0, off, imm),
        }
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// `label` is here.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len());
    }

    /// A label that is here.
    pub(super) fn here(&mut self) -> Label {
        let label = self.label();
        self.place(label);
        label
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JMP, R0, 0, 0, 0);
    }

    pub(super) fn jump_if(&mut self, cond: Cond, reg: Reg, operand: impl Into<Operand>, to: Label) {
        self.jumps.push((self.code.len(), to));
        match operand.into() {
            Operand::Reg(src) => self.push(JMP | cond as u8 | BY_REG, reg, src.0, 0, 0),
            Operand::Imm(imm) => self.push(JMP | cond as u8, reg, 0, 0, imm),
        }
    }

    /// A function of the kernel.
    pub(super) fn call(&mut self, function: i32) {
        self.push(CALL, R0, 0, 0, function);
    }

    pub(super) fn exit(&mut self) {
        self.push(EXIT, R0, 0, 0, 0);
    }

    /// The program with its jumps filled in.
    pub(super) fn finish(mut self) -> Vec<Insn> {
        for (at, label) in self.jumps {
            let to = self.labels[label.0].expect("every label has its place");
            // A jump counts from the instruction after it.
            self.code[at].off = i16::try_from(to as isize - at as isize - 1).expect("the program is short");
        }
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_count_from_the_instruction_after_them_both_ways() {
        let mut asm = Assembler::default();
        let end = asm.label();
        let again = asm.here();
        asm.jump_if(Cond::Eq, R1, 7, end);
        asm.mov64(R2, 0x1122_3344_5566_7788);
        asm.jump(again);
        asm.place(end);
        asm.exit();
        let code = asm.finish();
        assert_eq!(
            code.iter().map(|insn| insn.off).collect::<Vec<_>>(),
            [3, 0, 0, -4, 0]
        );
        assert_eq!((code[1].imm, code[2].imm), (0x5566_7788, 0x1122_3344));
        assert_eq!((code[0].code, code[0].regs, code[0].imm), (0x15, 1, 7));
    }

    #[test]
    fn instructions_have_the_kernels_codes() {
        let mut asm = Assembler::default();
        asm.mov(R1, R6);
        asm.alu(Alu::Mod, R0, 4);
        asm.load(Size::Double, R0, R7, 16);
        asm.store(Size::Word, R10, -4, 0);
        asm.store(Size::Double, R10, -16, R6);
        asm.call(1);
        let codes: Vec<(u8, u8, i16)> = asm.finish().iter().map(|i| (i.code, i.regs, i.off)).collect();
        let expected = [
            (0xbf, 0x61, 0),
            (0x97, 0x00, 0),
            (0x79, 0x70, 16),
            (0x62, 0x0a, -4),
            (0x7b, 0x6a, -16),
            (0x85, 0, 0),
        ];
        assert_eq!(codes, expected);
    }
}
