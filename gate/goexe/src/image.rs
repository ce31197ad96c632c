//! The executable in memory: its code, and the places of writable variables.

use std::ops::Range;

use memgate_evidence::platform::Platform;
use object::{Architecture, Object as _, ObjectSection as _, ObjectSegment as _};

/// Code and data of an executable.
pub(super) struct Image {
    pub(super) platform: Platform,
    pub(super) position_independent: bool,
    pub(super) segments: Vec<Range<u64>>,
    text: Vec<Text>,
    /// Sections of the writable variables, including bss.
    variables: Vec<Range<u64>>,
}

/// An executable section.
#[derive(PartialEq, Eq)]
struct Text {
    address: u64,
    file_offset: u64,
    bytes: Vec<u8>,
}

/// Sections that hold the variables of the Go runtime (cmd/link/internal/ld/data.go, Go 1.21 to 1.27).
const VARIABLES: [&str; 4] = [".data", ".noptrdata", ".bss", ".noptrbss"];

impl Image {
    pub(super) fn read(file: &object::File<'_>) -> Result<Self, String> {
        Ok(Self {
            platform: platform_of(file)?,
            position_independent: file.kind() == object::ObjectKind::Dynamic,
            segments: file.segments().map(|segment| range(segment.address(), segment.size())).collect(),
            text: text_sections(file)?,
            variables: file
                .sections()
                .filter(|section| section.name().is_ok_and(|name| VARIABLES.contains(&name)))
                .map(|section| range(section.address(), section.size()))
                .collect(),
        })
    }

    /// The code in this range of addresses; `None` if the range does not lie in one executable section.
    pub(super) fn code(&self, addresses: &Range<u64>) -> Option<&[u8]> {
        let text = self.text.iter().find(|text| text.offset(addresses.start).is_some())?;
        text.bytes.get(text.offset(addresses.start)?..)?.get(..length(addresses)?)
    }

    /// The file offset of the code at this address. A uprobe is attached by this offset.
    pub(super) fn file_offset(&self, address: u64) -> Option<u64> {
        self.text.iter().find_map(|text| u64::try_from(text.offset(address)?).ok()?.checked_add(text.file_offset))
    }

    /// Whether `size` bytes of writable variables lie at this address.
    pub(super) fn holds_variable(&self, address: u64, size: u64) -> bool {
        let end = address.checked_add(size);
        self.variables.iter().any(|range| range.start <= address && end.is_some_and(|end| end <= range.end))
    }

    /// Whether both have the same code at the same addresses, and so refer to variables at the same addresses.
    pub(super) fn same_code(&self, other: &Self) -> bool {
        let code = |image: &Self| image.text.iter().map(|text| (text.address, text.bytes.len())).collect::<Vec<_>>();
        self.platform == other.platform
            && code(self) == code(other)
            && self.text.iter().zip(&other.text).all(|(own, others)| own.bytes == others.bytes)
    }
}

impl Text {
    /// The offset of the address in the section.
    fn offset(&self, address: u64) -> Option<usize> {
        let offset = usize::try_from(address.checked_sub(self.address)?).ok()?;
        (offset < self.bytes.len()).then_some(offset)
    }
}

fn range(address: u64, size: u64) -> Range<u64> {
    address..address.saturating_add(size)
}

fn length(range: &Range<u64>) -> Option<usize> {
    usize::try_from(range.end.checked_sub(range.start)?).ok()
}

fn platform_of(file: &object::File<'_>) -> Result<Platform, String> {
    if file.format() != object::BinaryFormat::Elf || !file.is_64() || !file.is_little_endian() {
        return Err("not a 64-bit little-endian ELF executable".to_owned());
    }
    match file.architecture() {
        Architecture::X86_64 => Ok(Platform::LinuxAmd64),
        Architecture::Aarch64 => Ok(Platform::LinuxArm64),
        Architecture::LoongArch64 => Ok(Platform::LinuxLoong64),
        other => Err(format!("built for {other:?}; memgate supports amd64, arm64 and loong64")),
    }
}

fn text_sections(file: &object::File<'_>) -> Result<Vec<Text>, String> {
    let sections = file.sections().filter(|section| section.kind() == object::SectionKind::Text);
    let texts = sections.filter_map(|section| {
        let (file_offset, _) = section.file_range()?;
        let bytes = section.data().map(<[u8]>::to_vec).map_err(|error| format!("its code cannot be read: {error}"));
        Some(bytes.map(|bytes| Text { address: section.address(), file_offset, bytes }))
    });
    texts.collect()
}
