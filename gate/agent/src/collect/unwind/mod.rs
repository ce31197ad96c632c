//! Call stacks from a thread's registers and a copy of the top of its stack: native code and Go together.
//!
//! Native code is unwound with its call frame information, and Go with its function table. If Go called C, the C frames
//! end on the stack of the operating system's thread, and the goroutine's own frames continue from its call.
//!
//! Only `gimli` evaluates the call frame information, by DWARF register numbers, so that one unwinder serves the three
//! architectures. Crates with more functions, such as `framehop`, do not support loong64.
//!
//! The process's files may have any contents, so all reads, memory and work are limited.

mod cfi;
mod file;
mod go;
mod lines;
mod module;
mod modules;
mod named;
mod names;
mod registers;
#[cfg(test)]
mod tests;

use gimli::UnwindContext;
use procfs::process::MemoryMap;

pub(super) use go::frame as go_frame;
pub use registers::Registers;
#[cfg(test)]
pub(super) use tests::{go_executable, go_minor};

use memgate_evidence::{Frame, Language, platform::Platform};
use memgate_goexe::{
    FunctionTable,
    arch::{FrameLayout, frame_layout},
};

use self::{
    cfi::Step,
    modules::{Modules, Place},
    named::Named,
    registers::{Cursor, Memory},
};

/// The most frames of a stack.
const MAXIMUM_FRAMES: usize = 128;
/// The most memory for the modules of one process, bytes.
const MAXIMUM_MEMORY: usize = 512 << 20;

/// A thread at the time of the capture.
#[derive(Debug, Clone, Copy)]
pub struct Capture<'a> {
    /// Its registers in user mode, even if the kernel touched the page for the thread.
    pub registers: Registers,
    /// Its stack from the stack pointer upward, as far as it was copied.
    pub stack: &'a [u8],
    /// The goroutine that called the thread's C code.
    pub go: Option<GoContinuation<'a>>,
}

/// The place where a goroutine called C.
#[derive(Debug, Clone, Copy)]
pub struct GoContinuation<'a> {
    /// `g.syscallpc`: the return address of the call.
    pub pc: u64,
    /// `g.syscallsp`: the stack pointer at the call.
    pub sp: u64,
    /// The goroutine's stack from `sp` upward, as far as it was copied.
    pub stack: &'a [u8],
}

/// Unwinds the stacks of one process.
pub struct Unwinder {
    layout: &'static FrameLayout,
    platform: Platform,
    modules: Modules,
    context: UnwindContext<usize>,
    named: Named,
}

/// The rest of the memory for modules, bytes.
struct Budget(usize);

impl Unwinder {
    /// An unwinder for the process, which must already have executed its program. It knows no code before
    /// [`Self::refresh`].
    pub fn new(pid: i32, platform: Platform) -> Self {
        Self {
            layout: frame_layout(platform),
            platform,
            modules: Modules::new(pid),
            context: UnwindContext::new(),
            named: Named::default(),
        }
    }

    /// Uses the process's current mappings, `/proc/PID/maps`. Call it before the first stack and whenever code was
    /// mapped. A file is read once, when an address in it first appears.
    pub fn refresh(&mut self, maps: &[MemoryMap]) {
        if self.modules.refresh(maps) {
            self.named.clear();
        }
    }

    /// The files of code that could not be read, with the reasons. Frames in them have addresses as names, and stacks
    /// may end there.
    pub fn skipped(&self) -> impl Iterator<Item = &str> {
        self.modules.skipped()
    }

    /// The calls of a stack, the innermost first, at most 128. `functions` is the function table of the process's
    /// executable if that is a Go program. It must be the same in every call.
    ///
    /// The stack ends early if the copy ends, or if nothing describes the next frame. The runtime's own frames between
    /// C and its Go caller are left out.
    pub fn stack(&mut self, functions: Option<&FunctionTable>, capture: &Capture<'_>) -> Vec<Frame> {
        let sp = capture.registers.get(self.layout.stack_pointer).unwrap_or(0);
        let mut walk = Walk {
            functions,
            memory: Memory { stack: (sp, capture.stack), go: capture.go.map(|go| (go.sp, go.stack)) },
            cursor: Cursor { registers: capture.registers, stopped: true },
            continuation: capture.go.map(|go| Registers::of(self.platform, go.pc, go.sp)),
            resuming: false,
            frames: Vec::new(),
        };
        while walk.frames.len() < MAXIMUM_FRAMES && self.advance(&mut walk) {}
        walk.frames.truncate(MAXIMUM_FRAMES);
        walk.frames
    }

