//! amd64.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind,
    UsedMemory,
};

use super::{Access, Call, Effect, Instruction, MemoryAccess, Place, ProbeCost, Probed, Register, RegisterSet, bit};

/// The direct calls, which need less than everything that [`decode`] tells.
pub(super) fn calls(code: &[u8], address: u64) -> impl Iterator<Item = Call> {
    let instructions = Decoder::with_ip(64, code, address, DecoderOptions::NONE).into_iter();
    let direct = instructions.filter(|instruction| {
        instruction.flow_control() == FlowControl::Call && instruction.op0_kind() == OpKind::NearBranch64
    });
    direct.map(|instruction| Call { at: instruction.ip(), target: instruction.near_branch_target() })
}

pub(super) fn decode(code: &[u8], address: u64) -> Vec<Instruction> {
    let mut factory = InstructionInfoFactory::new();
    let decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    decoder.into_iter().map(|instruction| decode_one(&instruction, &mut factory)).collect()
}

fn decode_one(instruction: &iced_x86::Instruction, factory: &mut InstructionInfoFactory) -> Instruction {
    let at = instruction.ip();
    let flow = match instruction.flow_control() {
        FlowControl::Call if instruction.op0_kind() == OpKind::NearBranch64 => {
            Some(Effect::Call(Some(instruction.near_branch_target())))
        }
        FlowControl::Call | FlowControl::IndirectCall => Some(Effect::Call(None)),
        FlowControl::ConditionalBranch => Some(Effect::Branch),
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return => Some(Effect::Leave),
        _ => None,
    };
    if let Some(effect) = flow {
        return Instruction { at, effect, writes: 0 };
    }
    if let Some(effect) = address_of(instruction) {
        return Instruction { at, effect, writes: 0 };
    }
    let info = factory.info_options(instruction, InstructionInfoOptions::NONE);
    let writes =
        info.used_registers().iter().filter(|used| writes(used.access())).filter_map(|used| number(used.register()));
    let writes = writes.fold(0, |set: RegisterSet, register| set | bit(register));
    let stored = (instruction.op1_kind() == OpKind::Register).then(|| number(instruction.op1_register())).flatten();
    let memory = info.used_memory().iter().find_map(|memory| access(memory, stored));
    Instruction { at, effect: memory.map_or(Effect::Other, Effect::Memory), writes }
}

/// LEA of a fixed place or a register plus a constant, and MOV between registers.
fn address_of(instruction: &iced_x86::Instruction) -> Option<Effect> {
    let to = number(instruction.op0_register())?;
    match instruction.mnemonic() {
        Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
            Some(Effect::Address { to, value: instruction.ip_rel_memory_address() })
        }
        Mnemonic::Lea if instruction.memory_index() == iced_x86::Register::None => Some(Effect::Add {
            to,
            from: number(instruction.memory_base())?,
            plus: instruction.memory_displacement64().cast_signed(),
        }),
        Mnemonic::Mov if instruction.op0_register().is_gpr64() && instruction.op1_register().is_gpr64() => {
            Some(Effect::Add { to, from: number(instruction.op1_register())?, plus: 0 })
        }
        _ => None,
    }
}

fn access(memory: &UsedMemory, stored: Option<Register>) -> Option<MemoryAccess> {
    if memory.index() != iced_x86::Register::None {
        return None;
    }
    let place = match memory.base() {
        iced_x86::Register::RIP | iced_x86::Register::None => Place::Absolute(memory.displacement()),
        base => Place::Based { base: number(base)?, offset: memory.displacement().cast_signed() },
    };
    let access = if writes(memory.access()) { Access::Store } else { Access::Load };
    let size = u8::try_from(memory.memory_size().size()).ok()?;
    Some(MemoryAccess { place, size, count: 1, access, register: stored.filter(|_| access == Access::Store) })
}

const fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

fn number(register: iced_x86::Register) -> Option<Register> {
    let full = register.full_register();
    full.is_gpr64().then(|| u8::try_from(full.number()).ok()).flatten()
}

/// What the kernel emulates: `branch_setup_xol_ops` and `push_setup_xol_ops`, arch/x86/kernel/uprobes.c. Linux emulates
/// NOPs longer than a byte since 6.16 only, so that they do not count, nor does ENDBR64; nothing with the prefix 66 does.
pub(super) fn probed(code: &[u8]) -> Option<Probed> {
    let instruction = Decoder::new(64, code, DecoderOptions::NONE).iter().next()?;
    if instruction.is_invalid() {
        return None;
    }
    let near = instruction.op0_kind() == OpKind::NearBranch64;
    let emulated = match instruction.mnemonic() {
        Mnemonic::Nop => instruction.len() == 1,
        Mnemonic::Push => instruction.op0_register().is_gpr64() && instruction.len() <= 2,
        Mnemonic::Call | Mnemonic::Jmp => near,
        _ => near && instruction.is_jcc_short_or_near(),
    };
    let cost = if emulated { ProbeCost::Emulated } else { ProbeCost::SingleStepped };
    Some(Probed { cost, mnemonic: format!("{:?}", instruction.mnemonic()).to_lowercase() })
}
