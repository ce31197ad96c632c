//! Addresses of the runtime's variables, from symbols, and offsets of their fields, from DWARF.

use std::{borrow::Cow, collections::HashMap};

use gimli::{AttributeValue, EndianSlice, RunTimeEndian, UnitOffset, UnitRef};
use object::{Object as _, ObjectSection as _};

type Reader<'data> = EndianSlice<'data, RunTimeEndian>;

/// A field of a structure: offset and size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Offset from the start of the outermost structure.
    pub offset: u64,
    /// Size.
    pub size: u64,
}

/// Where the runtime keeps what memgate reads. Addresses are virtual addresses of the file; offsets are in bytes.
///
/// Sources, Go 1.27: runtime2.go (`schedt`, `p`), mcache.go, mheap.go (`mspan`), mgcpacer.go (`gcControllerState`),
/// mstats.go (`mstats`, `heapStatsDelta`), proc.go (`gcount`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeLayout {
    /// `runtime.allp`, a slice of pointers to `p`.
    pub allp: u64,
    /// `runtime.allglen`, a uintptr.
    pub allglen: u64,
    /// `runtime.sched`.
    pub sched: u64,
    /// Lengths of the lists of free goroutines in `sched`, int32 each: `gFree.stack.size` and `gFree.noStack.size`;
    /// before Go 1.26, `gFree.n`.
    pub sched_free: Vec<Field>,
    /// `sched.ngsys`, an int32.
    pub sched_system: Field,
    /// `sched.stwTotalTimeGC`, a histogram.
    pub sched_pauses_gc: Field,
    /// `sched.stwTotalTimeOther`, a histogram.
    pub sched_pauses_other: Field,
    /// `gcController.totalAlloc`: its address.
    pub total_alloc: u64,
    /// `memstats.heapStats.stats`: its address.
    pub heap_stats: u64,
    /// Size of one `heapStatsDelta`; there are three.
    pub heap_stats_size: u64,
    /// `heapStatsDelta.tinyAllocCount`, a uint64.
    pub tiny_count: Field,
    /// `heapStatsDelta.largeAllocCount`, a uint64.
    pub large_count: Field,
    /// `heapStatsDelta.smallAllocCount`, an array of uint64.
    pub small_counts: Field,
    /// `memstats.pause_total_ns`: its address.
    pub pause_total_ns: u64,
    /// `memstats.numgc`, a uint32: its address.
    pub numgc: u64,
    /// `p.mcache`, a pointer.
    pub p_mcache: Field,
    /// `p.gFree.size`, an int32; before Go 1.26, `p.gFree.n`.
    pub p_free: Field,
    /// `mcache.alloc`, an array of pointers to `mspan`.
    pub mcache_alloc: Field,
    /// `mcache.tinyAllocs`, a uintptr.
    pub mcache_tiny: Field,
    /// `mspan.elemsize`, a uintptr.
    pub span_element_size: Field,
    /// `mspan.allocCount`, a uint16.
    pub span_count: Field,
    /// `mspan.allocCountBeforeCache`, a uint16.
    pub span_count_before: Field,
}

