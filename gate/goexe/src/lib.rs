//! What a Go executable tells about itself: version, settings, functions, and where the runtime keeps what memgate reads.
//!
//! Any Go executable will do: plain, position-independent, stripped, linked with C. What cannot be known is stated signal by
//! signal in [`Runtime`], with the reason; an executable that Go did not build has no signal of the runtime at all.

pub mod arch;
mod buildinfo;
mod code;
mod discover;
mod dwarf;
mod dynamic;
mod functions;
mod globals;
mod image;
mod offsets;
mod pclntab;
pub mod probes;
mod runtime;

use std::{
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use buildinfo::BuildInfo;
pub use code::CallSite;
pub use globals::{GLOBALS, Global};
pub use offsets::FIELDS;
pub use pclntab::{Frame, Function, FunctionTable};
pub use runtime::{
    AllocCounters, AllocSamples, Fact, GcCpu, GcTotals, GoroutineCount, GoroutineList, HeapProfile, LiveHeap, MmapSite,
    Mmaps, Pauses, Runtime, SpanRefills, Spans, Threads, WorldStarts,
};

use code::Code;
use discover::Discovery;
use dwarf::Structures;
use functions::Functions;
use globals::Globals;
use image::Image;
use memgate_evidence::platform::Platform;
use offsets::Offsets;

use crate::arch::ArgumentLocation;

/// The largest executable that is read, bytes.
const MAXIMUM_BYTES: u64 = 1 << 30;

/// A field of a structure: offset and size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Offset from the start of the outermost structure.
    pub offset: u64,
    /// Size.
    pub size: u64,
}

/// An executable.
pub struct GoExe {
    /// Where it lies.
    pub path: PathBuf,
    /// What it was built for.
    pub platform: Platform,
    /// How Go built it; `None` if it did not.
    pub build: Option<BuildInfo>,
    /// Whether it is position-independent, so that its addresses are relative to where it is loaded.
    pub position_independent: bool,
    /// Virtual address ranges of its loadable segments, bss included.
    pub segments: Vec<std::ops::Range<u64>>,
    /// The loader and the libraries that it needs where it is started, as it names them; or why that is not known.
    pub needs: Result<Vec<String>, String>,
    /// What is known of its Go runtime, a group of signals at a time.
    pub runtime: Runtime,
    /// The file that it was read from; `None` where it was read from bytes.
    pub file: Option<FileIdentity>,
    /// Its table of functions, by which addresses get names; or why there is none, for a person.
    pub function_table: Result<Arc<FunctionTable>, String>,
    code: Code,
    offsets: Offsets,
    globals: Globals,
}

/// Which file an executable was read from, and in which state it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    length: u64,
    /// Time of the last change of its contents, s and ns.
    modified: (i64, i64),
}

