//! Compares the table with the symbols, `go tool addr2line`, the DWARF and the program's own `runtime.CallersFrames`.

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    rc::Rc,
};

use gimli::UnwindSection as _;
use memgate_evidence::platform::Platform;
use memgate_testing::go::{Toolchain, newest, toolchains};
use object::{Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _};
use tempfile::TempDir;

use super::*;

/// How the program is built.
#[derive(Debug, Clone, Copy)]
struct Build<'a> {
    platform: Platform,
    position_independent: bool,
    cgo: bool,
    linker_flags: &'a str,
}

impl<'a> Build<'a> {
    fn plain(platform: Platform) -> Self {
        Self { platform, position_independent: false, cgo: false, linker_flags: "" }
    }

    fn with_linker_flags(self, linker_flags: &'a str) -> Self {
        Self { linker_flags, ..self }
    }
}

/// The program in `testdata`, built with this toolchain.
struct Program {
    directory: Rc<TempDir>,
    path: PathBuf,
    bytes: Vec<u8>,
    table: FunctionTable,
}

impl Program {
    fn build(toolchain: &Toolchain, build: Build<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pclntab/testdata");
        for file in ["main.go", "with_c.go"] {
            std::fs::copy(source.join(file), directory.path().join(file)).unwrap();
        }
        std::fs::write(directory.path().join("go.mod"), "module example\n\ngo 1.21\n").unwrap();
        Self::build_in(Rc::new(directory), "program", toolchain, build)
    }

    /// Builds the same sources, at the same place, in another way.
    fn twin(&self, toolchain: &Toolchain, build: Build<'_>) -> Self {
        Self::build_in(Rc::clone(&self.directory), "twin", toolchain, build)
    }

