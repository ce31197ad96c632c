//! Follows addresses through the code of one function.

use memgate_evidence::platform::Platform;

use super::{ArgumentLocation, Effect, MemoryAccess, Operand, Register, RegisterSet, argument, bit, decode, registers};

/// How a function uses a place in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Takes its address.
    Address,
    /// Reads it.
    Load,
    /// Writes it, or reads and writes it at once.
    Store,
}

/// A use of a fixed place in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Virtual address of the instruction.
    pub at: u64,
    /// Virtual address of the place.
    pub address: u64,
    /// What the instruction does with the place.
    pub access: Access,
    /// How many bytes it reads or writes; 0 for an address.
    pub size: u8,
}

/// An event in a function's code that memgate learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It uses a fixed place.
    Reference(Reference),
    /// It calls a function at a fixed address.
    Call {
        /// Virtual address of the instruction.
        at: u64,
        /// Virtual address of the function.
        target: u64,
        /// The first integer argument, if it is a fixed address.
        argument_0: Option<u64>,
    },
}

/// The uses of fixed places and the calls in the function with this code, which starts at the virtual address
/// `address`. They are in the order of the code.
///
/// The trace follows values in the order of the code. It forgets them at calls and where code is not reached from
/// above. A branch may still bring another value, so a single event is only a hint, and callers compare several.
/// `go_minor` determines where arguments are passed; without it, the trace does not follow them.
pub fn trace(platform: Platform, code: &[u8], address: u64, go_minor: Option<u32>) -> Vec<Event> {
    let on_stack = match go_minor.and_then(|minor| argument(platform, minor, 0)) {
        Some(ArgumentLocation::Stack(offset)) => Some(offset.cast_signed()),
        Some(ArgumentLocation::Register(_)) | None => None,
    };
    let mut tracer = Tracer { platform, known: [None; 32], on_stack, pushed: None, events: Vec::new() };
    for instruction in decode(platform, code, address) {
        tracer.follow(instruction.at, instruction.effect, instruction.writes);
    }
    tracer.events
}

struct Tracer {
    platform: Platform,
    /// Values of registers, if known.
    known: [Option<u64>; 32],
    /// Where argument 0 is on the stack, if it is passed there.
    on_stack: Option<i64>,
    /// Argument 0 on the stack, if known.
    pushed: Option<u64>,
    events: Vec<Event>,
}

impl Tracer {
    fn follow(&mut self, at: u64, effect: Effect, writes: RegisterSet) {
        match effect {
            Effect::Page { to, value } => self.set(to, Some(value)),
            Effect::Address { to, value } => {
                self.refer(at, value, Access::Address, 0);
                self.set(to, Some(value));
            }
            Effect::Add { to, from, plus } => {
                let value = self.get(from).map(|value| value.wrapping_add_signed(plus));
                // A move makes no new address.
                if let Some(value) = value.filter(|_| plus != 0) {
                    self.refer(at, value, Access::Address, 0);
                }
                self.set(to, value);
            }
            Effect::Memory(access) => self.access(at, access),
            Effect::Call(target) => self.call(at, target),
            Effect::Leave => self.known = [None; 32],
            Effect::Branch | Effect::Other => {}
        }
        for (register, value) in (0..).zip(&mut self.known) {
            if writes & bit(register) != 0 {
                *value = None;
            }
        }
    }

    fn access(&mut self, at: u64, access: MemoryAccess) {
        let start = match access.place {
            Operand::Absolute(address) => Some(address),
            Operand::Based { base, offset } => {
                if access.access == Access::Store && self.is_argument(base, offset) {
                    self.pushed = access.register.and_then(|register| self.get(register));
                }
                self.get(base).map(|base| base.wrapping_add_signed(offset))
            }
        };
        for element in 0..access.count {
            if let Some(start) = start {
                let address = start.wrapping_add(u64::from(element) * u64::from(access.size));
                self.refer(at, address, access.access, access.size);
            }
        }
    }

    fn is_argument(&self, base: Register, offset: i64) -> bool {
        base == registers(self.platform).stack && self.on_stack == Some(offset)
    }

    fn call(&mut self, at: u64, target: Option<u64>) {
        let in_register = self.get(registers(self.platform).argument_0);
        let argument_0 = if self.on_stack.is_some() { self.pushed } else { in_register };
        if let Some(target) = target {
            self.events.push(Event::Call { at, target, argument_0 });
        }
        // In Go's calling convention, a callee preserves no registers.
        self.known = [None; 32];
        self.pushed = None;
    }

    fn refer(&mut self, at: u64, address: u64, access: Access, size: u8) {
        self.events.push(Event::Reference(Reference { at, address, access, size }));
    }

    fn get(&self, register: Register) -> Option<u64> {
        self.known.get(usize::from(register)).copied().flatten()
    }

    fn set(&mut self, register: Register, value: Option<u64>) {
        if let Some(known) = self.known.get_mut(usize::from(register)) {
            *known = value;
        }
    }
}

/// The first conditional branch after the call at `call`, if a probe there can still read the first two results and the
/// kernel emulates the branch. The results are in their registers, or on the stack if Go 1.`go_minor` returns them
/// there.
pub fn branch_with_results(platform: Platform, code: &[u8], address: u64, call: u64, go_minor: u32) -> Option<u64> {
    let in_registers = matches!(argument(platform, go_minor, 0), Some(ArgumentLocation::Register(_)));
    let results = registers(platform).results.into_iter().filter(|_| in_registers);
    let results = results.fold(0, |set, register| set | bit(register));
    for instruction in decode(platform, code, address).iter().filter(|instruction| instruction.at > call) {
        let destination = match instruction.effect {
            Effect::Branch => return Some(instruction.at),
            Effect::Call(_) | Effect::Leave => return None,
            Effect::Address { to, .. } | Effect::Page { to, .. } | Effect::Add { to, .. } => bit(to),
            Effect::Memory(_) | Effect::Other => 0,
        };
        if (destination | instruction.writes) & results != 0 {
            return None;
        }
    }
    None
}
