//! The constants that the collector passes to the programs before they run.
//!
//! From tier T2 on, these are globals. The collector patches them when it loads the object, and the kernel then treats
//! them as constants. Linux before 5.2 has no globals, so tier T1 uses the slots of an array.

#[cfg(feature = "tier1")]
mod array {
    use aya_ebpf::{macros::map, maps::Array};

    #[map]
    static CONSTANTS: Array<u64> = Array::with_max_entries(memgate_ebpf::CONSTANTS.len() as u32, 0);

    #[inline(always)]
    pub(super) fn get(index: u32) -> u64 {
        CONSTANTS.get(index).copied().unwrap_or(0)
    }
}

#[cfg(feature = "tier1")]
macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: $function:ident;)*) => {
        /// The slots of the array.
        enum Slot {
            $($(#[$doc])* $name,)*
        }

        $(
            $(#[$doc])*
            #[inline(always)]
            #[allow(dead_code, clippy::allow_attributes, reason = "tier T1 has no captures of first touches")]
            pub(crate) fn $function() -> u64 {
                array::get(Slot::$name as u32)
            }
        )*
    };
}

#[cfg(not(feature = "tier1"))]
macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: $function:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        static $name: u64 = 0;

        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $function() -> u64 {
            // SAFETY: the reference is valid; the volatile read keeps the compiler from using the value before
            // patching.
            unsafe { core::ptr::read_volatile(&$name) }
        }
    )*};
}

memgate_ebpf::with_constants!(constants);
