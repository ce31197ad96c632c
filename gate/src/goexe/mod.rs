//! What a Go executable tells about itself: version, addresses, field offsets, call sites.

mod buildinfo;
mod layout;
mod pclntab;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use object::{Architecture, Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _};

pub use layout::{Field, RuntimeLayout};
pub use pclntab::{Frame, Function, FunctionTable};

use crate::{arch, platform::Platform};

/// A Go executable with symbols.
pub struct GoExe {
    /// Where it lies.
    pub path: PathBuf,
    /// What it was built for.
    pub platform: Platform,
    /// The Go version that built it: `go1.27.3`.
    pub version: String,
    /// Whether it is position-independent, so that its addresses are relative to where it is loaded.
    pub position_independent: bool,
    /// Virtual address ranges of its loadable segments, bss included.
    pub segments: Vec<std::ops::Range<u64>>,
    symbols: HashMap<String, Symbol>,
    text: Vec<Text>,
    /// Addresses and offsets in the runtime.
    pub layout: RuntimeLayout,
}

#[derive(Clone, Copy)]
struct Symbol {
    address: u64,
    size: u64,
}

/// An executable section.
struct Text {
    address: u64,
    file_offset: u64,
    bytes: Vec<u8>,
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

/// A place that a probe is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallSite {
    /// Virtual address of the call instruction.
    pub address: u64,
    /// Its offset in the file, which is what a uprobe is attached by.
    pub file_offset: u64,
}

impl GoExe {
    /// Reads an executable.
    ///
    /// # Errors
    /// When it cannot be read, is not an ELF executable for a platform that memgate knows, was not built by Go 1.22 or
    /// later, or has no symbols or DWARF.
    pub fn open(path: &Path) -> Result<Self, GoExeError> {
        let bytes = std::fs::read(path).map_err(|source| GoExeError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &bytes).map_err(|reason| GoExeError::Unfit { path: path.to_owned(), reason })
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(bytes).map_err(|error| format!("not an executable: {error}"))?;
        let platform = platform_of(&file)?;
        let version = buildinfo::go_version(&file)?;
        let symbols = symbols(&file);
        if symbols.is_empty() {
            return Err(
                "it has no symbols, so the runtime's variables cannot be found; build it without `-s`".to_owned()
            );
        }
        let address = |name: &str| symbols.get(name).map(|symbol| symbol.address);
        let layout = RuntimeLayout::read(&file, address)?;
        Ok(Self {
            path: path.to_owned(),
            platform,
            version,
            position_independent: file.kind() == object::ObjectKind::Dynamic,
            segments: file
                .segments()
                .map(|segment| segment.address()..segment.address().saturating_add(segment.size()))
                .collect(),
            text: text_sections(&file)?,
            symbols,
            layout,
        })
    }

    /// The calls of `callee` in the function `caller`.
    pub fn call_sites(&self, caller: &str, callee: &str) -> Vec<CallSite> {
        match (self.symbols.get(caller), self.symbols.get(callee)) {
            (Some(caller), Some(callee)) => self.calls_in(caller, callee.address).collect(),
            _ => Vec::new(),
        }
    }

    /// The calls of `callee` in every function of the package `runtime`.
    pub fn runtime_call_sites(&self, callee: &str) -> Vec<CallSite> {
        let Some(target) = self.symbols.get(callee).map(|symbol| symbol.address) else { return Vec::new() };
        let mut sites: Vec<_> = self
            .symbols
            .iter()
            .filter(|(name, _)| name.starts_with("runtime."))
            .flat_map(|(_, caller)| self.calls_in(caller, target))
            .collect();
        sites.sort_unstable_by_key(|site| site.address);
        sites.dedup();
        sites
    }

    fn calls_in(&self, caller: &Symbol, target: u64) -> impl Iterator<Item = CallSite> {
        let section = self.text.iter().find(|text| text.holds(caller));
        section.into_iter().flat_map(move |text| {
            let code = text.code(caller);
            arch::calls(self.platform, code, caller.address)
                .into_iter()
                .filter(move |call| call.target == target)
                .map(|call| CallSite { address: call.at, file_offset: call.at - text.address + text.file_offset })
        })
    }
}

impl Text {
    fn holds(&self, symbol: &Symbol) -> bool {
        let end = self.address + self.bytes.len() as u64;
        self.address <= symbol.address && symbol.address.checked_add(symbol.size).is_some_and(|last| last <= end)
    }

    /// The symbol's code; the symbol is known to lie in this section.
    fn code(&self, symbol: &Symbol) -> &[u8] {
        let range = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let start = symbol.address - self.address;
        self.bytes.get(range(start)..range(start + symbol.size)).unwrap_or_default()
    }
}

fn platform_of(file: &object::File<'_>) -> Result<Platform, String> {
    if file.format() != object::BinaryFormat::Elf || !file.is_64() || !file.is_little_endian() {
        return Err("not a 64-bit little-endian ELF executable".to_owned());
    }
    match file.architecture() {
        Architecture::X86_64 => Ok(Platform::LinuxAmd64),
        Architecture::Aarch64 => Ok(Platform::LinuxArm64),
        Architecture::LoongArch64 => Ok(Platform::LinuxLoong64),
        other => Err(format!("built for {other:?}; memgate knows amd64, arm64 and loong64")),
    }
}

fn symbols(file: &object::File<'_>) -> HashMap<String, Symbol> {
    file.symbols()
        .filter(object::ObjectSymbol::is_definition)
        .filter_map(|symbol| {
            Some((symbol.name().ok()?.to_owned(), Symbol { address: symbol.address(), size: symbol.size() }))
        })
        .collect()
}

fn text_sections(file: &object::File<'_>) -> Result<Vec<Text>, String> {
    file.sections()
        .filter(|section| section.kind() == object::SectionKind::Text)
        .filter_map(|section| {
            let (file_offset, _) = section.file_range()?;
            let bytes = section.data().map(<[u8]>::to_vec).map_err(|error| format!("its code cannot be read: {error}"));
            Some(bytes.map(|bytes| Text { address: section.address(), file_offset, bytes }))
        })
        .collect()
}
