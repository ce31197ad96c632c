//! arm64: Arm Architecture Reference Manual (DDI 0487), section C4.1, "A64 instruction set encoding".

use super::{
    Access, Effect, Instruction, MemoryAccess, Place, Probed, Register, RegisterSet, bit, bits, branch_target, named,
    register, signed,
};

/// The link register, which a call changes.
const LINK: Register = 30;
/// As a destination, the zero register: nothing is changed.
const ZERO: Register = 31;

pub(super) fn decode(at: u64, word: u32) -> Instruction {
    let (effect, writes) = if let Some(effect) = branch(at, word) {
        (effect, if matches!(effect, Effect::Call(_)) { bit(LINK) } else { 0 })
    } else if let Some(effect) = address(at, word) {
        (effect, 0)
    } else if bits(word, 27, 1) == 1 && bits(word, 25, 1) == 0 {
        memory(at, word)
    } else {
        (Effect::Other, changed(register(word, 0)))
    };
    Instruction { at, effect, writes }
}

/// The function that `BL` calls.
pub(super) fn called(at: u64, word: u32) -> Option<u64> {
    (bits(word, 26, 6) == 0b10_0101).then(|| branch_target(at, bits(word, 0, 26)))
}

const fn changed(register: Register) -> RegisterSet {
    if register == ZERO { 0 } else { bit(register) }
}

fn branch(at: u64, word: u32) -> Option<Effect> {
    if let Some(target) = called(at, word) {
        return Some(Effect::Call(Some(target)));
    }
    if bits(word, 26, 6) == 0b00_0101 {
        return Some(Effect::Leave);
    }
    // B.cond; CBZ, CBNZ, TBZ and TBNZ.
    if bits(word, 24, 8) == 0b0101_0100 || bits(word, 26, 5) == 0b0_1101 {
        return Some(Effect::Branch);
    }
    if bits(word, 25, 7) == 0b110_1011 {
        // BR, BLR, RET.
        return Some(if bits(word, 21, 4) == 1 { Effect::Call(None) } else { Effect::Leave });
    }
    None
}

/// ADR, ADRP, ADD and SUB with an immediate, and MOV between registers.
fn address(at: u64, word: u32) -> Option<Effect> {
    let (to, from) = (register(word, 0), register(word, 5));
    let immediate = || signed(word, 5, 19) << 2 | i64::from(bits(word, 29, 2));
    match bits(word, 24, 8) & 0b1001_1111 {
        0b1001_0000 => {
            let value = (at & !0xfff).wrapping_add_signed(immediate() << 12);
            return Some(Effect::Page { to, value });
        }
        0b0001_0000 => return Some(Effect::Address { to, value: at.wrapping_add_signed(immediate()) }),
        _ => {}
    }
    let plus = i64::from(bits(word, 10, 12)) << if bits(word, 22, 1) == 1 { 12 } else { 0 };
    match bits(word, 23, 9) {
        0b1_0010_0010 => Some(Effect::Add { to, from, plus }),
        0b1_1010_0010 => Some(Effect::Add { to, from, plus: -plus }),
        _ if word & 0xffe0_ffe0 == 0xaa00_03e0 => Some(Effect::Add { to, from: register(word, 16), plus: 0 }),
        _ => None,
    }
}

