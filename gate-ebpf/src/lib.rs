//! The records and constants that memgate's BPF programs share with the collector.
#![no_std]

/// A record of the buffer `EVENTS`. Times are `bpf_ktime_get_ns`, which is `CLOCK_MONOTONIC`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What happened: one of the constants in [`kind`].
    pub kind: u32,
    /// The thread's id in the kernel's own numbering.
    pub thread: u32,
    /// When, ns.
    pub at_ns: u64,
    /// First value; [`kind`] says what it is.
    pub first: u64,
    /// Second value; [`kind`] says what it is.
    pub second: u64,
    /// Third value; [`kind`] says what it is.
    pub third: u64,
}

impl Record {
    /// Size in bytes.
    pub const SIZE: usize = core::mem::size_of::<Self>();

    /// Reads a record as the kernel handed it out; `None` where the bytes are fewer than [`Record::SIZE`]. More may follow:
    /// perf event arrays pad their records.
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
    /// The Go runtime made a mapping: address, length in bytes, how long it took in ns.
    pub const MAPPED: u32 = 3;
    /// The Go runtime removes a mapping: address, length, 0.
    pub const UNMAPPED: u32 = 4;
    /// The world is about to be started: the reason it was stopped for, when stopping began in ns, 0.
    pub const WORLD_START: u32 = 5;
    /// An allocation was sampled: the object's address, its bucket's, the goroutine's id.
    pub const ALLOC_SAMPLE: u32 = 6;
    /// A page was touched for the first time outside the runtime's own mappings: a [`super::Fault`] in the buffer `FAULTS`.
    pub const FAULT: u32 = 7;
}

/// How many kinds of records there are, plus one: the length of the array `LOST`, indexed by kind.
pub const KINDS: u32 = 8;

/// Words of the array `COUNTS`, one slot a CPU.
pub mod count {
    /// Refills of span caches.
    pub const REFILLS: u32 = 0;
    /// Of those, the ones for which the heap had to grow.
    pub const MISSES: u32 = 1;
    /// First touches outside the runtime's own mappings, whether or not there is a record of them.
    pub const FAULTS: u32 = 2;
    /// How many counts there are.
    pub const COUNTS: u32 = 3;
}

/// Marks the place of an argument as one on the stack.
pub const ON_STACK: u64 = 1 << 63;

/// Hands the list of constants that the collector tells the programs to a macro. Their order is that of the array in which
/// the programs of tier T1 find them.
#[macro_export]
macro_rules! with_constants {
    ($macro:ident) => {
        $macro! {
            /// Where a Go function's first integer argument is at its call: the offset in `pt_regs` of a register, bytes, or with
            /// [`ON_STACK`] one from the stack pointer.
            ARGUMENT_0: argument_0;
            /// Where a Go function's second integer argument is at its call: the offset in `pt_regs` of a register, bytes, or with
            /// [`ON_STACK`] one from the stack pointer.
            ARGUMENT_1: argument_1;
            /// Where a Go function's third integer argument is at its call: the offset in `pt_regs` of a register, bytes, or with
            /// [`ON_STACK`] one from the stack pointer.
            ARGUMENT_2: argument_2;
            /// Where the first integer result of a Go function is behind its call, like an argument.
            RESULT_0: result_0;
            /// Where the second integer result of a Go function is behind its call, like an argument.
            RESULT_1: result_1;
            /// Offset in `pt_regs` of the register that carries the current `g`, bytes.
            G_REGISTER: g_register;
            /// Offset in `pt_regs` of the stack pointer, bytes.
            STACK_POINTER: stack_pointer;
            /// Offset in `pt_regs` of the program counter, bytes.
            PROGRAM_COUNTER: program_counter;
            /// Words of `struct user_pt_regs`; at most `REGISTERS`.
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
            /// The watched process, as the collector's PID namespace numbers it.
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
        /// The names of the constants that the collector tells the programs, in order.
        pub const CONSTANTS: &[&str] = &[$(stringify!($name)),*];
    };
}

with_constants!(names);

/// How many of the runtime's own mappings the programs know; touches in others are told apart by the collector.
pub const RANGES: usize = 16;

/// The runtime's own mappings, the largest first: where each starts and ends. What is not used is empty.
pub type Ranges = [[u64; 2]; RANGES];

/// Bytes of the stack that a [`Fault`] holds.
pub const STACK: usize = 8192;
/// Bytes of the goroutine's stack that a [`Fault`] holds.
pub const GO_STACK: usize = 2048;
/// Words of `struct user_pt_regs` that a [`Fault`] holds: all of them on every architecture.
pub const REGISTERS: usize = 45;

/// A first touch of a page, with what is needed to unwind the stack that led there.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Fault {
    /// When, ns.
    pub at_ns: u64,
    /// The address that was touched.
    pub address: u64,
    /// The registers, as `struct user_pt_regs` (`pt_regs` on amd64) orders them; the rest is 0.
    pub registers: [u64; REGISTERS],
    /// How much of `stack` is filled, bytes.
    pub stack_length: u32,
    /// How much of `go_stack` is filled, bytes.
    pub go_stack_length: u32,
    /// Where the goroutine that called C goes on, 0 where that is not known.
    pub go_pc: u64,
    /// Its stack pointer.
    pub go_sp: u64,
    /// The stack from the stack pointer on.
    pub stack: [u8; STACK],
    /// The goroutine's stack from `go_sp` on.
    pub go_stack: [u8; GO_STACK],
}
