//! memgate's BPF programs. One object serves amd64, arm64 and loong64: they differ in offsets, which are patched in
//! when the object is loaded. A second object, with the feature `tier1`, serves Linux 4.19 to 5.7.
#![no_std]
#![no_main]

mod constants;
#[cfg(not(feature = "tier1"))]
mod faults;
mod output;
mod registers;
mod runtime;

/// The kernel recognises this licence, which helpers such as `bpf_probe_read_kernel` and the ring buffer require.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no program gets here.
    loop {}
}
