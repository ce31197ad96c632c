//! Makes images from packages that a test builds, and from the real ones.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use common::{agent, seeded, tree};
use cpio::newc::Reader;
use memgate_qemu::{
    architecture::Architecture,
    debian::{Debian, DebianError, Pin},
    image::{Cache, Image, ImageError, KERNELS, Kernel, Lock, clean, ensure, find, list, relock, with_shell},
    stop::Stop,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use xshell::{Shell, cmd};

/// The names and contents of the modules in an image's initramfs.
fn modules(image: &Image) -> Vec<(String, Vec<u8>)> {
    let archive = std::fs::read(&image.initramfs).unwrap();
    let (mut rest, mut modules) = (&archive[..], Vec::new());
    loop {
        let mut reader = Reader::new(rest).unwrap();
        if reader.entry().is_trailer() {
            return modules;
        }
        if let Some(name) = reader.entry().name().strip_prefix("lib/modules/").map(str::to_owned) {
            let mut contents = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut contents).unwrap();
            modules.push((name, contents));
        }
        rest = reader.finish().unwrap();
    }
}

/// A mirror with one package, and a cache whose lock names it.
struct Made {
    directory: TempDir,
    cache: Cache,
    package: PathBuf,
}

/// A kernel that Debian does not have.
const KERNEL: Kernel = Kernel {
    architecture: Architecture::Arm64,
    release: "1.0",
    page_size: 4096,
    suite: "made",
    package: "linux-image-made",
    firmware: None,
    is_default: false,
};

fn made() -> Made {
    let directory = tempfile::tempdir().unwrap();
    let sh = Shell::new().unwrap();
    let (root, pool) = (directory.path().join("root"), directory.path().join("mirror/pool"));
    sh.write_file(root.join("boot/vmlinuz-1.0.1"), "a kernel").unwrap();
    sh.write_file(root.join("lib/modules/1.0.1/modules.builtin"), "").unwrap();
    let control = "Package: linux-image-made\nVersion: 1\nArchitecture: arm64\nMaintainer: x <x@y.z>\nDescription: x\n";
    sh.write_file(root.join("DEBIAN/control"), control).unwrap();
    sh.create_dir(&pool).unwrap();
    let package = pool.join("linux-image-made_1_arm64.deb");
    cmd!(sh, "dpkg-deb --root-owner-group --build {root} {package}").quiet().ignore_stdout().run().unwrap();
    let contents = std::fs::read(&package).unwrap();
    let sum: String = Sha256::digest(&contents).iter().map(|byte| format!("{byte:02x}")).collect();
    let lock = format!(
        "version: 3\nkernels:\n- name: arm64-1.0\n  release: 1.0.1\n  modules: []\n  packages:\n  - suite: made\n    architecture: arm64\n    package: linux-image-made\n    version: '1'\n    sha256: {sum}\n    size: {}\n    file: pool/linux-image-made_1_arm64.deb\nshells: []\nemulators: []\n",
        contents.len()
    );
    let cache = Cache { dir: directory.path().join("cache"), lock: Lock::parse(&lock).unwrap(), stop: Stop::default() };
    Made { directory, cache, package }
}

impl Made {
    fn agent(&self, tail: &str) -> PathBuf {
        agent(self.directory.path(), Architecture::Arm64, tail)
    }

    /// The result of ensuring an image, and the messages on the way.
    fn ensure(&self, agent: &Path) -> (Result<Image, ImageError>, Vec<String>) {
        let mirror = format!("file:{}", self.directory.path().join("mirror").display());
        let mut said = Vec::new();
        (ensure(&self.cache, &KERNEL, agent, Some(&mirror), &mut |text| said.push(text.to_owned())), said)
    }

    fn cached_package(&self) -> PathBuf {
        self.cache.packages().join(self.package.file_name().unwrap())
    }
}

#[test]
fn an_image_is_made_once_and_whole() {
    let made = made();
    let (image, said) = made.ensure(&made.agent("a"));
    let image = image.unwrap();
    assert!(said[0].starts_with("fetching linux-image-made_1_arm64.deb ("), "{said:?}");
    assert_eq!(said[1..], ["making the image of arm64-1.0"]);
    assert_eq!(std::fs::read_to_string(&image.kernel).unwrap(), "a kernel");
    assert_eq!((&*image.name, &*image.kernel_release, image.page_size), ("arm64-1.0", "1.0.1", 4096));
    let (again, said) = made.ensure(&made.agent("a"));
    assert_eq!((again.unwrap(), said.len()), (image.clone(), 0));
    let key = image.kernel.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let images = ["", "/arm64-1.0"].map(str::to_owned).into_iter();
    let files = ["", "/image.json", "/initramfs", "/kernel"].map(|file| format!("/arm64-1.0/{key}{file}"));
    let images = images.chain(files).map(|path| format!("images{path}"));
    let rest = ["CACHEDIR.TAG", "lock", "packages", "packages/linux-image-made_1_arm64.deb"].map(str::to_owned);
    let mut expected: Vec<_> = images.chain(rest).collect();
    expected.sort();
    assert_eq!(tree(&made.cache.dir), expected);
    assert_eq!(list(&made.cache).unwrap(), [image]);
}

