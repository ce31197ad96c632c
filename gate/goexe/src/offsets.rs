//! Offsets of the fields of the runtime's structures, from DWARF or else from a table by Go version.
//!
//! The table, `offsets.txt`, comes from the DWARF of executables built by each version. A test in
//! `gate/memgate/tests/goexe.rs` compares it with them on every architecture, and writes it anew with
//! `MEMGATE_WRITE_OFFSETS=1`.

use std::{ops::RangeInclusive, sync::LazyLock};

use memgate_evidence::platform::Platform;

use super::{Field, dwarf::Structures};

/// `runtime.g.goid 1.21-1.22 152 8`: the path of a field, versions, offset and size in bytes. If platforms differ, the
/// platform follows.
const TABLE: &str = include_str!("offsets.txt");

/// The fields that memgate reads: the structure, and the path to the field in it. An empty path means the whole
/// structure.
///
/// Not every version has every field. The sizes of `gcControllerState`, `mstats` and `schedt` are missing here: they
/// differ between architectures, which pad them to cache lines of different lengths.
pub const FIELDS: &[(&str, &str)] = &[
    ("runtime.gcControllerState", "totalAlloc"),
    ("runtime.gcControllerState", "heapLive"),
    ("runtime.gcControllerState", "heapMarked"),
    ("runtime.gcControllerState", "gcPercent"),
    ("runtime.gcControllerState", "memoryLimit"),
    ("runtime.gcControllerState", "gcPercentHeapGoal"),
    ("runtime.gcControllerState", "sweepDistMinTrigger"),
    ("runtime.gcControllerState", "triggered"),
    ("runtime.gcControllerState", "heapInUse"),
    ("runtime.gcControllerState", "heapFree"),
    ("runtime.gcControllerState", "totalFree"),
    ("runtime.gcControllerState", "mappedReady"),
    ("runtime.mstats", "heapStats.stats"),
    ("runtime.mstats", "heapStats"),
    ("runtime.mstats", "pause_total_ns"),
    ("runtime.mstats", "numgc"),
    ("runtime.mstats", "numforcedgc"),
    ("runtime.mstats", "gc_cpu_fraction"),
    ("runtime.mstats", "last_gc_unix"),
    ("runtime.mstats", "last_gc_nanotime"),
    ("runtime.mstats", "stacks_sys"),
    ("runtime.mstats", "mspan_sys"),
    ("runtime.mstats", "mcache_sys"),
    ("runtime.mstats", "buckhash_sys"),
    ("runtime.mstats", "gcMiscSys"),
    ("runtime.mstats", "other_sys"),
    ("runtime.mstats", "gcPauseDist"),
    ("runtime.heapStatsDelta", ""),
    ("runtime.heapStatsDelta", "tinyAllocCount"),
    ("runtime.heapStatsDelta", "largeAllocCount"),
    ("runtime.heapStatsDelta", "smallAllocCount"),
    ("runtime.heapStatsDelta", "inStacks"),
    ("runtime.heapStatsDelta", "inWorkBufs"),
    ("runtime.heapStatsDelta", "inPtrScalarBits"),
    ("runtime.schedt", "gFree.n"),
    ("runtime.schedt", "gFree.stack.size"),
    ("runtime.schedt", "gFree.noStack.size"),
    ("runtime.schedt", "ngsys"),
    ("runtime.schedt", "timeToRun"),
    ("runtime.schedt", "stwTotalTimeGC"),
    ("runtime.schedt", "stwTotalTimeOther"),
    ("runtime.timeHistogram", ""),
    ("runtime.timeHistogram", "counts"),
    ("runtime.timeHistogram", "underflow"),
    ("runtime.timeHistogram", "overflow"),
    ("runtime.p", "mcache"),
    ("runtime.p", "gFree.n"),
    ("runtime.p", "gFree.size"),
    ("runtime.mcache", "alloc"),
    ("runtime.mcache", "tinyAllocs"),
    ("runtime.mspan", "elemsize"),
    ("runtime.mspan", "allocCount"),
    ("runtime.mspan", "allocCountBeforeCache"),
    ("runtime.mspan", "startAddr"),
    ("runtime.mspan", "npages"),
    ("runtime.mspan", "spanclass"),
    ("runtime.mheap", "arenas"),
    ("runtime.heapArena", "spans"),
    ("runtime.cpuStats", "GCIdleTime"),
    ("runtime.cpuStats", "gcIdleTime"),
    ("runtime.cpuStats", "GCTotalTime"),
    ("runtime.cpuStats", "gcTotalTime"),
    ("runtime.cpuStats", "IdleTime"),
    ("runtime.cpuStats", "idleTime"),
    ("runtime.cpuStats", "TotalTime"),
    ("runtime.cpuStats", "totalTime"),
    ("runtime.mcentral", "spanclass"),
    ("runtime.g", "stack.lo"),
    ("runtime.g", "stack.hi"),
    ("runtime.g", "m"),
    ("runtime.g", "sched.sp"),
    ("runtime.g", "sched.pc"),
    ("runtime.g", "syscallsp"),
    ("runtime.g", "syscallpc"),
    ("runtime.g", "atomicstatus"),
    ("runtime.g", "goid"),
    ("runtime.g", "waitsince"),
    ("runtime.g", "waitreason"),
    ("runtime.g", "parentGoid"),
    ("runtime.g", "gopc"),
    ("runtime.g", "startpc"),
    ("runtime.m", "g0"),
    ("runtime.m", "procid"),
    ("runtime.m", "curg"),
    ("runtime.m", "alllink"),
    ("runtime.bucket", ""),
    ("runtime.bucket", "next"),
    ("runtime.bucket", "allnext"),
    ("runtime.bucket", "typ"),
    ("runtime.bucket", "hash"),
    ("runtime.bucket", "size"),
    ("runtime.bucket", "nstk"),
    ("runtime.memRecord", ""),
    ("runtime.memRecord", "active"),
    ("runtime.memRecord", "future"),
    ("runtime.memRecordCycle", ""),
    ("runtime.memRecordCycle", "allocs"),
    ("runtime.memRecordCycle", "frees"),
    ("runtime.memRecordCycle", "alloc_bytes"),
    ("runtime.memRecordCycle", "free_bytes"),
];