impl RuntimeLayout {
    /// Reads the layout; `address` gives a symbol's.
    ///
    /// # Errors
    /// When a symbol, the DWARF or a field is missing, naming it.
    pub(super) fn read(file: &object::File<'_>, address: impl Fn(&str) -> Option<u64>) -> Result<Self, String> {
        let symbol = |name: &str| address(name).ok_or_else(|| format!("it has no symbol `{name}`"));
        let structures = Structures::read(file)?;
        let field = |path: &[&str]| structures.field(path);
        let memstats = symbol("runtime.memstats")?;
        Ok(Self {
            allp: symbol("runtime.allp")?,
            allglen: symbol("runtime.allglen")?,
            sched: symbol("runtime.sched")?,
            sched_free: match field(&["runtime.schedt", "gFree", "n"]) {
                Ok(count) => vec![count],
                Err(_) => vec![
                    field(&["runtime.schedt", "gFree", "stack", "size"])?,
                    field(&["runtime.schedt", "gFree", "noStack", "size"])?,
                ],
            },
            sched_system: field(&["runtime.schedt", "ngsys"])?,
            sched_pauses_gc: field(&["runtime.schedt", "stwTotalTimeGC"])?,
            sched_pauses_other: field(&["runtime.schedt", "stwTotalTimeOther"])?,
            total_alloc: symbol("runtime.gcController")?
                .wrapping_add(field(&["runtime.gcControllerState", "totalAlloc"])?.offset),
            heap_stats: memstats.wrapping_add(field(&["runtime.mstats", "heapStats", "stats"])?.offset),
            heap_stats_size: structures.size("runtime.heapStatsDelta")?,
            tiny_count: field(&["runtime.heapStatsDelta", "tinyAllocCount"])?,
            large_count: field(&["runtime.heapStatsDelta", "largeAllocCount"])?,
            small_counts: field(&["runtime.heapStatsDelta", "smallAllocCount"])?,
            pause_total_ns: memstats.wrapping_add(field(&["runtime.mstats", "pause_total_ns"])?.offset),
            numgc: memstats.wrapping_add(field(&["runtime.mstats", "numgc"])?.offset),
            p_mcache: field(&["runtime.p", "mcache"])?,
            p_free: field(&["runtime.p", "gFree", "n"]).or_else(|_| field(&["runtime.p", "gFree", "size"]))?,
            mcache_alloc: field(&["runtime.mcache", "alloc"])?,
            mcache_tiny: field(&["runtime.mcache", "tinyAllocs"])?,
            span_element_size: field(&["runtime.mspan", "elemsize"])?,
            span_count: field(&["runtime.mspan", "allocCount"])?,
            span_count_before: field(&["runtime.mspan", "allocCountBeforeCache"])?,
        })
    }
}

/// Structures of the package `runtime`, by name, and those that they are made of, by their place in the DWARF.
struct Structures {
    by_name: HashMap<String, TypeId>,
    types: HashMap<TypeId, Type>,
}

/// Unit and offset in it.
type TypeId = (usize, UnitOffset);

#[derive(Default)]
struct Type {
    size: Option<u64>,
    /// The type that a typedef stands for or that an array repeats.
    inner: Option<TypeId>,
    /// How many elements an array has.
    count: Option<u64>,
    members: HashMap<String, (u64, TypeId)>,
}