    /// Adds the walk's current frame and goes to its caller. Returns whether there is one.
    fn advance(&mut self, walk: &mut Walk<'_>) -> bool {
        let before = walk.cursor;
        let address = before.executing();
        let mut place = self.modules.at(address);
        let go = place
            .as_ref()
            .and_then(|place| Some((place.functions(walk.functions)?, place.bias)))
            .filter(|(functions, bias)| functions.stack_delta(address.wrapping_sub(*bias)).is_some());
        // C returns into Go here. The rest of this stack is the runtime's own. The goroutine's stack has only Go
        // frames.
        if go.is_some() && walk.is_native() || go.is_none() && walk.resuming {
            return walk.resume();
        }
        let frames = self.named.at(address, || match (go, &mut place) {
            (Some((functions, bias)), _) => go::frames(functions, address.wrapping_sub(bias)),
            (None, Some(place)) => place.module.frames(address.wrapping_sub(place.bias), MAXIMUM_FRAMES, place.budget),
            (None, None) => vec![unknown(address, Language::Native)],
        });
        walk.push(frames);
        let step = match (go, place) {
            (Some((functions, bias)), _) => go::step(functions, self.layout, &mut walk.cursor, bias, &walk.memory),
            (None, place) => {
                let context = &mut self.context;
                let cfi = place.map_or(Step::Unknown, |place| {
                    place.module.cfi.step(self.layout, context, &mut walk.cursor, place.bias, &walk.memory)
                });
                if cfi == Step::Unknown { self.frame_record_step(walk) } else { cfi }
            }
        };
        match step {
            Step::Caller => self.makes_progress(&before, &walk.cursor),
            Step::Outermost if go.is_some() => false,
            Step::Outermost | Step::Unknown => walk.resume(),
        }
    }

    /// Goes to the caller by the frame pointer, if nothing describes the frame and the pointer leads to code.
    fn frame_record_step(&self, walk: &mut Walk<'_>) -> Step {
        let registers = &walk.cursor.registers;
        let caller =
            registers.get(self.layout.frame_pointer).filter(|_| self.layout.frame_records).and_then(|record| {
                let return_address = walk.memory.word(record.checked_add(8)?)? & self.layout.address_mask;
                Some((return_address, record.checked_add(16)?, walk.memory.word(record)?))
            });
        match caller {
            Some((pc, sp, fp)) if self.modules.has(pc) => {
                let mut registers = Registers::of(self.platform, pc, sp);
                registers.set(self.layout.frame_pointer, Some(fp));
                walk.cursor = Cursor { registers, stopped: false };
                Step::Caller
            }
            _ => Step::Unknown,
        }
    }

    /// Whether the caller's frame is above this one, so that unwinding ends at some time. A function that stores
    /// nothing on the stack may have the same stack pointer as its caller, once.
    fn makes_progress(&self, before: &Cursor, after: &Cursor) -> bool {
        let sp = |cursor: &Cursor| cursor.registers.get(self.layout.stack_pointer);
        match (sp(before), sp(after)) {
            (Some(before_sp), Some(after_sp)) => before_sp < after_sp || before.stopped && before_sp == after_sp,
            _ => false,
        }
    }
}

impl Place<'_> {
    /// The function table, if this place is in the executable that it describes.
    fn functions<'f>(&self, functions: Option<&'f FunctionTable>) -> Option<&'f FunctionTable> {
        functions.filter(|_| self.executable)
    }
}

/// A stack that is being unwound.
struct Walk<'a> {
    functions: Option<&'a FunctionTable>,
    memory: Memory<'a>,
    cursor: Cursor,
    /// Where the goroutine that called C continues, until it is used.
    continuation: Option<Registers>,
    /// Whether the goroutine's own frames follow, and so far only the runtime's have appeared.
    resuming: bool,
    frames: Vec<Frame>,
}

impl Walk<'_> {
    /// Whether the last frame is native.
    fn is_native(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.language == Language::Native) && !self.resuming
    }

    /// Continues with the goroutine that called C. Returns whether there is one.
    fn resume(&mut self) -> bool {
        let Some(registers) = self.continuation.take() else { return false };
        self.cursor = Cursor { registers, stopped: false };
        self.resuming = true;
        true
    }

    /// Adds the calls of one frame, except the runtime's between C and its Go caller.
    fn push(&mut self, frames: &[Frame]) {
        for frame in frames {
            self.resuming = self.resuming && frame.function.starts_with("runtime.");
            if !self.resuming {
                self.frames.push(frame.clone());
            }
        }
    }
}

/// A frame with only an address.
pub(super) fn unknown(address: u64, language: Language) -> Frame {
    Frame { function: format!("{address:#x}"), file: String::new(), line: 0, inlined: false, language }
}

impl Default for Budget {
    fn default() -> Self {
        Self(MAXIMUM_MEMORY)
    }
}

impl Budget {
    /// Takes this many bytes. Returns false, and takes none, if fewer are left.
    fn take(&mut self, bytes: u64) -> bool {
        let left = usize::try_from(bytes).ok().and_then(|bytes| self.0.checked_sub(bytes));
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }

    /// Takes this many bytes.
    ///
    /// # Errors
    /// Fails if fewer are left.
    fn charge(&mut self, bytes: usize) -> Result<(), String> {
        let taken = self.take(u64::try_from(bytes).unwrap_or(u64::MAX));
        taken.then_some(()).ok_or_else(|| "earlier files of code used all of the memory for them".to_owned())
    }
}
