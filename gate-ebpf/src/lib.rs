//! The records that memgate's BPF programs share with the collector.
#![no_std]
