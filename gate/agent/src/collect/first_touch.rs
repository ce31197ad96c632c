//! Off-heap memory by the code that touched each page first.
//!
//! A mapping's call site tells who asked for address space; what counts is memory, and that is there from the first touch on.
//! So each page outside the Go heap is laid to the stack that touched it first, whether malloc, a driver or the service itself
//! had mapped it, and what of it is still resident at the phases' ends is what grew.

use std::{collections::HashMap, fs::File, ops::Range, os::unix::fs::FileExt as _};

use memgate_ebpf::Fault;
use memgate_evidence::platform::Platform;
use memgate_goexe::FunctionTable;

use super::{
    address_space::PAGE_PRESENT,
    code::Symboliser,
    unwind::{Capture, GoContinuation, Registers, Unwinder},
};

/// Pages remembered at most: 1 GiB of 4 KiB pages, in 5 MB of memory.
const MAXIMUM_PAGES: usize = 1 << 18;

/// The pages touched so far, with the stacks that did it.
pub(super) struct FirstTouches {
    unwinder: Unwinder,
    platform: Platform,
    page_size: u64,
    /// Stack by page number.
    pages: HashMap<u64, u32>,
    /// Touches that were not remembered, for there were too many.
    pub(super) forgotten: u64,
    /// Touches by the kernel on behalf of a system call, or with registers that cannot be read.
    pub(super) without_stack: u64,
}

impl FirstTouches {
    pub(super) fn new(unwinder: Unwinder, platform: Platform, page_size: u64) -> Self {
        Self { unwinder, platform, page_size, pages: HashMap::new(), forgotten: 0, without_stack: 0 }
    }

    /// The process's mappings have changed.
    pub(super) fn refresh(&mut self, maps: &[procfs::process::MemoryMap]) {
        self.unwinder.refresh(maps);
    }

    /// Lays the page to the stack that touched it.
    pub(super) fn take(&mut self, fault: &Fault, functions: Option<&FunctionTable>, code: &mut Symboliser) {
        let page = fault.address / self.page_size;
        // A page that was given back and is touched anew belongs to whoever touched it last.
        if self.pages.len() >= MAXIMUM_PAGES && !self.pages.contains_key(&page) {
            self.forgotten += 1;
            return;
        }
        match self.stack(fault, functions, code) {
            Some(stack) => {
                self.pages.insert(page, stack);
            }
            None => self.without_stack += 1,
        }
    }

    fn stack(&mut self, fault: &Fault, functions: Option<&FunctionTable>, code: &mut Symboliser) -> Option<u32> {
        let stack = fault.stack.get(..usize::try_from(fault.stack_length).ok()?).filter(|stack| !stack.is_empty())?;
        let go_stack = fault.go_stack.get(..usize::try_from(fault.go_stack_length).ok()?)?;
        let bytes: Vec<u8> = fault.registers.iter().flat_map(|register| register.to_ne_bytes()).collect();
        let capture = Capture {
            registers: Registers::from_user(self.platform, &bytes)?,
            stack,
            go: (fault.go_pc != 0).then_some(GoContinuation { pc: fault.go_pc, sp: fault.go_sp, stack: go_stack }),
        };
        let frames = self.unwinder.stack(functions, &capture);
        (!frames.is_empty()).then(|| code.intern_stack(frames))
    }

    /// Resident bytes by the stack that touched them first, of the pages in `ranges`; forgets the pages that have gone.
    ///
    /// # Errors
    /// When the process is gone.
    pub(super) fn resident(&mut self, page_map: &File, ranges: &[Range<u64>]) -> std::io::Result<HashMap<u32, u64>> {
        let mut resident = HashMap::new();
        let mut gone = Vec::new();
        for (page, stack) in &self.pages {
            let address = page.saturating_mul(self.page_size);
            let within = ranges.iter().any(|range| range.contains(&address));
            let mut entry = [0; 8];
            if within {
                page_map.read_exact_at(&mut entry, page.saturating_mul(8))?;
            }
            if entry[7] & PAGE_PRESENT == 0 {
                gone.push(*page);
            } else {
                *resident.entry(*stack).or_insert(0) += self.page_size;
            }
        }
        for page in gone {
            self.pages.remove(&page);
        }
        Ok(resident)
    }
}
