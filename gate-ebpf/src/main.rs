//! memgate's BPF programs. One object serves amd64, arm64 and loong64: the registers that carry Go's arguments are
//! offsets in `pt_regs`, patched in when the object is loaded.
#![no_std]
#![no_main]

mod address_space;
mod output;
mod runtime;
mod target;

/// Helpers such as `bpf_probe_read_kernel` and the ring buffer ask for a licence that the kernel knows.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no program gets here.
    loop {}
}