#[test]
fn the_same_input_gives_the_same_image_elsewhere() {
    let (one, mut other) = (made(), made());
    std::fs::create_dir_all(other.cache.packages()).unwrap();
    // A directory of packages that someone else fetched.
    std::fs::copy(&one.package, other.cached_package()).unwrap();
    other.cache.lock = one.cache.lock.clone();
    std::fs::remove_dir_all(other.directory.path().join("mirror")).unwrap();
    let (first, second) = (one.ensure(&one.agent("a")).0.unwrap(), other.ensure(&other.agent("a")).0.unwrap());
    assert_eq!(first.digest, second.digest);
    assert_eq!(std::fs::read(first.initramfs).unwrap(), std::fs::read(second.initramfs).unwrap());
    assert_ne!(first.digest, one.ensure(&one.agent("b")).0.unwrap().digest);
}

#[test]
fn a_newer_agents_image_takes_the_place_of_an_unused_one() {
    let made = made();
    let first = made.ensure(&made.agent("a")).0.unwrap();
    let second = made.ensure(&made.agent("b")).0.unwrap();
    assert!(first.kernel.exists(), "an image that is in use was removed");
    assert_eq!(list(&made.cache).unwrap().len(), 2);
    let of_first = first.kernel.clone();
    drop(first);
    let third = made.ensure(&made.agent("c")).0.unwrap();
    assert!(!of_first.exists() && second.kernel.exists() && third.kernel.exists());
}

#[test]
fn cleaning_spares_what_is_in_use() {
    let made = made();
    let image = made.ensure(&made.agent("a")).0.unwrap();
    let freed = clean(&made.cache).unwrap();
    assert_eq!(freed, std::fs::metadata(&made.package).unwrap().len());
    assert!(image.kernel.exists() && !made.cache.packages().exists());
    drop(image);
    assert!(clean(&made.cache).unwrap() > 0);
    assert_eq!(tree(&made.cache.images()), [""; 0]);
}

#[test]
fn a_damaged_image_is_made_again() {
    let made = made();
    let image = made.ensure(&made.agent("a")).0.unwrap();
    for file in ["kernel", "initramfs", "image.json"] {
        std::fs::write(image.kernel.with_file_name(file), "{}").unwrap();
        let (again, said) = made.ensure(&made.agent("a"));
        assert_eq!(again.unwrap().digest, image.digest);
        assert_eq!(said, ["the image of arm64-1.0 in the cache is damaged", "making the image of arm64-1.0"], "{file}");
        assert_eq!(std::fs::read_to_string(&image.kernel).unwrap(), "a kernel");
    }
}

#[test]
fn a_damaged_package_is_fetched_again() {
    let made = made();
    std::fs::create_dir_all(made.cache.packages()).unwrap();
    let whole = std::fs::read(&made.package).unwrap();
    std::fs::write(made.cached_package(), &whole[..whole.len() - 1]).unwrap();
    let (image, said) = made.ensure(&made.agent("a"));
    image.unwrap();
    assert_eq!(said[0], "linux-image-made_1_arm64.deb in the cache is damaged");
    assert_eq!(std::fs::read(made.cached_package()).unwrap(), whole);
}

#[test]
fn what_the_mirror_serves_instead_is_not_taken() {
    let made = made();
    std::fs::write(&made.package, "something else").unwrap();
    let error = made.ensure(&made.agent("a")).0.unwrap_err();
    assert!(matches!(error, ImageError::Debian(DebianError::Unreachable { .. })), "{error}");
    assert_eq!(tree(&made.cache.dir), ["CACHEDIR.TAG", "lock", "packages"]);
}

#[test]
fn no_mirror_and_a_cold_cache_say_what_to_do() {
    let made = made();
    std::fs::remove_dir_all(made.directory.path().join("mirror")).unwrap();
    let error = made.ensure(&made.agent("a")).0.unwrap_err();
    assert!(error.message().contains("cannot fetch the index of made for arm64"), "{error}");
    assert!(error.help().contains("a cache that already has the package"), "{}", error.help());
}

