//! The program that the kernel runs for each datagram to a shared UDP address: it reads as much of the SIP message as it takes to
//! tell which shard owns it.
//!
//! - A response: the shard in our token in the branch of the top Via.
//! - A SUBSCRIBE: the shard in our token in the To tag, if it refreshes a subscription.
//! - Every other request: the shard in our token if the Call-ID is one, else the hash of the Call-ID
//!   ([`OwnerKey::shard`](crate::owner::OwnerKey::shard)).
//!
//! What it can't tell, the kernel spreads as it would without it: REGISTER and a first SUBSCRIBE among it, which belong to their
//! subscriber's shard. And it may be wrong: it neither unfolds lines nor proves a token's MAC. Both cost a trip through
//! the mailbox and nothing else, because the shard that gets a message decides anew whose it is.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::steer_asm::{
    Alu, Assembler, Cond, Insn, Label, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, Reg, Size,
};
use crate::owner::OwnerKey;
use crate::token::{TOKEN_LEN, TokenKind};

/// How much of a message is looked at. A power of two.
const HEAD_BYTES: i32 = 2_048;
/// A datagram that is shorter holds no SIP message.
const MESSAGE_BYTES_MIN: i32 = 32;
/// The longest Call-ID that is hashed, a multiple of 8.
const CALL_ID_BYTES_MAX: i32 = 128;
/// Steps in search of the header field: one for 8 bytes, and one for a line.
const FIELD_STEPS_MAX: i32 = HEAD_BYTES / 8 + 64;
/// Steps in search of the parameter.
const PARAMETER_STEPS_MAX: i32 = 96;

/// The scratch memory of a CPU: room before the head to look back, the head, and room behind it, so that what is read at any
/// place of the head is inside; the last word stays zero.
pub(super) const SCRATCH_BYTES: u32 = (HEAD_AT as i32 + HEAD_BYTES + 64) as u32;
const HEAD_AT: i16 = 8;
/// From the start of the head.
const ZERO_AT: i16 = (HEAD_BYTES + 64) as i16 - 8;

/// `struct sk_reuseport_md`.
const MD_LEN: i16 = 16;
/// The kernel counts from the UDP header.
const UDP_HEADER_BYTES: i32 = 8;
const SK_PASS: i32 = 1;

const MAP_LOOKUP_ELEM: i32 = 1;
const SKB_LOAD_BYTES: i32 = 26;
const SK_SELECT_REUSEPORT: i32 = 82;

// The stack.
const KEY: i16 = -4;
const CONTEXT: i16 = -16;
const NAME_MASK: i16 = -24;
const NAME: i16 = -32;
const NAME_LEN: i16 = -40;
const SHORT_NAME: i16 = -48;
const WANTED: i16 = -56;

/// Where a message says whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Wanted {
    CallId,
    Via,
    To,
}

impl Wanted {
    /// The first 8 bytes of a message that says it there; none for all others.
    const fn starts_with(self) -> Option<&'static [u8; 8]> {
        match self {
            Wanted::CallId => None,
            Wanted::Via => Some(b"SIP/2.0 "),
            Wanted::To => Some(b"SUBSCRIB"),
        }
    }

    /// RFC 3261 §7.3.3: the name of the header field, and its short form.
    const fn names(self) -> (&'static [u8], &'static [u8; 2]) {
        match self {
            Wanted::CallId => (b"call-id:", b"i:"),
            Wanted::Via => (b"via:", b"v:"),
            Wanted::To => (b"to:", b"t:"),
        }
    }
}

/// The low 8 bytes of each word of text, as the processors that this runs on load them: the first byte lowest.
const fn word(text: &[u8]) -> u64 {
    let mut word = 0;
    let mut at = 0;
    while at < text.len() {
        word |= (text[at] as u64) << (8 * at);
        at += 1;
    }
    word
}

