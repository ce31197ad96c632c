//! The function table (pclntab) that the Go linker writes into every executable, stripped or not. For an address it
//! gives the function, the file and line, the inlined calls, and how far the stack pointer has moved.
//!
//! Sources: src/runtime/symtab.go, symtabinl.go, runtime2.go (`_func`), src/internal/abi/symtab.go, Go 1.21 to 1.27.

mod bytes;
mod image;
mod module;
mod name;
mod record;
#[cfg(test)]
mod tests;
mod values;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bytes::{string_at, u32_at};
use image::Image;
use module::{FUNCTION_SIZE, Module, UNIT_SIZE};
use record::{InlinedCall, Record};
use values::Values;

/// The deepest nesting of inlined calls that is followed. In the Go compiler itself it is 7. A hostile table may
/// contain a cycle.
const MAXIMUM_INLINING: usize = 1000;
/// Stands for a name or path that the table lacks, as in Go's own tracebacks.
const UNKNOWN: &str = "?";

/// The functions of an executable. The table has its own copy of the data.
///
/// All addresses are those of the file, without the load bias of a position-independent executable.
pub struct FunctionTable {
    module: Module,
    go_minor: u32,
    /// From the `pcHeader` to the end of the last table.
    tables: Vec<u8>,
    /// The data at `gofunc`, as far as it contains inline trees.
    function_data: Vec<u8>,
    /// The hash of each name and the index of its function, in order.
    by_name: Vec<(u64, u32)>,
}

/// A function in the linker's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function<'t> {
    /// Its full name, with the type arguments of a generic function, such as `main.Map[go.shape.int]`; `?` if it is not
    /// readable.
    pub name: &'t str,
    /// Address of its first instruction.
    pub entry: u64,
    /// Address after its last instruction and the padding that follows.
    pub end: u64,
    /// Line of its `func` keyword; 0 if not known.
    pub start_line: u32,
    /// Whether the compiler made it to call another function: method wrappers, calls between ABIs, equality and hash
    /// functions.
    pub wrapper: bool,
    /// Whether it has no caller, such as `runtime.goexit`, `runtime.mstart` and `runtime.rt0_go`.
    pub top_frame: bool,
    /// Whether it changes the stack pointer in a way that [`FunctionTable::stack_delta`] does not report.
    pub writes_stack_pointer: bool,
    /// Whether it is written in assembly.
    pub assembly: bool,
}

/// A call in the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Name of the function as Go prints it, with `[...]` for type arguments; `?` if not known.
    pub function: String,
    /// Path of the source file as the compiler recorded it; `?` if not known.
    pub file: String,
    /// Line in it; 0 if not known.
    pub line: u32,
    /// Whether the function's code was inlined into that of its caller.
    pub inlined: bool,
    /// Whether the compiler made the function to call another one. Go's tracebacks omit these, except above a panic.
    pub wrapper: bool,
}

impl FunctionTable {
    /// Reads the table of an executable that Go 1.`go_minor` built.
    ///
    /// # Errors
    /// When the file is not a 64-bit little-endian ELF file, when memgate does not know the version, or when the
    /// table is missing, cut off or contradicts itself. The text says which.
    pub fn read(file: &object::File<'_>, go_minor: u32) -> Result<Self, String> {
        let image = Image::read(file)?;
        let module = Module::find(&image, go_minor)?;
        let tables = module.tables(&image)?.to_vec();
        let mut table = Self { module, go_minor, tables, function_data: Vec::new(), by_name: Vec::new() };
        table.check()?;
        table.function_data = table.read_inline_trees(&image)?;
        table.by_name = table.hash_names()?;
        Ok(table)
    }

    /// Address of `runtime.text`, where Go's code begins. In an executable linked with C code, this is not the start of
    /// the section `.text`.
    pub fn text_start(&self) -> u64 {
        self.module.text
    }

    /// Address of `runtime.firstmoduledata`.
    pub fn module_data(&self) -> u64 {
        self.module.address
    }