/// The sources of offsets.
pub(super) struct Offsets {
    dwarf: Structures,
    /// The version of Go whose table applies; `None` if the version is unknown or its structures may differ.
    table: Option<u32>,
    platform: Platform,
    /// Why missing offsets are not known, as text for people.
    lacking: String,
}

impl Offsets {
    /// Offsets from the DWARF and, for structures that it lacks, from the table of this minor version of Go.
    pub(super) fn new(
        dwarf: Result<Structures, String>,
        table: Option<u32>,
        platform: Platform,
        version: &str,
    ) -> Self {
        let (dwarf, unreadable) = match dwarf {
            Ok(dwarf) => (dwarf, None),
            Err(error) => (Structures::default(), Some(error)),
        };
        let without = unreadable.unwrap_or_else(|| "it has no DWARF".to_owned());
        let lacking = match (dwarf.is_empty(), table) {
            (true, None) => format!("{without}, and memgate does not know how {version} lays out its structures"),
            _ => format!("{version} lays out its structures in a way that memgate does not know"),
        };
        Self { dwarf, table, platform, lacking }
    }

    /// The field at `path` in the structure `name`, or the structure itself for an empty path.
    pub(super) fn field(&self, name: &str, path: &str) -> Result<Field, String> {
        let found = if self.dwarf.has(name) {
            self.in_dwarf(name, path)
        } else {
            self.table.and_then(|minor| in_table(TABLE, minor, self.platform, name, path))
        };
        found.ok_or_else(|| format!("`{name}{}{path}`: {}", if path.is_empty() { "" } else { "." }, self.lacking))
    }