#[test]
fn what_an_interrupted_memgate_left_is_not_taken_for_whole() {
    let made = made();
    let sh = Shell::new().unwrap();
    for left in ["images/arm64-1.0/.unfinished-a/image/kernel", "packages/.unfinished-b/x.deb", ".unfinished-c/x"] {
        sh.write_file(made.cache.dir.join(left), "half").unwrap();
    }
    assert_eq!(list(&made.cache).unwrap(), []);
    made.ensure(&made.agent("a")).0.unwrap();
    let left: Vec<_> = tree(&made.cache.dir).into_iter().filter(|path| path.contains(".unfinished")).collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn two_at_once_make_one() {
    let made = made();
    let agent = made.agent("a");
    let (first, second) = std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| made.ensure(&agent)));
        let [first, second] = threads.map(|thread| thread.join().unwrap());
        (first, second)
    });
    assert_eq!(first.0.unwrap(), second.0.unwrap());
    let made = |said: &[String]| said.iter().filter(|text| text.starts_with("making")).count();
    assert_eq!(made(&first.1) + made(&second.1), 1, "{:?} {:?}", first.1, second.1);
}

#[test]
fn an_agent_for_another_architecture_is_refused() {
    let made = made();
    let error = made.ensure(&agent(made.directory.path(), Architecture::Loong64, "a")).0.unwrap_err();
    assert!(error.message().ends_with("it is for loong64, and the guest is arm64"), "{error}");
    assert!(!made.cache.dir.exists());
}

#[test]
fn a_kernel_without_its_image_is_an_error() {
    let mut made = made();
    let text = made.cache.lock.text().unwrap();
    made.cache.lock = Lock::parse(&text.replace("release: 1.0.1", "release: 1.0.2")).unwrap();
    let error = made.ensure(&made.agent("a")).0.unwrap_err();
    assert_eq!(error.message(), "the packages of arm64-1.0 have no image");
    made.cache.lock = Lock::parse(&text.replace("modules: []", "modules: [virtio]")).unwrap();
    let error = made.ensure(&made.agent("a")).0.unwrap_err();
    assert!(error.message().contains("virtio_pci"), "{error}");
}

/// Whether QEMU can start it: directly, or with firmware an EFI program.
fn is_bootable(kernel: &[u8], architecture: Architecture) -> bool {
    let at = |offset: usize, magic: &[u8]| kernel.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    match architecture {
        Architecture::Amd64 => at(0x202, b"HdrS"),
        // An Image, plain or compressed by gzip. QEMU 10.0 supports no other compression within an EFI program.
        Architecture::Arm64 => at(0x38, b"ARM\x64") || at(0, &[0x1f, 0x8b]) || (at(4, b"zimg") && at(24, b"gzip")),
        Architecture::Loong64 => at(0, b"MZ"),
    }
}