    /// All functions in order of address.
    pub fn functions(&self) -> impl Iterator<Item = Function<'_>> {
        self.records().map(|record| self.function(&record))
    }

    /// The function with this full name. Of several, it prefers one that the compiler did not make to call the other,
    /// and of those the first.
    pub fn named(&self, name: &str) -> Option<Function<'_>> {
        let hash = hash_of(name);
        let first = self.by_name.partition_point(|(other, _)| *other < hash);
        let mut same = self
            .by_name
            .get(first..)?
            .iter()
            .take_while(|(other, _)| *other == hash)
            .filter_map(|(_, index)| self.record(usize::try_from(*index).ok()?))
            .map(|record| self.function(&record))
            .filter(|function| function.name == name)
            .peekable();
        let fallback = same.peek().cloned();
        same.find(|function| !function.wrapper).or(fallback)
    }

    /// The function whose code contains an address, whatever was inlined there.
    pub fn at(&self, pc: u64) -> Option<Function<'_>> {
        self.record_at(pc).map(|record| self.function(&record))
    }

    /// The innermost call at an address: of a function that was inlined there, or else of the function that contains
    /// the address.
    ///
    /// This is what `runtime.CallersFrames` gives for one of the addresses of `runtime.Callers`. They are return
    /// addresses, so subtract 1 first.
    pub fn frame(&self, pc: u64) -> Option<Frame> {
        let record = self.record_at(pc)?;
        Some(self.frame_of(&record, pc, self.inlined_call(&record, pc).as_ref()))
    }

    /// All calls at an address, innermost first. The last one is that of the function that contains the address.
    ///
    /// Empty outside Go's code. Subtract 1 from a return address first.
    pub fn frames(&self, pc: u64) -> Vec<Frame> {
        let Some(record) = self.record_at(pc) else { return Vec::new() };
        let mut frames = Vec::new();
        let mut pc = pc;
        loop {
            let call = self.inlined_call(&record, pc).filter(|_| frames.len() < MAXIMUM_INLINING);
            frames.push(self.frame_of(&record, pc, call.as_ref()));
            let Some(call) = call else { return frames };
            pc = record.entry.wrapping_add_signed(i64::from(call.parent));
        }
    }

    /// By how many bytes the stack pointer is below its value at the function's entry, just before the instruction at
    /// this address runs.
    ///
    /// What is above depends on the architecture. On amd64 it is the return address, which the call pushed. On arm64
    /// and loong64 it is nothing, because the frame, which is counted here, contains the saved link register. `None`
    /// outside Go's code or if the function does not say.
    pub fn stack_delta(&self, pc: u64) -> Option<i32> {
        let record = self.record_at(pc)?;
        self.value(&record, record.stack_delta, pc)
    }

    /// Every function has its own record, in the linker's order.
    ///
    /// So the size of the file bounds their number, whatever the header says.
    fn check(&self) -> Result<(), String> {
        let mut previous: Option<Record<'_>> = None;
        for index in 0..self.module.functions {
            let Some(record) = self.record(index) else {
                return Err(format!("its Go function table is cut off at function {index}"));
            };
            if previous.is_some_and(|previous| previous.offset >= record.offset) || record.end < record.entry {
                return Err(format!("its Go function table is out of order at function {index}"));
            }
            previous = Some(record);
        }
        Ok(())
    }

    /// Copies the data at `gofunc` up to the end of the last inline tree.
    fn read_inline_trees(&self, image: &Image<'_>) -> Result<Vec<u8>, String> {
        let last = self.records().filter_map(|record| Some((record.inline_tree()?, record))).max_by_key(|(at, _)| *at);
        let Some((start, record)) = last else { return Ok(Vec::new()) };
        let calls = record.inline_indices().map_or(0, |table| {
            self.values(&record, table).map(|(index, _)| index.saturating_add(1)).max().unwrap_or(0)
        });
        let cut_off = || "its Go function table's inline trees are cut off".to_owned();
        let length = usize::try_from(calls)
            .ok()
            .and_then(|calls| calls.checked_mul(InlinedCall::SIZE)?.checked_add(usize::try_from(start).ok()?))
            .ok_or_else(cut_off)?;
        image.bytes(self.module.function_data, length).map(<[u8]>::to_vec).ok_or_else(cut_off)
    }

    fn hash_names(&self) -> Result<Vec<(u64, u32)>, String> {
        let mut by_name = Vec::with_capacity(self.module.functions);
        for (index, function) in self.functions().enumerate() {
            let index = u32::try_from(index).map_err(|_| "its Go function table is too long".to_owned())?;
            by_name.push((hash_of(function.name), index));
        }
        by_name.sort_unstable();
        Ok(by_name)
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.module.functions).map_while(|index| self.record(index))
    }

    /// The table of entries, followed by the records.
    fn entries(&self) -> &[u8] {
        self.tables.get(self.module.entries.clone()).unwrap_or_default()
    }

    /// Offset from `runtime.text` of a function's first instruction. The offset after the last function is the end of
    /// the code.
    fn entry_offset(&self, index: usize) -> Option<u32> {
        u32_at(self.entries(), index.checked_mul(FUNCTION_SIZE)?)
    }

    fn record(&self, index: usize) -> Option<Record<'_>> {
        let entries = self.entries();
        let offset = u32_at(entries, index.checked_mul(FUNCTION_SIZE)?.checked_add(4)?)?;
        let entry = self.module.text.checked_add(u64::from(self.entry_offset(index)?))?;
        let end = self.module.text.checked_add(u64::from(self.entry_offset(index.checked_add(1)?)?))?;
        Record::read(entries, offset, entry, end)
    }

    fn record_at(&self, pc: u64) -> Option<Record<'_>> {
        let offset = u32::try_from(pc.checked_sub(self.module.text)?).ok()?;
        let (mut low, mut high) = (0, self.module.functions);
        while low < high {
            let middle = low.midpoint(high);
            if self.entry_offset(middle)? <= offset {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        self.record(low.checked_sub(1)?).filter(|record| pc < record.end)
    }

    fn function(&self, record: &Record<'_>) -> Function<'_> {
        Function {
            name: self.name(record.name).unwrap_or(UNKNOWN),
            entry: record.entry,
            end: record.end,
            start_line: u32::try_from(record.start_line).unwrap_or(0),
            wrapper: record::is_wrapper(record.id, self.go_minor),
            top_frame: record.flags & record::TOP_FRAME != 0,
            writes_stack_pointer: record.flags & record::WRITES_STACK_POINTER != 0,
            assembly: record.flags & record::ASSEMBLY != 0,
        }
    }

    fn name(&self, offset: u32) -> Option<&str> {
        string_at(self.tables.get(self.module.names.clone())?, usize::try_from(offset).ok()?)
    }

    /// The table of values that starts at an offset in `pctab`.
    fn values(&self, record: &Record<'_>, table: u32) -> Values<'_> {
        let start = usize::try_from(table).unwrap_or(usize::MAX);
        let bytes = self.tables.get(self.module.values.clone()).and_then(|values| values.get(start..));
        // Offset 0 means that there is no table.
        let bytes = bytes.filter(|_| table != 0).unwrap_or_default();
        Values::new(bytes, self.module.quantum, record.end.saturating_sub(record.entry))
    }

    fn value(&self, record: &Record<'_>, table: u32, pc: u64) -> Option<i32> {
        self.values(record, table).at(pc.checked_sub(record.entry)?)
    }

    /// The inlined call whose code contains an address.
    fn inlined_call(&self, record: &Record<'_>, pc: u64) -> Option<InlinedCall> {
        let index = usize::try_from(self.value(record, record.inline_indices()?, pc)?).ok()?;
        let tree = self.function_data.get(usize::try_from(record.inline_tree()?).ok()?..)?;
        InlinedCall::read(tree, index)
    }

    fn frame_of(&self, record: &Record<'_>, pc: u64, call: Option<&InlinedCall>) -> Frame {
        let (name, id) = call.map_or((record.name, record.id), |call| (call.name, call.id));
        let (file, line) = self.position(record, pc).unwrap_or((UNKNOWN, 0));
        Frame {
            function: name::printed(self.name(name).unwrap_or(UNKNOWN), self.go_minor),
            file: file.to_owned(),
            line,
            inlined: call.is_some(),
            wrapper: record::is_wrapper(id, self.go_minor),
        }
    }

    /// File and line (`funcline1` in symtab.go).
    fn position(&self, record: &Record<'_>, pc: u64) -> Option<(&str, u32)> {
        let line = u32::try_from(self.value(record, record.lines, pc)?).ok()?;
        let file = u32::try_from(self.value(record, record.files, pc)?).ok()?;
        let unit = usize::try_from(record.unit.checked_add(file)?).ok()?.checked_mul(UNIT_SIZE)?;
        let start = u32_at(self.tables.get(self.module.units.clone())?, unit)?;
        let files = self.tables.get(self.module.files.clone())?;
        Some((string_at(files, usize::try_from(start).ok()?)?, line))
    }
}

fn hash_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
