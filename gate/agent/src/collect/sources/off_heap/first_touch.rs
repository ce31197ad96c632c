//! Off-heap memory by the code that first touched each page.
//!
//! A mapping's call site shows who asked for address space. Memory exists only from the first touch. Each page outside
//! the Go heap belongs to the stack that first touched it, whether malloc, a driver or the service itself mapped it.
//! Growth is the difference between the pages that are still resident at the end of the measuring phase and those at
//! its start.

use std::{collections::HashMap, fs::File, ops::Range, os::unix::fs::FileExt as _};

use memgate_ebpf::Fault;
use memgate_evidence::platform::Platform;
use memgate_goexe::FunctionTable;

use super::reader::PAGE_PRESENT;
use crate::collect::{
    code::Symboliser,
    unwind::{Capture, GoContinuation, Registers, Unwinder},
};

/// The most pages that memgate remembers: 1 GiB of 4 KiB pages, in 5 MB of memory.
const MAXIMUM_PAGES: usize = 1 << 18;

/// The pages touched so far, with the stacks that touched them.
pub(super) struct FirstTouches {
    unwinder: Unwinder,
    platform: Platform,
    page_size: u64,
    /// Stack by page number.
    pages: HashMap<u64, u32>,
    /// Touches that memgate did not remember because there were too many.
    pub(super) forgotten: u64,
    /// Touches by the kernel during a system call, or with registers that cannot be read.
    pub(super) without_stack: u64,
}

impl FirstTouches {
    pub(super) fn new(unwinder: Unwinder, platform: Platform, page_size: u64) -> Self {
        Self { unwinder, platform, page_size, pages: HashMap::new(), forgotten: 0, without_stack: 0 }
    }

    /// Follows a change of the process's mappings.
    pub(super) fn refresh(&mut self, maps: &[procfs::process::MemoryMap]) {
        self.unwinder.refresh(maps);
    }

    /// Stores the stack that touched the page.
    pub(super) fn take(&mut self, fault: &Fault, functions: Option<&FunctionTable>, code: &mut Symboliser) {
        let page = fault.address / self.page_size;
        // A page that was given back and is touched again belongs to the stack that touched it last.
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

    /// Resident bytes by the stack that first touched them, for the pages in `ranges`. Forgets the pages that are gone.
    ///
    /// # Errors
    /// Fails if the process is gone.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::testing::{FakeProc, PID, fault};

    const PAGE: u64 = 4096;

    fn touches() -> FirstTouches {
        FirstTouches::new(Unwinder::new(PID, Platform::host()), Platform::host(), PAGE)
    }

    #[test]
    fn resident_pages_belong_to_the_stack_that_touched_them_last() {
        let (proc, mut touches, mut code) = (FakeProc::new(), touches(), Symboliser::default());
        for (address, pc) in
            [(0x1000_0000, 0x7001), (0x1000_1000, 0x7001), (0x1000_2000, 0x7001), (0x1000_2008, 0x8001)]
        {
            touches.take(&fault(address, pc), None, &mut code);
        }
        proc.touch(PAGE, &[0x1000_0000, 0x1000_2000]);
        let page_map = File::open(proc.path().join("pagemap")).unwrap();
        let everywhere = 0x1000_0000..0x1000_4000;
        let resident = touches.resident(&page_map, std::slice::from_ref(&everywhere)).unwrap();
        assert_eq!(resident, [(0, PAGE), (1, PAGE)].into(), "a page that was given back belongs to no stack");
        let outside = 0x2000_0000..0x2000_1000;
        assert!(touches.resident(&page_map, std::slice::from_ref(&outside)).unwrap().is_empty());
        assert!(touches.resident(&page_map, std::slice::from_ref(&everywhere)).unwrap().is_empty(), "forgotten");
    }

    #[test]
    fn touches_without_a_stack_and_touches_beyond_the_limit_are_counted() {
        let (mut touches, mut code) = (touches(), Symboliser::default());
        touches.take(&Fault { stack_length: 0, ..fault(0x1000, 0x7001) }, None, &mut code);
        touches.take(&Fault { stack_length: u32::MAX, ..fault(0x1000, 0x7001) }, None, &mut code);
        assert_eq!((touches.without_stack, touches.forgotten), (2, 0));
        touches.pages = (0..MAXIMUM_PAGES as u64).map(|page| (page, 0)).collect();
        touches.take(&fault(0x5000, 0x7001), None, &mut code);
        assert_eq!(touches.forgotten, 0, "a known page is stored again");
        touches.take(&fault(MAXIMUM_PAGES as u64 * PAGE, 0x7001), None, &mut code);
        assert_eq!(touches.forgotten, 1);
    }
}
