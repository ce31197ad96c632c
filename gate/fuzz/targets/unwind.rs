//! Unwinds stacks through native modules with damaged headers, call frame information, symbols and DWARF. A panic, a
//! hang or excessive memory use is a finding.
//!
//! An input is the number of a module, the number of a platform, the position of a thread in the module, and changes to
//! the module. The module is in a file that this process claims to have mapped.
//!
//! `MEMGATE_FUZZ_MODULES` names a directory with the modules.
#![no_main]

mod damage;

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    sync::{LazyLock, Mutex},
};

use damage::Original;
use libfuzzer_sys::fuzz_target;
use memgate_agent::collect::unwind::{Capture, GoContinuation, Registers, Unwinder};
use memgate_evidence::platform::Platform;
use object::{Object as _, ObjectSymbol as _};
use procfs::process::{MMPermissions, MMapExtension, MMapPath, MemoryMap};

/// The address at which the module claims to be mapped.
const START: u64 = 0x7f00_0000_0000;
/// The stacks of the thread and of the goroutine that called it.
const STACKS: [u64; 2] = [0x7ffd_0000_0000, 0xc000_0000_0000];

struct Module {
    original: Original,
    /// The addresses of its functions in the process, and places within them.
    places: Vec<u64>,
}

static MODULES: LazyLock<Vec<Module>> = LazyLock::new(|| {
    let read = |path| {
        let original = Original::read(path);
        let file = object::File::parse(&*original.bytes).expect("a module");
        let functions = file
            .symbols()
            .chain(file.dynamic_symbols())
            .filter(|symbol| symbol.kind() == object::SymbolKind::Text && symbol.size() > 0);
        let places = functions.flat_map(|symbol| {
            let start = START + symbol.address();
            [start, start + 1, start + symbol.size() / 2, start + symbol.size()]
        });
        let places: Vec<u64> = places.collect();
        assert!(!places.is_empty(), "{} has functions", path.display());
        Module { places, original }
    };
    damage::files("MEMGATE_FUZZ_MODULES").iter().map(read).collect()
});

/// The file that contains the damaged module.
static FILE: LazyLock<Mutex<tempfile::NamedTempFile>> =
    LazyLock::new(|| Mutex::new(tempfile::NamedTempFile::new().expect("a temporary file")));

fn mapping(file: &File, path: &std::path::Path, length: u64) -> MemoryMap {
    MemoryMap {
        address: (START, START + length),
        perms: MMPermissions::READ | MMPermissions::EXECUTE,
        offset: 0,
        dev: (0, 1),
        inode: file.metadata().expect("the file's metadata").ino(),
        pathname: MMapPath::Path(path.to_path_buf()),
        extension: MMapExtension::default(),
    }
}

fuzz_target!(|input: &[u8]| {
    let [module, platform, place, changes @ ..] = input else { return };
    let module = &MODULES[usize::from(*module) % MODULES.len()];
    let platform = Platform::ALL[usize::from(*platform) % Platform::ALL.len()];
    let bytes = module.original.damaged(changes);
    let mut file = FILE.lock().expect("no other thread");
    let path = file.path().to_path_buf();
    let file = file.as_file_mut();
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&bytes)).expect("the module is written");
    let mut unwinder = Unwinder::new(std::process::id().cast_signed(), platform);
    unwinder.refresh(&[mapping(file, &path, 1 << 20)]);
    // Return addresses and stack addresses, alternating.
    let at = |index: usize| module.places[index % module.places.len()];
    let words = |stack: u64| -> Vec<u8> {
        let word =
            |index: usize| if index % 2 == 0 { at(index / 2 + usize::from(*place)) } else { stack + 8 * index as u64 };
        (0..256).flat_map(|index| word(index).to_le_bytes()).collect()
    };
    let [stack, go] = STACKS.map(words);
    let mut registers = Registers::of(platform, at(usize::from(*place)), STACKS[0]);
    for register in &mut registers.general {
        register.get_or_insert(STACKS[0] + 64);
    }
    let capture = Capture {
        registers,
        stack: &stack,
        go: (place % 2 == 0).then_some(GoContinuation { pc: at(7), sp: STACKS[1], stack: &go }),
    };
    assert!(unwinder.stack(None, &capture).len() <= 128);
    assert!(unwinder.skipped().count() <= 1);
});