fn check_real(kernel: &Kernel, cache: &Cache, agent: &Path) {
    let name = kernel.name();
    let ensure = || {
        let (start, mut said) = (Instant::now(), Vec::new());
        let image = ensure(cache, kernel, agent, None, &mut |text| said.push(text.to_owned()));
        let image = image.unwrap_or_else(|error| panic!("{name}: {error}\n{}", error.help()));
        eprintln!("{name}: {:.1} s, {said:?}", start.elapsed().as_secs_f64());
        (image, said)
    };
    let (image, _) = ensure();
    assert!(is_bootable(&std::fs::read(&image.kernel).unwrap(), kernel.architecture), "{name}");
    assert_eq!(image.firmware.is_some(), kernel.firmware.is_some());
    let locked = cache.lock.kernel(kernel).unwrap();
    let modules = modules(&image);
    let names: Vec<_> = locked.modules.iter().enumerate().map(|(at, name)| format!("{at:02}-{name}.ko")).collect();
    assert_eq!(modules.iter().map(|(name, _)| name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    for (name, module) in modules {
        let file = object::File::parse(&*module).unwrap();
        assert_eq!(object::Object::kind(&file), object::ObjectKind::Relocatable, "{name}");
    }
    let package = cache.packages().join(locked.packages[0].file_name());
    let mut contents = std::fs::read(&package).unwrap();
    contents[0] ^= 1;
    std::fs::write(&package, contents).unwrap();
    std::fs::remove_dir_all(cache.images()).unwrap();
    let (again, said) = ensure();
    assert!(said[0].ends_with("in the cache is damaged") && said[1].starts_with("fetching"), "{said:?}");
    assert_eq!(again.digest, image.digest);
    assert_eq!(ensure().1, [""; 0]);
}

fn real_images(architecture: Architecture, is_wanted: impl Fn(&Kernel) -> bool) {
    let directory = tempfile::tempdir().unwrap();
    let cache = seeded(&directory.path().join("cache"));
    let agent = agent(directory.path(), architecture, "a");
    for kernel in KERNELS.iter().filter(|kernel| kernel.architecture == architecture && is_wanted(kernel)) {
        check_real(kernel, &cache, &agent);
    }
    let left: Vec<_> = tree(&cache.dir).into_iter().filter(|path| path.contains(".unfinished")).collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn real_images_for_amd64_are_made() {
    real_images(Architecture::Amd64, |_| true);
}

#[test]
fn real_images_for_arm64_are_made() {
    real_images(Architecture::Arm64, |kernel| kernel.suite == "forky");
}

#[test]
fn real_images_of_older_kernels_for_arm64_are_made() {
    real_images(Architecture::Arm64, |kernel| kernel.suite != "forky");
}

#[test]
fn real_images_for_loong64_are_made() {
    real_images(Architecture::Loong64, |_| true);
}

#[test]
fn real_images_are_locked_again_from_what_the_mirror_has() {
    let directory = tempfile::tempdir().unwrap();
    let cache = seeded(directory.path());
    let kernel = find(Architecture::Loong64, None, None).unwrap();
    let lock = relock(&cache, &[kernel], &[], None, &mut |_| {}).unwrap();
    let (old, new) = (cache.lock.kernel(kernel).unwrap(), lock.kernel(kernel).unwrap());
    let packages = |packages: &[Pin]| packages.iter().map(|pin| pin.suite.clone()).collect::<Vec<_>>();
    assert_eq!(packages(&new.packages), packages(&old.packages));
    assert_eq!((&new.modules, lock.kernels().len()), (&old.modules, KERNELS.len()));
    let shell = lock.shell(Architecture::Loong64).unwrap();
    assert_eq!((&*shell.package, &*shell.architecture, &*shell.suite), ("busybox-static", "loong64", "forky"));
    assert_eq!(lock.shell(Architecture::Arm64).unwrap(), cache.lock.shell(Architecture::Arm64).unwrap());
    assert_eq!(Lock::parse(&lock.text().unwrap()).unwrap(), lock);
    // The locked packages are in the cache, so they are available at once.
    let agent = agent(directory.path(), Architecture::Loong64, "a");
    let image = ensure(&Cache { lock, ..cache }, kernel, &agent, Some("file:/nonexistent"), &mut |_| {}).unwrap();
    assert!(image.firmware.unwrap().exists());
}

#[test]
fn real_images_of_a_version_that_is_gone_name_the_one_that_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let lock = Lock::embedded().unwrap();
    let kernel = find(Architecture::Loong64, None, None).unwrap();
    let locked = &lock.kernel(kernel).unwrap().packages[0];
    // Package names contain the kernel's version.
    let gone = Pin {
        package: "linux-binary-7.2.0-loong64".into(),
        version: "7.2.0-1".into(),
        file: "pool/main/l/linux/linux-binary-7.2.0-loong64_7.2.0-1_loong64.deb".into(),
        ..locked.clone()
    };
    let error = Debian::new(None).unwrap().fetch(&gone, kernel.package, directory.path()).unwrap_err();
    let DebianError::Superseded { package, version, offered } = &error else { panic!("{error}") };
    assert_eq!((&**package, &**version), ("linux-binary-7.2.0-loong64", "7.2.0-1"));
    assert!(offered.starts_with("linux-image-loong64 7."), "{error}");
    assert!(error.help().contains("memgate image lock"), "{}", error.help());
    assert_eq!(tree(directory.path()), [""; 0]);
}

#[test]
fn real_shells_lie_behind_the_first_file_system() {
    let directory = tempfile::tempdir().unwrap();
    let cache = seeded(directory.path());
    for architecture in Architecture::ALL {
        let agent = agent(directory.path(), architecture, "a");
        let kernel = find(architecture, None, None).unwrap();
        let image = ensure(&cache, kernel, &agent, None, &mut |_| {}).unwrap();
        let before = std::fs::read(&image.initramfs).unwrap();
        let shelled = with_shell(&cache, &image, None, &mut |_| {}).unwrap();
        let both = std::fs::read(shelled.path()).unwrap();
        assert_eq!(std::fs::read(&image.initramfs).unwrap(), before, "the image itself stays as it is");
        assert!(both.starts_with(&before));
        let mut rest = &both[before.len().next_multiple_of(4)..];
        let mut names = Vec::new();
        loop {
            let mut reader = Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut contents = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut contents).unwrap();
            if reader.entry().name() == "bin/busybox" {
                let file = object::File::parse(&*contents).unwrap();
                assert_eq!(object::Object::kind(&file), object::ObjectKind::Executable, "{architecture}: not static");
            }
            names.push(reader.entry().name().to_owned());
            rest = reader.finish().unwrap();
        }
        assert_eq!(names, ["bin", "bin/busybox", "sbin", "usr", "usr/bin", "usr/sbin"]);
        let file = shelled.path();
        drop(shelled);
        assert!(!file.exists());
    }
}
