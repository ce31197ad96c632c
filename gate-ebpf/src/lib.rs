//! The records and constants that memgate's BPF programs share with the collector.
#![no_std]

/// A record of the buffer `EVENTS`. Times are `bpf_ktime_get_ns`, which is `CLOCK_MONOTONIC`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The event: one of the constants in [`kind`].
    pub kind: u32,
    /// The thread's id in the kernel's own numbering.
    pub thread: u32,
    /// When, ns.
    pub at_ns: u64,
    /// First value; [`kind`] says what it means.
    pub first: u64,
    /// Second value; [`kind`] says what it means.
    pub second: u64,
    /// Third value; [`kind`] says what it means.
    pub third: u64,
}

impl Record {
    /// Size in bytes.
    pub const SIZE: usize = core::mem::size_of::<Self>();

    /// Reads a record as the kernel handed it out; `None` if there are fewer bytes than [`Record::SIZE`]. There may be
    /// more, because perf event arrays pad their records.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.get(..Self::SIZE)?.try_into().ok()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        let half = |at: usize| {
            let mut half = [0; 4];
            half.copy_from_slice(&bytes[at..at + 4]);
            u32::from_ne_bytes(half)
        };
        Some(Self {
            kind: half(0),
            thread: half(4),
            at_ns: word(8),
            first: word(16),
            second: word(24),
            third: word(32),
        })
    }
}

/// Kinds of records.
pub mod kind {
    /// `(*timeHistogram).record` was called at the end of a stop of the world: histogram's address, duration in ns, 0.
    pub const PAUSE: u32 = 1;
    /// `(*gcControllerState).resetLive` was called: live heap after mark in bytes, 0, 0.
    pub const LIVE_HEAP: u32 = 2;
    /// The Go runtime made a mapping: address, length in bytes, duration in ns.
    pub const MAPPED: u32 = 3;
    /// The Go runtime removes a mapping: address, length, 0.
    pub const UNMAPPED: u32 = 4;
    /// The world is about to start: the reason for the stop, when stopping began in ns, 0.
    pub const WORLD_START: u32 = 5;
    /// An allocation was sampled: the object's address, its bucket's address, the goroutine's id.
    pub const ALLOC_SAMPLE: u32 = 6;
    /// A page was touched for the first time outside the runtime's own mappings: a [`super::Fault`] in the buffer
    /// `FAULTS`.
    pub const FAULT: u32 = 7;
}

/// The number of kinds of records plus one, which is the length of the array `LOST`, indexed by kind.
pub const KINDS: u32 = 8;

/// Words of the array `COUNTS`, one slot for each CPU.
pub mod count {
    /// Refills of span caches.
    pub const REFILLS: u32 = 0;
    /// Refills for which the heap had to grow.
    pub const MISSES: u32 = 1;
    /// First touches outside the runtime's own mappings, with or without a record.
    pub const FAULTS: u32 = 2;
    /// The number of counts.
    pub const COUNTS: u32 = 3;
}

/// Means that an argument is on the stack.
pub const ON_STACK: u64 = 1 << 63;

/// Passes the list of constants that the collector sets to a macro. Their order is that of the array in which the
/// programs of tier T1 find them.
#[macro_export]
macro_rules! with_constants {
    ($macro:ident) => {
        $macro! {
            /// The place of a Go function's first integer argument at its call: the offset of a register in `pt_regs`,
            /// bytes, or with [`ON_STACK`] an offset from the stack pointer.
            ARGUMENT_0: argument_0;
            /// The place of a Go function's second integer argument at its call: the offset of a register in `pt_regs`,
            /// bytes, or with [`ON_STACK`] an offset from the stack pointer.
            ARGUMENT_1: argument_1;
            /// The place of a Go function's third integer argument at its call: the offset of a register in `pt_regs`,
            /// bytes, or with [`ON_STACK`] an offset from the stack pointer.
            ARGUMENT_2: argument_2;
            /// The place of a Go function's first integer result after its call, like an argument.
            RESULT_0: result_0;
            /// The place of a Go function's second integer result after its call, like an argument.
            RESULT_1: result_1;
            /// Offset in `pt_regs` of the register that carries the current `g`, bytes.
            G_REGISTER: g_register;
            /// Offset in `pt_regs` of the stack pointer, bytes.
            STACK_POINTER: stack_pointer;
            /// Offset in `pt_regs` of the program counter, bytes.
            PROGRAM_COUNTER: program_counter;
            /// The number of words in `struct user_pt_regs`; at most `REGISTERS`.
            REGISTER_COUNT: register_count;
            /// `g.m`, offset in bytes.
            G_M: g_m;
            /// `m.curg`, offset in bytes.
            M_CURG: m_curg;
            /// `g.goid`, offset in bytes.
            G_GOID: g_goid;
            /// `g.syscallpc`, offset in bytes.
            G_SYSCALLPC: g_syscallpc;
            /// `g.syscallsp`, offset in bytes.
            G_SYSCALLSP: g_syscallsp;
            /// The watched process, in the numbering of the collector's PID namespace.
            TARGET_PID: target_pid;
            /// Device number of the collector's PID namespace.
            PID_NAMESPACE_DEVICE: pid_namespace_device;
            /// Inode number of the collector's PID namespace.
            PID_NAMESPACE_INODE: pid_namespace_inode;
        }
    };
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident: $function:ident;)*) => {
        /// The names of the constants that the collector sets, in order.
        pub const CONSTANTS: &[&str] = &[$(stringify!($name)),*];
    };
}

with_constants!(names);

/// How many of the runtime's own mappings the programs know. The collector recognises touches in the others.
pub const RANGES: usize = 16;

/// The runtime's own mappings, largest first: the start and the end of each. Unused entries are empty.
pub type Ranges = [[u64; 2]; RANGES];

/// Bytes of the stack that a [`Fault`] holds.
pub const STACK: usize = 8192;
/// Bytes of the goroutine's stack that a [`Fault`] holds.
pub const GO_STACK: usize = 2048;
/// Words of `struct user_pt_regs` that a [`Fault`] holds: all of them, on every architecture.
pub const REGISTERS: usize = 45;

/// A first touch of a page, with the data to unwind the stack that led to it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Fault {
    /// When, ns.
    pub at_ns: u64,
    /// The address that was touched.
    pub address: u64,
    /// The registers in the order of `struct user_pt_regs` (`pt_regs` on amd64); the rest is 0.
    pub registers: [u64; REGISTERS],
    /// How many bytes of `stack` are filled.
    pub stack_length: u32,
    /// How many bytes of `go_stack` are filled.
    pub go_stack_length: u32,
    /// Where the goroutine that called C continues, 0 if that is not known.
    pub go_pc: u64,
    /// Its stack pointer.
    pub go_sp: u64,
    /// The stack from the stack pointer on.
    pub stack: [u8; STACK],
    /// The goroutine's stack from `go_sp` on.
    pub go_stack: [u8; GO_STACK],
}