const fn each(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

/// Multiplied with `1 << 8 * n`, the number `n` stands in the highest byte.
const BYTE_NUMBERS: u64 = 0x0001_0203_0405_0607;
/// Makes letters lower case, and no other byte of a field name into one.
const LOWER: u8 = b' ';

/// Writes the program for `shards` sockets in `sockets`, with `scratch` a map of one area a CPU.
pub(super) fn program(
    sockets: BorrowedFd<'_>,
    scratch: BorrowedFd<'_>,
    key: &OwnerKey,
    shards: usize,
) -> Vec<Insn> {
    let mut asm = Assembler::default();
    let pass = asm.label();
    let program = &mut Program {
        asm: &mut asm,
        pass,
        shards: shards as i32,
    };
    program.load_head(scratch);
    program.choose_field();
    program.find_field();
    let select = program.asm.label();
    let parameter = program.asm.label();
    program.asm.load(Size::Double, R0, R10, WANTED);
    program
        .asm
        .jump_if(Cond::Ne, R0, Wanted::CallId as i32, parameter);
    program.call_id(key, select);
    program.asm.place(parameter);
    program.parameter(select);
    program.asm.place(select);
    program.select(sockets);
    program.asm.place(pass);
    program.asm.mov(R0, SK_PASS);
    program.asm.exit();
    asm.finish()
}

/// From [`Program::load_head`] on `r7` is the head, `r8` the place in it, `r9` its length.
struct Program<'a> {
    asm: &'a mut Assembler,
    /// To the end without a choice.
    pass: Label,
    shards: i32,
}

