//! The facts about a Go executable: version, settings, functions, and where the runtime stores what memgate reads.
//!
//! Any Go executable is accepted: plain, position-independent, stripped, linked with C. [`Runtime`] lists for each
//! group of signals what is unknown, with the reason. An executable that Go did not build has no signals of the runtime
//! at all.

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
    AllocCounters, AllocSampleSite, Fact, GcCpuLayout, GcGoal, GcTotals, GcTrigger, GoMemoryLayout, GoroutineCount,
    GoroutineList, HeapProfileLayout, LiveHeap, MmapSite, Mmaps, PauseSites, RefillSites, Runtime, Spans, Threads,
    WorldStarts,
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

/// The largest executable that memgate reads, bytes.
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
    /// Its path.
    pub path: PathBuf,
    /// The platform that it was built for.
    pub platform: Platform,
    /// Its build information; `None` if Go did not build it.
    pub build: Option<BuildInfo>,
    /// Whether it is position-independent. If so, its addresses are relative to the load address.
    pub position_independent: bool,
    /// Virtual address ranges of its loadable segments, including bss.
    pub segments: Vec<std::ops::Range<u64>>,
    /// The loader and the libraries that it needs, as it names them, or why they are not known.
    pub needs: Result<Vec<String>, String>,
    /// The facts about its Go runtime, one group of signals at a time.
    pub runtime: Runtime,
    /// The file that it was read from; `None` if it was read from bytes.
    pub file: Option<FileIdentity>,
    /// Its function table, which gives names to addresses, or why there is none, as text for people.
    pub function_table: Result<Arc<FunctionTable>, String>,
    code: Code,
    offsets: Offsets,
    globals: Globals,
}

/// Identifies the file of an executable and its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    length: u64,
    /// The time of the last change of its contents, s and ns.
    modified: (i64, i64),
}

impl FileIdentity {
    /// The identity of the file with this metadata.
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
        /// The system's error.
        source: std::io::Error,
    },
    /// It is not an executable that memgate can measure.
    #[error("{path}: {reason}", path = .path.display())]
    Unfit {
        /// The executable.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl GoExe {
    /// Reads an executable. If Go did not build it, or memgate does not know its version, that is not an error: see
    /// [`Runtime`].
    ///
    /// # Errors
    /// When it cannot be read or is not an ELF executable for a supported platform.
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

    /// Reads an executable from its bytes. `path` only names it.
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
        // An executable that Go did not build needs no further search.
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

    /// Reads missing facts from the executable's twin: the same program, built with symbols and DWARF.
    ///
    /// `go build` writes the linker flags into the executable, so other flags move its data and change its code. The
    /// twin of an executable built with `-ldflags=-s -w` must be built with `-ldflags=-a -a`: `-a` does nothing and has
    /// the same length.
    ///
    /// # Errors
    /// When the twin cannot be read, or when its code is not identical, so that its addresses may be wrong.
    pub fn with_twin(mut self, twin: &Path) -> Result<Self, GoExeError> {
        let other = Self::open(twin)?;
        let version = |exe: &Self| exe.build.as_ref().map(|build| build.version.clone());
        if !self.code.image.same_code(&other.code.image) || version(&self) != version(&other) {
            let reason = format!("its code differs from that of {}, so addresses do not match", self.path.display());
            return Err(GoExeError::Unfit { path: twin.to_owned(), reason });
        }
        (self.offsets, self.globals) = (other.offsets, other.globals);
        self.code = self.code.with_functions_of(other.code);
        self.runtime = self.read_runtime();
        Ok(self)
    }

    /// The Go version that built it, such as `go1.27.3`, for people.
    pub fn version(&self) -> &str {
        self.build.as_ref().map_or("not built by Go", |build| &build.version)
    }

    /// The minor version of Go, such as 27 for Go 1.27.3.
    pub fn minor(&self) -> Option<u32> {
        self.build.as_ref().and_then(BuildInfo::minor)
    }

    /// The calls of `callee` in the function `caller`, in order of address. Both are in the package `runtime`.
    pub fn call_sites(&self, caller: &str, callee: &str) -> Vec<CallSite> {
        let calls = self.code.calls_of(callee).into_iter();
        calls.filter(|(name, _)| *name == caller).map(|(_, site)| site).collect()
    }

    /// The calls of `callee` in every other function of the package `runtime`, in order of address.
    pub fn runtime_call_sites(&self, callee: &str) -> Vec<CallSite> {
        self.code.calls_of(callee).into_iter().map(|(_, site)| site).collect()
    }

    /// Where a Go function of this executable finds its integer argument `index` at a call instruction; `None` if that
    /// is not known.
    pub fn argument(&self, index: usize) -> Option<ArgumentLocation> {
        arch::argument(self.platform, self.minor()?, index)
    }

    /// The cost of a probe on the instruction at this address; `None` if there is no code.
    pub fn probed(&self, address: u64) -> Option<arch::Probed> {
        self.code.probed(address)
    }

    /// The address of one of the runtime's variables, or why it is not known.
    ///
    /// # Errors
    /// The reason, as text for people.
    pub fn global(&self, global: Global) -> Result<u64, String> {
        self.globals.address(global)
    }

    /// A field of one of the runtime's structures; see [`FIELDS`].
    ///
    /// # Errors
    /// The reason, as text for people.
    pub fn field(&self, name: &str, path: &str) -> Result<Field, String> {
        self.offsets.field(name, path)
    }

    /// The address of a variable as discovered in the code, as for an executable without symbols.
    ///
    /// # Errors
    /// The reason, as text for people.
    pub fn discovered(&self, global: Global) -> Result<u64, String> {
        Discovery::new(&self.code, &self.offsets).find(global)
    }

    /// A field from the executable's own DWARF; `None` if the executable has no DWARF, or its runtime has no such
    /// field.
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