impl Structures {
    fn read(file: &object::File<'_>) -> Result<Self, String> {
        let section = |id: gimli::SectionId| -> Result<Cow<'_, [u8]>, object::Error> {
            file.section_by_name(id.name()).map_or(Ok(Cow::Borrowed(&[][..])), |section| section.uncompressed_data())
        };
        let sections =
            gimli::DwarfSections::load(section).map_err(|error| format!("its DWARF cannot be read: {error}"))?;
        let endian = if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let dwarf = sections.borrow(|section| EndianSlice::new(section, endian));
        let mut structures = Self { by_name: HashMap::new(), types: HashMap::new() };
        structures.read_units(&dwarf).map_err(|error| format!("its DWARF cannot be read: {error}"))?;
        if structures.by_name.is_empty() {
            return Err(
                "it has no DWARF for the Go runtime, so field offsets are not known; build it without `-w`".to_owned()
            );
        }
        Ok(structures)
    }

    fn read_units(&mut self, dwarf: &gimli::Dwarf<Reader<'_>>) -> gimli::Result<()> {
        let mut headers = dwarf.units();
        let mut index = 0;
        while let Some(header) = headers.next()? {
            let unit = dwarf.unit(header)?;
            let unit = unit.unit_ref(dwarf);
            // The Go linker puts the types of all packages into the unit of the runtime (cmd/link, dwarf.go).
            if unit.name.is_some_and(|name| name.slice() == b"runtime") {
                self.read_unit(index, &unit)?;
            }
            index += 1;
        }
        Ok(())
    }

    fn read_unit(&mut self, index: usize, unit: &UnitRef<'_, Reader<'_>>) -> gimli::Result<()> {
        let mut entries = unit.entries();
        let mut parents: Vec<TypeId> = Vec::new();
        while let Some(entry) = entries.next_dfs()? {
            let depth = usize::try_from(entry.depth()).unwrap_or(0);
            let id = (index, entry.offset());
            parents.truncate(depth);
            while parents.len() < depth {
                parents.push(id);
            }
            let parent = parents.last().copied();
            parents.push(id);
            match (entry.tag(), parent) {
                (gimli::DW_TAG_member, Some(parent)) => self.read_member(parent, index, unit, entry)?,
                (gimli::DW_TAG_subrange_type, Some(parent)) => {
                    let count = entry.attr_value(gimli::DW_AT_count).and_then(|value| value.udata_value());
                    self.types.entry(parent).or_default().count = count;
                }
                (
                    gimli::DW_TAG_structure_type
                    | gimli::DW_TAG_typedef
                    | gimli::DW_TAG_array_type
                    | gimli::DW_TAG_base_type
                    | gimli::DW_TAG_pointer_type,
                    _,
                ) => self.read_type(id, index, unit, entry)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_type<'data>(
        &mut self,
        id: TypeId,
        index: usize,
        unit: &UnitRef<'_, Reader<'data>>,
        entry: &gimli::DebuggingInformationEntry<Reader<'data>>,
    ) -> gimli::Result<()> {
        let kind = self.types.entry(id).or_default();
        kind.size = entry.attr_value(gimli::DW_AT_byte_size).and_then(|value| value.udata_value());
        if entry.tag() == gimli::DW_TAG_pointer_type {
            kind.size = kind.size.or(Some(8));
        } else {
            kind.inner = reference(unit, entry).map(|offset| (index, offset));
        }
        if let Some(name) = entry.attr_value(gimli::DW_AT_name)
            && entry.tag() == gimli::DW_TAG_structure_type
        {
            let name = unit.attr_string(name)?.to_string_lossy().into_owned();
            self.by_name.insert(name, id);
        }
        Ok(())
    }

    fn read_member<'data>(
        &mut self,
        parent: TypeId,
        index: usize,
        unit: &UnitRef<'_, Reader<'data>>,
        entry: &gimli::DebuggingInformationEntry<Reader<'data>>,
    ) -> gimli::Result<()> {
        let offset = entry.attr_value(gimli::DW_AT_data_member_location).and_then(|value| value.udata_value());
        if let (Some(name), Some(offset), Some(kind)) =
            (entry.attr_value(gimli::DW_AT_name), offset, reference(unit, entry))
        {
            let name = unit.attr_string(name)?.to_string_lossy().into_owned();
            self.types.entry(parent).or_default().members.insert(name, (offset, (index, kind)));
        }
        Ok(())
    }

    /// The field that the path names: a structure, then a member of it, then a member of that.
    fn field(&self, path: &[&str]) -> Result<Field, String> {
        let missing = || format!("its DWARF has no `{}`; this Go version is not known to memgate", path.join("."));
        let (name, members) = path.split_first().ok_or_else(missing)?;
        let mut kind = *self.by_name.get(*name).ok_or_else(missing)?;
        let mut offset = 0_u64;
        for member in members {
            let (at, next) = *self.structure(kind).and_then(|kind| kind.members.get(*member)).ok_or_else(missing)?;
            offset = offset.wrapping_add(at);
            kind = next;
        }
        Ok(Field { offset, size: self.size_of(kind, 0).ok_or_else(missing)? })
    }

    fn size(&self, name: &str) -> Result<u64, String> {
        self.by_name
            .get(name)
            .and_then(|kind| self.size_of(*kind, 0))
            .ok_or_else(|| format!("its DWARF has no `{name}`; this Go version is not known to memgate"))
    }

    /// The type itself, typedefs followed.
    fn structure(&self, mut id: TypeId) -> Option<&Type> {
        for _ in 0..MAXIMUM_DEPTH {
            let kind = self.types.get(&id)?;
            match kind.inner {
                Some(inner) if kind.members.is_empty() => id = inner,
                _ => return Some(kind),
            }
        }
        None
    }

    fn size_of(&self, id: TypeId, depth: usize) -> Option<u64> {
        let kind = self.types.get(&id)?;
        if depth > MAXIMUM_DEPTH {
            return None;
        }
        kind.size.or_else(|| {
            let inner = self.size_of(kind.inner?, depth + 1)?;
            inner.checked_mul(kind.count.unwrap_or(1))
        })
    }
}

/// No type of the runtime is nested this deep; hostile DWARF may be.
const MAXIMUM_DEPTH: usize = 32;

fn reference<'data>(
    unit: &UnitRef<'_, Reader<'data>>,
    entry: &gimli::DebuggingInformationEntry<Reader<'data>>,
) -> Option<UnitOffset> {
    match entry.attr_value(gimli::DW_AT_type)? {
        AttributeValue::UnitRef(offset) => Some(offset),
        AttributeValue::DebugInfoRef(offset) => offset.to_unit_offset(&unit.header),
        _ => None,
    }
}