impl FileIdentity {
    /// The identity of the file with these metadata.
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Why an executable cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum GoExeError {
    /// It cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    Read {
        /// The executable.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not an executable that memgate knows how to measure.
    #[error("{path}: {reason}", path = .path.display())]
    Unfit {
        /// The executable.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
}

impl GoExe {
    /// Reads an executable. That Go did not build it, or a version that memgate does not know, is no error: see [`Runtime`].
    ///
    /// # Errors
    /// When it cannot be read or is not an ELF executable for a platform that memgate knows.
    pub fn open(path: &Path) -> Result<Self, GoExeError> {
        let failed = |source| GoExeError::Read { path: path.to_owned(), source };
        let mut file = std::fs::File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.len() > MAXIMUM_BYTES {
            let reason = format!("it has {} bytes; memgate reads executables of up to {MAXIMUM_BYTES}", metadata.len());
            return Err(GoExeError::Unfit { path: path.to_owned(), reason });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        Ok(Self { file: Some(FileIdentity::of(&metadata)), ..Self::from_bytes(path, &bytes)? })
    }

    /// Reads an executable from its bytes; `path` is where it is said to lie.
    ///
    /// # Errors
    /// As [`GoExe::open`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, GoExeError> {
        Self::parse(path, bytes).map_err(|reason| GoExeError::Unfit { path: path.to_owned(), reason })
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(bytes).map_err(|error| format!("not an executable: {error}"))?;
        let image = Image::read(&file)?;
        let build = BuildInfo::read(&file);
        let minor = build.as_ref().and_then(BuildInfo::minor);
        let version = build.as_ref().map_or("no Go", |build| &build.version);
        // What Go did not build has nothing that is worth looking for.
        let dwarf = if build.is_some() { Structures::read(&file) } else { Ok(Structures::default()) };
        let offsets = Offsets::new(dwarf, build.as_ref().and_then(BuildInfo::table), image.platform, version);
        let function_table = match minor {
            Some(minor) => FunctionTable::read(&file, minor).map(Arc::new),
            None => Err("it has no function table".to_owned()),
        };
        let code = Code::new(image, Functions::read(&file, function_table.as_deref()), minor);
        let globals = Globals::read(&file, &code, &offsets);
        let mut exe = Self {
            path: path.to_owned(),
            platform: code.image.platform,
            build,
            position_independent: code.image.position_independent,
            segments: code.image.segments.clone(),
            needs: dynamic::needs(bytes),
            runtime: Runtime::lost(""),
            file: None,
            function_table,
            code,
            offsets,
            globals,
        };
        exe.runtime = exe.read_runtime();
        Ok(exe)
    }

    /// Reads what the executable itself does not tell from its twin: the same program, built with symbols and DWARF.
    ///
    /// `go build` writes the flags for the linker into the executable, so that other flags move its data and change its code.
    /// The twin of one built with `-ldflags=-s -w` is built with `-ldflags=-a -a`: `-a` does nothing, and is as long.
    ///
    /// # Errors
    /// When the twin cannot be read, or its code is not the same byte for byte, so that its addresses need not hold.
    pub fn with_twin(mut self, twin: &Path) -> Result<Self, GoExeError> {
        let other = Self::open(twin)?;
        let version = |exe: &Self| exe.build.as_ref().map(|build| build.version.clone());
        if !self.code.image.same_code(&other.code.image) || version(&self) != version(&other) {
            let reason =
                format!("its code differs from that of {}, so that addresses do not hold there", self.path.display());
            return Err(GoExeError::Unfit { path: twin.to_owned(), reason });
        }
        (self.offsets, self.globals) = (other.offsets, other.globals);
        self.code = self.code.with_functions_of(other.code);
        self.runtime = self.read_runtime();
        Ok(self)
    }

    /// The version of Go that built it, `go1.27.3`, for a person.
    pub fn version(&self) -> &str {
        self.build.as_ref().map_or("not built by Go", |build| &build.version)
    }

    /// The minor version of Go: 27 of Go 1.27.3.
    pub fn minor(&self) -> Option<u32> {
        self.build.as_ref().and_then(BuildInfo::minor)
    }

    /// The calls of `callee` in the function `caller`, both of the package `runtime`, in order of address.
    pub fn call_sites(&self, caller: &str, callee: &str) -> Vec<CallSite> {
        let calls = self.code.calls_of(callee).into_iter();
        calls.filter(|(name, _)| *name == caller).map(|(_, site)| site).collect()
    }

    /// The calls of `callee` in every other function of the package `runtime`, in order of address.
    pub fn runtime_call_sites(&self, callee: &str) -> Vec<CallSite> {
        self.code.calls_of(callee).into_iter().map(|(_, site)| site).collect()
    }

    /// Where a Go function of this executable finds its integer argument `index` at a call instruction; `None` where that is
    /// not known.
    pub fn argument(&self, index: usize) -> Option<ArgumentLocation> {
        arch::argument(self.platform, self.minor()?, index)
    }

    /// What a probe on the instruction at this address costs; `None` where there is no code.
    pub fn probed(&self, address: u64) -> Option<arch::Probed> {
        self.code.probed(address)
    }

    /// The address of one of the runtime's variables, or why it is not known.
    ///
    /// # Errors
    /// With the reason, for a person.
    pub fn global(&self, global: Global) -> Result<u64, String> {
        self.globals.address(global)
    }

    /// A field of one of the runtime's structures; see [`FIELDS`].
    ///
    /// # Errors
    /// With the reason, for a person.
    pub fn field(&self, name: &str, path: &str) -> Result<Field, String> {
        self.offsets.field(name, path)
    }

    /// The address of a variable as the code tells it, as for an executable without symbols.
    ///
    /// # Errors
    /// With the reason, for a person.
    pub fn discovered(&self, global: Global) -> Result<u64, String> {
        Discovery::new(&self.code, &self.offsets).find(global)
    }

    /// A field as the executable's own DWARF has it; `None` where it has no DWARF, or its runtime no such field.
    pub fn dwarf_field(&self, name: &str, path: &str) -> Option<Field> {
        self.offsets.in_dwarf(name, path)
    }

    fn read_runtime(&self) -> Runtime {
        let Some(build) = &self.build else {
            return Runtime::lost("Go did not build it");
        };
        let oldest = *offsets::versions().start();
        match build.minor() {
            Some(minor) if minor >= oldest => match self.code.functions_missing() {
                None => Runtime::read(self, minor),
                Some(reason) => Runtime::lost(reason),
            },
            _ => Runtime::lost(&format!(
                "{} built it; memgate reads the runtime of Go 1.{oldest} and later",
                build.version
            )),
        }
    }
}