/// Loads and stores.
fn memory(at: u64, word: u32) -> (Effect, RegisterSet) {
    let vector = bits(word, 26, 1) == 1;
    let rt = register(word, 0);
    let integer = |register: Register| if vector { 0 } else { changed(register) };
    match bits(word, 27, 3) {
        0b111 if bits(word, 24, 2) == 1 => {
            let (size, load) = single(word, vector);
            let offset = i64::from(bits(word, 10, 12)) * i64::from(size);
            (based(word, offset, size, 1, load), if load { integer(rt) } else { 0 })
        }
        0b111 if bits(word, 21, 1) == 0 => {
            let (size, load) = single(word, vector);
            // After the access, the base changes where bit 10 is set; only before it, where bit 11 is too.
            let offset = if bits(word, 10, 2) == 1 { 0 } else { signed(word, 12, 9) };
            let base = if bits(word, 10, 1) == 1 { changed(register(word, 5)) } else { 0 };
            (based(word, offset, size, 1, load), if load { integer(rt) | base } else { base })
        }
        // Atomic operations, which load and store.
        0b111 if bits(word, 10, 2) == 0 => (based(word, 0, 1 << bits(word, 30, 2), 1, false), integer(rt)),
        0b101 => pair(word, vector),
        // Exclusive and ordered accesses; CAS and STXR also change a status register.
        0b001 if !vector => {
            let load = bits(word, 22, 1) == 1 && bits(word, 21, 1) == 0;
            let status = changed(register(word, 16));
            (based(word, 0, 1 << bits(word, 30, 2), 1, load), changed(rt) | status)
        }
        0b011 if bits(word, 24, 2) == 0 => {
            let place = Place::Absolute(at.wrapping_add_signed(signed(word, 5, 19) * 4));
            let size = if bits(word, 30, 1) == 1 { 8 } else { 4 };
            let access = MemoryAccess { place, size, count: 1, access: Access::Load, register: None };
            (Effect::Memory(access), integer(rt))
        }
        _ => (Effect::Other, integer(rt) | changed(register(word, 5))),
    }
}

/// The size, and whether it is a load.
fn single(word: u32, vector: bool) -> (u8, bool) {
    let (size, opc) = (bits(word, 30, 2), bits(word, 22, 2));
    if vector { (1 << (opc & 2 | size).min(4), opc & 1 == 1) } else { (1 << size, opc != 0) }
}

fn pair(word: u32, vector: bool) -> (Effect, RegisterSet) {
    let opc = bits(word, 30, 2);
    let size: u8 = if vector { 4 << opc.min(2) } else { 4 << (opc >> 1) };
    let load = bits(word, 22, 1) == 1;
    let mode = bits(word, 23, 3);
    let offset = if mode == 1 { 0 } else { signed(word, 15, 7) * i64::from(size) };
    let base = if mode & 1 == 1 { changed(register(word, 5)) } else { 0 };
    let loaded = changed(register(word, 0)) | changed(register(word, 10));
    (based(word, offset, size, 2, load), if load && !vector { loaded | base } else { base })
}

fn based(word: u32, offset: i64, size: u8, count: u8, load: bool) -> Effect {
    let place = Place::Based { base: register(word, 5), offset };
    let access = if load { Access::Load } else { Access::Store };
    let stored = (!load && count == 1 && bits(word, 26, 1) == 0).then(|| register(word, 0));
    Effect::Memory(MemoryAccess { place, size, count, access, register: stored })
}

/// What the kernel simulates: arch/arm64/kernel/probes/decode-insn.c (Linux 6.18). Kernels before 6.12 single-step NOP,
/// and LDR of a literal is refused there since, so that neither counts.
pub(super) fn probed(word: u32) -> Probed {
    let emulated = match branch(0, word) {
        Some(Effect::Call(Some(_))) => Some("bl"),
        Some(Effect::Call(None)) => Some("blr"),
        Some(Effect::Leave) if bits(word, 26, 6) == 0b00_0101 => Some("b"),
        Some(Effect::Leave) if bits(word, 21, 4) == 2 => Some("ret"),
        Some(Effect::Leave) if bits(word, 21, 4) == 0 => Some("br"),
        Some(Effect::Branch) if bits(word, 24, 8) == 0b0101_0100 => Some("b.cond"),
        Some(Effect::Branch) => Some(match bits(word, 24, 2) {
            0 => "cbz",
            1 => "cbnz",
            2 => "tbz",
            _ => "tbnz",
        }),
        _ if bits(word, 24, 5) == 0b1_0000 => Some(if bits(word, 31, 1) == 1 { "adrp" } else { "adr" }),
        _ => None,
    };
    named(emulated, word)
}