    fn build_in(directory: Rc<TempDir>, name: &str, toolchain: &Toolchain, build: Build<'_>) -> Self {
        let output = Command::new(toolchain.go())
            .args(["build", "-o", name, "-ldflags", build.linker_flags])
            .args(if build.position_independent { &["-buildmode=pie"][..] } else { &[] })
            .current_dir(directory.path())
            .env("GOARCH", build.platform.goarch())
            .env("CGO_ENABLED", if build.cgo { "1" } else { "0" })
            .envs([("GOOS", "linux"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", "-buildvcs=false")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{build:?}: {}", String::from_utf8_lossy(&output.stderr));
        let path = directory.path().join(name);
        let bytes = std::fs::read(&path).unwrap();
        let table = FunctionTable::read(&object::File::parse(&*bytes).unwrap(), toolchain.minor);
        let table = table.unwrap_or_else(|error| panic!("Go 1.{} {build:?}: {error}", toolchain.minor));
        Self { directory, path, bytes, table }
    }

    fn elf(&self) -> object::File<'_> {
        object::File::parse(&*self.bytes).unwrap()
    }

    /// Three addresses in each function: the first and the last byte of its code, and one between.
    fn addresses(&self) -> Vec<u64> {
        let functions = self.table.functions().filter(|function| function.entry < function.end);
        functions.flat_map(|f| [f.entry, f.entry.midpoint(f.end), f.end - 1]).collect()
    }
}

/// The table and the program's unstripped twin agree on every address of the code, or on every `step`th in large
/// programs.
fn holds(toolchain: &Toolchain, build: Build<'_>) {
    let whole = Program::build(toolchain, build);
    let context = format!("Go 1.{} {build:?}", toolchain.minor);
    agrees_with_symbols(&whole, &context);
    knows_special_functions(&whole.table, build.platform, &context);
    agrees_with_addr2line(&whole, &context);
    agrees_with_dwarf(&whole, &context);
    agrees_with_frame_information(&whole, build.platform, &context);
    let stripped = whole.twin(toolchain, build.with_linker_flags("-s -w"));
    assert_eq!(stripped.elf().symbols().count(), 0, "{context}: it is stripped");
    agrees_with_twin(&stripped, &whole, &context);
    if build.platform == Platform::host() {
        agrees_with_itself(&whole, &context);
        agrees_with_itself(&stripped, &context);
    }
}

fn agrees_with_symbols(program: &Program, context: &str) {
    let elf = program.elf();
    let address = |name: &str| elf.symbols().find(|symbol| symbol.name() == Ok(name)).unwrap().address();
    let table = &program.table;
    assert_eq!(table.text_start(), address("runtime.text"), "{context}");
    assert_eq!(table.module_data(), address("runtime.firstmoduledata"), "{context}");
    let code = address("runtime.text")..address("runtime.etext");
    let markers = ["runtime.text", "runtime.etext", "go:textfipsstart", "go:textfipsend"];
    let mut checked = 0;
    for symbol in elf.symbols().filter(|symbol| symbol.kind() == object::SymbolKind::Text) {
        let full = symbol.name().unwrap();
        if !code.contains(&symbol.address()) || symbol.size() == 0 || markers.contains(&full) {
            continue;
        }
        let name = full.strip_suffix(".abi0").or(full.strip_suffix(".abiinternal")).unwrap_or(full);
        let function = table.at(symbol.address()).unwrap_or_else(|| panic!("{context}: no {full}"));
        // A local type's name contains `·` in the table, and the linker writes `.` into the symbols instead.
        assert_eq!((&*function.name.replace('·', "."), function.entry), (name, symbol.address()), "{context}");
        let last = symbol.address() + symbol.size() - 1;
        assert_eq!(table.at(last).as_ref(), Some(&function), "{context}: {full} is {} long", symbol.size());
        assert_eq!(table.named(function.name).unwrap().name, function.name, "{context}");
        checked += 1;
    }
    assert!(checked > 1000, "{context}: {checked} functions");
    let entries: HashSet<u64> = elf.symbols().map(|symbol| symbol.address()).collect();
    assert!(table.functions().all(|function| entries.contains(&function.entry)), "{context}: each has a symbol");
    assert!(table.at(table.text_start() - 1).is_none() && table.at(address("runtime.etext")).is_none(), "{context}");
}

fn knows_special_functions(table: &FunctionTable, platform: Platform, context: &str) {
    let named = |name| table.named(name).unwrap_or_else(|| panic!("{context}: {name}"));
    let source = include_str!("testdata/main.go").lines();
    let line_of_main = source.zip(1..).find(|(line, _)| line.starts_with("func main()")).unwrap().1;
    let main = named("main.main");
    assert_eq!(main.start_line, line_of_main, "{context}");
    assert!(!(main.wrapper || main.top_frame || main.writes_stack_pointer || main.assembly), "{context}: {main:?}");
    // The method of the embedded type, and the wrapper for it with a pointer.
    assert!(named("main.(*tile).area").wrapper && !named("main.square.area").wrapper, "{context}");
    assert!(named("runtime.goexit").top_frame && named("runtime.goexit").assembly, "{context}");
    assert!(named("runtime.mcall").writes_stack_pointer, "{context}");
    // A wrapper between ABIs has the name of the function that it calls. The callee is the one that is meant.
    let (wrappers, others): (Vec<_>, Vec<_>) = table.functions().partition(|function| function.wrapper);
    let others: HashSet<_> = others.iter().map(|function| function.name).collect();
    let both: Vec<_> = wrappers.iter().filter(|function| others.contains(function.name)).collect();
    // Go 1.21 passes arguments on the stack on loong64, so there is only one ABI.
    let one_abi = table.go_minor == 21 && platform == Platform::LinuxLoong64;
    assert!(one_abi || both.len() > 10, "{context}: {both:?}");
    assert!(both.iter().all(|function| !named(function.name).wrapper), "{context}: {both:?}");
    assert!(table.named("main.nowhere").is_none(), "{context}");
}

fn agrees_with_addr2line(program: &Program, context: &str) {
    let addresses = program.addresses();
    // The newest Go reads what every older version built, because the older ones are installed without their tools.
    let mut tool = Command::new(newest().go())
        .args(["tool", "addr2line"])
        .arg(&program.path)
        .env("GOTOOLCHAIN", "local")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = tool.stdin.take().unwrap();
    let questions: String = addresses.iter().map(|pc| format!("{pc:#x}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(questions.as_bytes()).unwrap());
    let output = tool.wait_with_output().unwrap();
    writer.join().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<_> = answers.lines().collect();
    assert_eq!(answers.len(), addresses.len() * 2, "{context}");
    let mut known = 0;
    for (pc, answer) in addresses.iter().zip(answers.chunks_exact(2)) {
        let frame = program.table.frame(*pc).unwrap();
        let function = program.table.at(*pc).unwrap();
        assert_eq!(function.name.replace('·', "."), answer[0].replace('·', "."), "{context}: {pc:#x}");
        let place = format!("{}:{}", frame.file, frame.line);
        // There is no line in the padding between functions, nor at the linker's marks. For those, the tool reads
        // another function's table.
        let agrees = place == answer[1]
            || (place == "?:0" && (answer[1].ends_with(":-1") || function.name.starts_with("go:textfips")));
        assert!(agrees, "{context}: {} at {pc:#x} is {place}, not {}", function.name, answer[1]);
        known += usize::from(frame.line > 0);
    }
    assert!(known > addresses.len() / 2, "{context}: {known} places of {}", addresses.len());
}

/// The compiler describes inlining in the DWARF too.
fn agrees_with_dwarf(program: &Program, context: &str) {
    let elf = program.elf();
    let section = |id: gimli::SectionId| -> object::Result<_> {
        elf.section_by_name(id.name()).map_or(Ok([][..].into()), |section| section.uncompressed_data())
    };
    let sections = gimli::DwarfSections::<std::borrow::Cow<'_, [u8]>>::load(section).unwrap();
    let dwarf = sections.borrow(|section| gimli::EndianSlice::new(section, gimli::LittleEndian));
    let dwarf = addr2line::Context::from_dwarf(dwarf).unwrap();
    let (mut checked, mut inlined) = (0, 0);
    for pc in program.addresses() {
        let mut said = Vec::new();
        let mut frames = dwarf.find_frames(pc).skip_all_loads().unwrap();
        while let Some(frame) = frames.next().unwrap() {
            let place = frame.location.and_then(|place| Some((place.file?.to_owned(), place.line?)));
            said.push(frame.function.map(|function| function.raw_name().unwrap().into_owned()).zip(place));
        }
        // The DWARF says less about padding and about calls without a line.
        let Some(said) = said.into_iter().collect::<Option<Vec<_>>>().filter(|said| !said.is_empty()) else { continue };
        let found = program.table.frames(pc);
        if found.iter().any(|frame| frame.line == 0) {
            continue;
        }
        let agree = |frame: &Frame, (name, (file, line)): &(String, (String, u32))| {
            let name = name.strip_suffix(".abi0").or(name.strip_suffix(".abiinternal")).unwrap_or(name);
            frame.function == name::printed(name, program.table.go_minor)
                && file.ends_with(&frame.file)
                && frame.line == *line
        };
        let all = found.len() == said.len() && found.iter().zip(&said).all(|(frame, said)| agree(frame, said));
        assert!(all, "{context}: {found:#?} at {pc:#x}, not {said:#?}");
        checked += 1;
        inlined += usize::from(found.len() > 1);
    }
    assert!(checked > 2000 && inlined > 100, "{context}: {checked} addresses, {inlined} with inlined calls");
}

/// The linker also writes the distance of the stack pointer from the caller's frame into `.debug_frame`.
fn agrees_with_frame_information(program: &Program, platform: Platform, context: &str) {
    // On amd64 the call itself pushes the return address.
    let pushed = if platform == Platform::LinuxAmd64 { 8 } else { 0 };
    let elf = program.elf();
    let section = elf.section_by_name(".debug_frame").unwrap().uncompressed_data().unwrap();
    let frames = gimli::DebugFrame::new(&section, gimli::LittleEndian);
    let bases = gimli::BaseAddresses::default();
    let mut unwinding = gimli::UnwindContext::new();
    let mut checked = 0;
    for function in program.table.functions().filter(|function| !function.assembly) {
        let Ok(entry) = frames.fde_for_address(&bases, function.entry, gimli::DebugFrame::cie_from_offset) else {
            continue;
        };
        let mut rows = entry.rows(&frames, &bases, &mut unwinding).unwrap();
        while let Some(row) = rows.next_row().unwrap() {
            let gimli::CfaRule::RegisterAndOffset { offset, .. } = row.cfa() else { panic!("{context}: {row:?}") };
            let pc = row.start_address();
            let delta = program.table.stack_delta(pc).map(|delta| i64::from(delta) + pushed);
            assert_eq!(delta, Some(*offset), "{context}: {} at {pc:#x}", function.name);
            checked += 1;
        }
    }
    assert!(checked > 1000, "{context}: {checked} rows");
}

fn agrees_with_twin(stripped: &Program, whole: &Program, context: &str) {
    assert!(stripped.table.functions().eq(whole.table.functions()), "{context}");
    for pc in whole.addresses() {
        assert_eq!(stripped.table.frames(pc), whole.table.frames(pc), "{context}: {pc:#x}");
    }
}

/// The program prints the result of `runtime.CallersFrames` for its own addresses.
fn agrees_with_itself(program: &Program, context: &str) {
    let output = Command::new(&program.path).output().unwrap();
    assert!(output.status.success(), "{context}: {}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = output.lines().map(|line| line.splitn(5, ' ').collect()).collect();
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap();
    let loaded = lines.iter().find(|line| line[0] == "entry").map(|line| number(line[1])).unwrap();
    let bias = loaded.wrapping_sub(program.table.named("main.main").unwrap().entry);
    let mut seen = HashMap::new();
    let mut expanded: Vec<Frame> = Vec::new();
    for line in lines.iter().filter(|line| line[0] == "pc") {
        let pc = number(line[1]).wrapping_sub(bias) - 1;
        let frame = program.table.frame(pc).unwrap_or_else(|| panic!("{context}: nothing at {line:?}"));
        let said = (frame.function.as_str(), frame.file.as_str(), frame.line.to_string());
        assert_eq!(said, (line[2], line[3], line[4].to_owned()), "{context}: {pc:#x}");
        // The caller's call follows an inlined call. `frames` gives both.
        if expanded.is_empty() {
            expanded = program.table.frames(pc);
        }
        let next = expanded.remove(0);
        assert_eq!((&next.function, next.line), (&frame.function, frame.line), "{context}: {pc:#x}");
        expanded.retain(|frame| !frame.wrapper);
        *seen.entry(frame.inlined).or_insert(0) += 1;
    }
    assert!(seen[&true] > 10 && seen[&false] > 30, "{context}: {seen:?}");
}

#[test]
fn every_version_and_platform_is_read() {
    for toolchain in toolchains() {
        for platform in Platform::ALL {
            holds(&toolchain, Build::plain(platform));
        }
    }
}

#[test]
fn position_independent_executables_are_read() {
    for toolchain in toolchains() {
        let every = toolchain == newest();
        for platform in Platform::ALL.into_iter().filter(|platform| every || *platform == Platform::host()) {
            holds(&toolchain, Build { position_independent: true, ..Build::plain(platform) });
        }
    }
}

#[test]
fn executables_with_c_code_are_read() {
    let cgo = Build { cgo: true, ..Build::plain(Platform::host()) };
    for toolchain in toolchains() {
        holds(&toolchain, Build { position_independent: true, ..cgo });
    }
    holds(&newest(), cgo);
}

#[test]
fn a_broken_executable_is_refused_with_what_is_wrong() {
    let program = Program::build(&newest(), Build::plain(Platform::host()));
    let read = |bytes: &[u8]| match object::File::parse(bytes) {
        Ok(file) => FunctionTable::read(&file, program.table.go_minor).err().unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    let elf = program.elf();
    let offset = |address: u64| {
        let in_segment =
            elf.segments().find(|segment| (segment.address()..segment.address() + segment.size()).contains(&address));
        in_segment
            .map(|segment| usize::try_from(address - segment.address() + segment.file_range().0).unwrap())
            .unwrap()
    };
    let header = offset(program.table.module.header);
    let module = offset(program.table.module.address);
    let records = header + program.table.module.entries.start;
    let function_data = usize::try_from(module::function_data_field(program.table.go_minor).unwrap()).unwrap();
    let cases: [(&str, usize, &[u8], &str); 6] = [
        ("another magic number", header, &[0xf0], "no Go function table"),
        ("more functions than there are", header + 8, &[0xff; 8], "agrees with it"),
        ("tables elsewhere", module + 8, &[1; 8], "agrees with it"),
        ("another base of the code", module + 22 * 8, &[0x77], "agrees with it"),
        ("inline trees nowhere", module + function_data * 8, &[0xff; 8], "inline trees are cut off"),
        ("records out of order", records + 12, &[0xff; 3], "function 1"),
    ];
    assert_eq!(read(&program.bytes), "", "as it is, it is read");
    for (what, at, bytes, said) in cases {
        let mut broken = program.bytes.clone();
        broken[at..at + bytes.len()].copy_from_slice(bytes);
        let error = read(&broken);
        assert!(error.contains(said), "{what}: {error:?}");
    }
    let table_end = header + program.table.tables.len();
    for length in (0..table_end).step_by(table_end / 50) {
        assert_ne!(read(&program.bytes[..length]), "", "cut off after {length} bytes");
    }
}
