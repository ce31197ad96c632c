//! The records and constants that memgate's BPF programs share with the collector.
#![no_std]

/// A record in the ring buffer `EVENTS`. Times are `bpf_ktime_get_ns`, which is `CLOCK_MONOTONIC`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What happened: one of the constants in [`kind`].
    pub kind: u32,
    /// Always 0; keeps the fields that follow aligned.
    pub reserved: u32,
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

    /// Reads a record as the kernel handed it out; `None` unless the length is [`Record::SIZE`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().ok()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        let mut kind = [0; 4];
        kind.copy_from_slice(&bytes[..4]);
        Some(Self {
            kind: u32::from_ne_bytes(kind),
            reserved: 0,
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
    /// A mapping was made: address, length, 1 if the Go runtime made it.
    pub const MAPPED: u32 = 3;
    /// A mapping was removed: address, length, 0.
    pub const UNMAPPED: u32 = 4;
}

/// How many kinds of records there are, plus one: the length of the array `LOST`, indexed by kind.
pub const KINDS: u32 = 5;