    /// The field from the DWARF.
    pub(super) fn in_dwarf(&self, name: &str, path: &str) -> Option<Field> {
        self.dwarf.field(name, path.split('.').filter(|member| !member.is_empty()))
    }
}

/// The minor versions of Go whose structures the table holds.
pub(super) fn versions() -> RangeInclusive<u32> {
    static VERSIONS: LazyLock<RangeInclusive<u32>> = LazyLock::new(|| {
        let ranges = || TABLE.lines().filter_map(|line| range(line.split(' ').nth(1)?));
        let first = ranges().map(|range| *range.start()).min();
        let last = ranges().map(|range| *range.end()).max();
        first.unwrap_or(1)..=last.unwrap_or(0)
    });
    VERSIONS.clone()
}

/// 21 to 27 of `1.21-1.27`.
fn range(versions: &str) -> Option<RangeInclusive<u32>> {
    let (first, last) = versions.split_once('-')?;
    let minor = |text: &str| text.strip_prefix("1.")?.parse().ok();
    Some(minor(first)?..=minor(last)?)
}

fn in_table(table: &str, minor: u32, platform: Platform, name: &str, path: &str) -> Option<Field> {
    table.lines().find_map(|line| {
        let mut words = line.split(' ');
        let full = words.next()?;
        let rest = full.strip_prefix(name)?;
        if rest.strip_prefix('.').unwrap_or(rest) != path || (rest.is_empty() != path.is_empty()) {
            return None;
        }
        let holds = range(words.next()?)?.contains(&minor);
        let field = Field { offset: words.next()?.parse().ok()?, size: words.next()?.parse().ok()? };
        // The platform follows, if platforms differ.
        let here = words.next().is_none_or(|other| other == platform.to_string());
        (holds && here).then_some(field)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "runtime.g 1.21-1.27 0 400\nruntime.g.goid 1.21-1.22 152 8\nruntime.g.goid 1.23-1.24 160 8\n";

    #[test]
    fn the_table_tells_by_version() {
        assert_eq!(
            in_table(SMALL, 21, Platform::LinuxArm64, "runtime.g", "goid"),
            Some(Field { offset: 152, size: 8 })
        );
        assert_eq!(
            in_table(SMALL, 24, Platform::LinuxArm64, "runtime.g", "goid"),
            Some(Field { offset: 160, size: 8 })
        );
        assert_eq!(in_table(SMALL, 25, Platform::LinuxArm64, "runtime.g", "goid"), None);
        assert_eq!(in_table(SMALL, 24, Platform::LinuxArm64, "runtime.g", ""), Some(Field { offset: 0, size: 400 }));
        assert_eq!(in_table(SMALL, 24, Platform::LinuxArm64, "runtime", "goid"), None);
        assert_eq!(in_table(SMALL, 24, Platform::LinuxArm64, "runtime.g", "goi"), None);
        let by_platform =
            "runtime.mheap.arenas 1.27-1.27 66008 8 linux/amd64\nruntime.mheap.arenas 1.27-1.27 66072 8 linux/arm64\n";
        let arenas =
            |platform| in_table(by_platform, 27, platform, "runtime.mheap", "arenas").map(|field| field.offset);
        assert_eq!(Platform::ALL.map(arenas), [Some(66008), Some(66072), None]);
    }

    #[test]
    fn a_structure_is_whole_in_every_version_that_the_table_has() {
        for minor in versions() {
            for (name, path) in [("runtime.g", "goid"), ("runtime.p", "mcache"), ("runtime.bucket", "")] {
                assert!(in_table(TABLE, minor, Platform::LinuxArm64, name, path).is_some(), "{name} {path} 1.{minor}");
            }
        }
        for minor in [versions().start() - 1, versions().end() + 1] {
            assert_eq!(in_table(TABLE, minor, Platform::LinuxArm64, "runtime.g", "goid"), None);
        }
    }

    #[test]
    fn the_table_holds_every_pinned_version_and_no_other() {
        assert_eq!(versions().collect::<Vec<_>>(), memgate_testing::go::minors().collect::<Vec<_>>());
    }
}