impl Program<'_> {
    /// Copies the head of the message to the scratch memory: on a network card's buffers it need not lie in one piece.
    fn load_head(&mut self, scratch: BorrowedFd<'_>) {
        let asm = &mut *self.asm;
        asm.mov(R6, R1);
        asm.store(Size::Double, R10, CONTEXT, R6);
        asm.store(Size::Word, R10, KEY, 0);
        asm.mov_map(R1, scratch.as_raw_fd());
        asm.mov(R2, R10);
        asm.alu(Alu::Add, R2, i32::from(KEY));
        asm.call(MAP_LOOKUP_ELEM);
        asm.jump_if(Cond::Eq, R0, 0, self.pass);
        asm.mov(R7, R0);
        asm.alu(Alu::Add, R7, i32::from(HEAD_AT));
        asm.load(Size::Word, R9, R6, MD_LEN);
        asm.jump_if(Cond::Lt, R9, UDP_HEADER_BYTES + MESSAGE_BYTES_MIN, self.pass);
        asm.alu(Alu::Add, R9, -UDP_HEADER_BYTES);
        let fits = asm.label();
        asm.jump_if(Cond::Lt, R9, HEAD_BYTES + 1, fits);
        asm.mov(R9, HEAD_BYTES);
        asm.place(fits);
        asm.mov(R1, R6);
        asm.mov(R2, UDP_HEADER_BYTES);
        asm.mov(R3, R7);
        asm.mov(R4, R9);
        asm.call(SKB_LOAD_BYTES);
        asm.jump_if(Cond::Ne, R0, 0, self.pass);
    }

    /// By the first bytes of the message: which header field is looked for.
    fn choose_field(&mut self) {
        let chosen = self.asm.label();
        self.asm.load(Size::Double, R1, R7, 0);
        for wanted in [Wanted::Via, Wanted::To, Wanted::CallId] {
            let other = self.asm.label();
            if let Some(start) = wanted.starts_with() {
                self.asm.mov64(R2, word(start));
                self.asm.jump_if(Cond::Ne, R1, R2, other);
            }
            let (name, short) = wanted.names();
            let mask = u64::MAX >> (64 - 8 * name.len());
            for (at, value) in [
                (NAME_MASK, mask),
                (NAME, word(name)),
                (NAME_LEN, name.len() as u64),
                (SHORT_NAME, word(short)),
                (WANTED, wanted as u64),
            ] {
                self.asm.mov64(R0, value);
                self.asm.store(Size::Double, R10, at, R0);
            }
            self.asm.jump(chosen);
            self.asm.place(other);
        }
        self.asm.place(chosen);
    }

    /// `reg` = the address of the place in the head.
    fn address(&mut self, reg: Reg) {
        // For the verifier: the place is inside already.
        self.asm.alu(Alu::And, R8, HEAD_BYTES - 1);
        self.asm.mov(reg, R7);
        self.asm.alu(Alu::Add, reg, R8);
    }

    fn pass_at_end(&mut self) {
        self.asm.jump_if(Cond::Ge, R8, R9, self.pass);
    }

    /// Moves the place behind the next `byte`, at most 8 bytes on: to `found`, or to `next` if it is not among them. `r3` and `r4` hold the lowest
    /// and the highest bit of each byte.
    fn step(&mut self, byte: u8, next: Label) {
        let found = self.asm.label();
        self.pass_at_end();
        self.address(R1);
        let asm = &mut *self.asm;
        asm.load(Size::Double, R0, R1, 0);
        asm.mov64(R2, each(byte));
        asm.alu(Alu::Xor, R0, R2);
        // The lowest byte that is zero now gets its highest bit, and none below it does.
        asm.mov(R2, R0);
        asm.alu(Alu::Sub, R2, R3);
        asm.alu(Alu::Xor, R0, -1);
        asm.alu(Alu::And, R2, R0);
        asm.alu(Alu::And, R2, R4);
        asm.jump_if(Cond::Ne, R2, 0, found);
        asm.alu(Alu::Add, R8, 8);
        asm.jump(next);
        asm.place(found);
        asm.mov(R0, R2);
        asm.neg(R0);
        asm.alu(Alu::And, R0, R2);
        asm.alu(Alu::Shr, R0, 7);
        asm.mov64(R1, BYTE_NUMBERS);
        asm.alu(Alu::Mul, R0, R1);
        asm.alu(Alu::Shr, R0, 56);
        asm.alu(Alu::Add, R8, R0);
        asm.alu(Alu::Add, R8, 1);
        self.pass_at_end();
        self.address(R1);
    }

    /// Moves the place to the value of the header field.
    fn find_field(&mut self) {
        // Zero, which the verifier does not know: to it all places are then one state, and the loop is proven once instead of
        // for each way to get somewhere.
        self.asm.load(Size::Double, R8, R7, ZERO_AT);
        self.asm.mov64(R3, each(0x01));
        self.asm.mov64(R4, each(0x80));
        self.asm.mov(R6, FIELD_STEPS_MAX);
        let again = self.asm.here();
        let [next, long, value] = [(); 3].map(|()| self.asm.label());
        self.step(b'\n', next);
        let asm = &mut *self.asm;
        asm.load(Size::Double, R0, R1, 0);
        asm.mov64(R2, each(LOWER));
        asm.alu(Alu::Or, R0, R2);
        asm.mov(R1, R0);
        asm.load(Size::Double, R2, R10, NAME_MASK);
        asm.alu(Alu::And, R1, R2);
        asm.load(Size::Double, R2, R10, NAME);
        asm.jump_if(Cond::Eq, R1, R2, long);
        asm.mov(R1, R0);
        asm.alu(Alu::And, R1, 0xffff);
        asm.load(Size::Double, R2, R10, SHORT_NAME);
        let no_short = asm.label();
        asm.jump_if(Cond::Ne, R1, R2, no_short);
        asm.alu(Alu::Add, R8, 2);
        asm.jump(value);
        asm.place(no_short);
        // The empty line ends the header section.
        asm.alu(Alu::And, R0, 0xff);
        asm.jump_if(Cond::Eq, R0, i32::from(b'\r' | LOWER), self.pass);
        asm.place(next);
        asm.alu(Alu::Sub, R6, 1);
        asm.jump_if(Cond::Ne, R6, 0, again);
        asm.jump(self.pass);
        asm.place(long);
        asm.load(Size::Double, R0, R10, NAME_LEN);
        asm.alu(Alu::Add, R8, R0);
        asm.place(value);
    }

    /// `r0` = the shard of a token of `kind` whose address is in `r1`; to `other` if it is none. Takes `r2`.
    fn token(&mut self, at: i16, kind: TokenKind, other: Label) {
        let asm = &mut *self.asm;
        asm.load(Size::Half, R0, R1, at);
        asm.jump_if(Cond::Ne, R0, word(&[b'0', b'0' + kind as u8]) as i32, other);
        for (digit, reg) in [(2, R0), (3, R2)] {
            // Letters have bit 6 and end in their value less 9.
            asm.load(Size::Byte, reg, R1, at + digit);
            asm.mov(R5, reg);
            asm.alu(Alu::Shr, R5, 6);
            asm.alu(Alu::Mul, R5, 9);
            asm.alu(Alu::And, reg, 15);
            asm.alu(Alu::Add, reg, R5);
        }
        asm.alu(Alu::Shl, R0, 4);
        asm.alu(Alu::Add, R0, R2);
        asm.jump_if(Cond::Ge, R0, self.shards, other);
    }

    /// `r0` = the shard that the Call-ID at the place belongs to; to `select`.
    fn call_id(&mut self, key: &OwnerKey, select: Label) {
        self.pass_at_end();
        self.address(R1);
        let [begins, hash] = [(); 2].map(|()| self.asm.label());
        self.asm.load(Size::Byte, R0, R1, 0);
        self.asm.jump_if(Cond::Ne, R0, i32::from(b' '), begins);
        self.asm.alu(Alu::Add, R8, 1);
        self.asm.place(begins);
        self.pass_at_end();
        self.address(R1);
        // A Call-ID of ours is a token and nothing else.
        self.asm.load(Size::Byte, R0, R1, TOKEN_LEN as i16);
        self.asm.jump_if(Cond::Ne, R0, i32::from(b'\r'), hash);
        self.token(0, TokenKind::Leg, hash);
        self.asm.jump(select);
        self.asm.place(hash);
        self.hash(key);
        self.asm.alu(Alu::Mod, R0, self.shards);
        self.asm.jump(select);
    }

    /// `r0` = SipHash-1-3 of what stands from the place to the end of the line. Takes all registers but `r7`.
    fn hash(&mut self, key: &OwnerKey) {
        let [k0, k1] = key.words();
        // "somepseudorandomlygeneratedbytes", SipHash's start.
        for (reg, value) in [
            (R1, k0 ^ 0x736f_6d65_7073_6575),
            (R2, k1 ^ 0x646f_7261_6e64_6f6d),
            (R3, k0 ^ 0x6c79_6765_6e65_7261),
            (R4, k1 ^ 0x7465_6462_7974_6573),
        ] {
            self.asm.mov64(reg, value);
        }
        self.asm.mov(R6, 0);
        let again = self.asm.here();
        let last = self.asm.label();
        self.address(R5);
        let asm = &mut *self.asm;
        asm.load(Size::Double, R0, R5, 0);
        // As in `step`, with fewer registers to spare.
        asm.mov64(R5, each(b'\r'));
        asm.mov(R9, R0);
        asm.alu(Alu::Xor, R9, R5);
        asm.mov64(R5, each(0x01));
        asm.alu(Alu::Sub, R9, R5);
        asm.mov64(R5, !each(b'\r'));
        asm.alu(Alu::Xor, R5, R0);
        asm.alu(Alu::And, R9, R5);
        asm.mov64(R5, each(0x80));
        asm.alu(Alu::And, R9, R5);
        asm.jump_if(Cond::Ne, R9, 0, last);
        self.compress();
        self.asm.alu(Alu::Add, R8, 8);
        self.asm.alu(Alu::Add, R6, 8);
        self.asm.jump_if(Cond::Lt, R6, CALL_ID_BYTES_MAX, again);
        self.asm.jump(self.pass);
        // The last word: what is left before the end of the line, and the length in the highest byte.
        self.asm.place(last);
        let asm = &mut *self.asm;
        asm.mov(R5, R9);
        asm.neg(R5);
        asm.alu(Alu::And, R5, R9);
        asm.alu(Alu::Shr, R5, 7);
        asm.mov64(R9, BYTE_NUMBERS);
        asm.alu(Alu::Mul, R9, R5);
        asm.alu(Alu::Shr, R9, 56);
        asm.alu(Alu::Sub, R5, 1);
        asm.alu(Alu::And, R0, R5);
        asm.alu(Alu::Add, R9, R6);
        asm.alu(Alu::Shl, R9, 56);
        asm.alu(Alu::Or, R0, R9);
        self.compress();
        self.asm.alu(Alu::Xor, R3, 0xff);
        for _ in 0..3 {
            self.sip_round();
        }
        self.asm.mov(R0, R1);
        for reg in [R2, R3, R4] {
            self.asm.alu(Alu::Xor, R0, reg);
        }
    }

    /// The word in `r0` goes into the state in `r1` to `r4`.
    fn compress(&mut self) {
        self.asm.alu(Alu::Xor, R4, R0);
        self.sip_round();
        self.asm.alu(Alu::Xor, R1, R0);
    }

    fn sip_round(&mut self) {
        let (v0, v1, v2, v3) = (R1, R2, R3, R4);
        self.add_rotate_xor(v0, v1, 13);
        self.rotate(v0, 32);
        self.add_rotate_xor(v2, v3, 16);
        self.add_rotate_xor(v0, v3, 21);
        self.add_rotate_xor(v2, v1, 17);
        self.rotate(v2, 32);
    }

    /// `a += b; b = rotate_left(b, bits) ^ a`.
    fn add_rotate_xor(&mut self, a: Reg, b: Reg, bits: i32) {
        self.asm.alu(Alu::Add, a, b);
        self.rotate(b, bits);
        self.asm.alu(Alu::Xor, b, a);
    }

    fn rotate(&mut self, reg: Reg, bits: i32) {
        self.asm.mov(R5, reg);
        self.asm.alu(Alu::Shl, R5, bits);
        self.asm.alu(Alu::Shr, reg, 64 - bits);
        self.asm.alu(Alu::Or, reg, R5);
    }

    /// `r0` = the shard of our token in a branch or tag behind the place; to `select`.
    fn parameter(&mut self, select: Label) {
        self.asm.mov(R6, PARAMETER_STEPS_MAX);
        let again = self.asm.here();
        let [next, tag] = [(); 2].map(|()| self.asm.label());
        self.step(b'=', next);
        self.asm.load(Size::Double, R0, R10, WANTED);
        self.asm.jump_if(Cond::Eq, R0, Wanted::To as i32, tag);
        // RFC 3261 §8.1.1.7: the magic cookie.
        let cookie = b"z9hg4bk";
        self.asm.load(Size::Double, R0, R1, 0);
        self.asm.mov64(R2, each(LOWER) >> 8);
        self.asm.alu(Alu::Or, R0, R2);
        self.asm.alu(Alu::Shl, R0, 8);
        self.asm.mov64(R2, word(cookie) << 8);
        self.asm.jump_if(Cond::Ne, R0, R2, next);
        self.token(cookie.len() as i16, TokenKind::Transaction, self.pass);
        self.asm.jump(select);
        self.asm.place(tag);
        self.asm.load(Size::Word, R0, R1, -4);
        self.asm.alu(Alu::Or, R0, each(LOWER) as i32);
        self.asm.jump_if(Cond::Ne, R0, word(b"tag=") as i32, next);
        self.token(0, TokenKind::Subscription, next);
        self.asm.jump(select);
        self.asm.place(next);
        self.asm.alu(Alu::Sub, R6, 1);
        self.asm.jump_if(Cond::Ne, R6, 0, again);
        self.asm.jump(self.pass);
    }

    /// Chooses the socket with the number in `r0`. If it is closed, the kernel chooses.
    fn select(&mut self, sockets: BorrowedFd<'_>) {
        let asm = &mut *self.asm;
        asm.store(Size::Word, R10, KEY, R0);
        asm.load(Size::Double, R1, R10, CONTEXT);
        asm.mov_map(R2, sockets.as_raw_fd());
        asm.mov(R3, R10);
        asm.alu(Alu::Add, R3, i32::from(KEY));
        asm.mov(R4, 0);
        asm.call(SK_SELECT_REUSEPORT);
    }
}
