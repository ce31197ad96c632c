//! Go services as a distribution builds them: stripped, with C, and by that distribution's own Go; and the databases that
//! a service needs. The tests measure some, and `cargo xtask bench field` measures others.

use std::path::Path;

use memgate_qemu::architecture::Architecture;
use memgate_qemu::debian::Pin;
use miette::{Context, IntoDiagnostic, Result};

use super::{Stamp, Tools, apt};

/// A package, and the files to keep from it, by their paths in it.
struct Service {
    pin: Pin,
    files: &'static [&'static str],
}

const EXPORTER: &[&str] = &["usr/bin/prometheus-node-exporter", "usr/share/doc/prometheus-node-exporter/copyright"];

/// The libraries that the exporter for loong64 is linked with.
const C_LIBRARY: &[&str] = &[
    "usr/lib/loongarch64-linux-gnu/ld-linux-loongarch-lp64d.so.1",
    "usr/lib/loongarch64-linux-gnu/libc.so.6",
    "usr/lib/loongarch64-linux-gnu/libresolv.so.2",
    "usr/share/doc/libc6/copyright",
];

fn services() -> [Service; 4] {
    let exporter = |[suite, architecture, version, sha256]: [&str; 4], size| Service {
        pin: Pin {
            suite: suite.into(),
            architecture: architecture.into(),
            package: "prometheus-node-exporter".into(),
            version: version.into(),
            sha256: sha256.into(),
            size,
            file: format!("pool/main/p/prometheus-node-exporter/prometheus-node-exporter_{version}_{architecture}.deb"),
        },
        files: EXPORTER,
    };
    // Built by Go 1.24.4; needs the C library of Debian 12 or later.
    let sum = "9db00cad0c9e160a4e9c13cbdb2833d58becb1f4cd60eeb0b5e12477ba6a42bd";
    let usual = exporter(["trixie", "amd64", "1.9.0-1+b4", sum], 4_674_324);
    // Built by Go 1.19.8, which is older than the versions that memgate supports.
    let sum = "8cb5b39627595ea2cf3cd27be593e0e9af87023d29e1c5b8487e2f9510097e09";
    let old = exporter(["bookworm", "amd64", "1.5.0-1+b6", sum], 4_079_352);
    // Built by Go 1.26.4. The suite is the first with loong64. It is not released, and its packages change.
    let sum = "3f9a9d4601bebb9be8c71d7fbd05cf05819052dbb2968fcedd6ae2cb092d2119";
    let of_loong64 = exporter(["forky", "loong64", "1.11.1-3", sum], 4_265_612);
    let its_library = Service {
        pin: Pin {
            suite: "forky".into(),
            architecture: "loong64".into(),
            package: "libc6".into(),
            version: "2.43-7".into(),
            sha256: "b6346725a3b73f4dde5c9ba15d7399b15b45076e923d8a91dedfafc22c649efb".into(),
            size: 1_357_144,
            file: "pool/main/g/glibc/libc6_2.43-7_loong64.deb".into(),
        },
        files: C_LIBRARY,
    };
    [usual, old, of_loong64, its_library]
}

/// Makes directories such as `.tools/prometheus-node-exporter-1.9.0-1+b4`, each with its program or its libraries, and
/// those of the databases.
///
/// Services for amd64 run natively. Other machines skip them and the tests that need them. The service for loong64 runs
/// in a guest.
///
/// # Errors
/// When they are not there yet, and the machine has neither apt of Debian nor a mirror in `MEMGATE_MIRROR`, or the mirror
/// does not have them.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    for service in services() {
        if service.pin.architecture != "amd64" || cfg!(target_arch = "x86_64") {
            let stamp = Stamp::new(&service.pin.package, &service.pin.version, apt::source(&service.pin));
            install(tools, &stamp, &service)?;
        }
    }
    if cfg!(target_arch = "x86_64") {
        DATABASES.iter().try_for_each(|database| database.install(tools))?;
    }
    Ok(())
}

/// A program of Debian 12 for amd64 with the libraries that a small system may lack, each in its directory below `/usr`.
struct Database {
    name: &'static str,
    version: &'static str,
    /// Package, version, place in the archive, SHA-256 and size of the file.
    packages: &'static [(&'static str, &'static str, &'static str, &'static str, u64)],
}

/// What the fixture `notes` needs.
const DATABASES: [Database; 2] = [
    Database {
        name: "redis",
        version: "7.0.15",
        packages: &[
            (
                "redis-server",
                "5:7.0.15-1~deb12u7",
                "main/r/redis/redis-server_7.0.15-1~deb12u7_amd64.deb",
                "1f43e46f153d1653586e72871dd3e2ea08acba5c3d2b38b02f90d63d16352cac",
                73_392,
            ),
            (
                "redis-tools",
                "5:7.0.15-1~deb12u7",
                "main/r/redis/redis-tools_7.0.15-1~deb12u7_amd64.deb",
                "3c8cd27847c6a06b6f6c29e7415a9057462a89661e3a8e2eb8dd5b2d7830bb40",
                991_888,
            ),
            (
                "libjemalloc2",
                "5.3.0-1",
                "main/j/jemalloc/libjemalloc2_5.3.0-1_amd64.deb",
                "a4117c23c5c8acf6c9678a6cb086f000b79476369da7efe8a78a70826956ad3d",
                275_000,
            ),
            (
                "liblzf1",
                "3.6-3",
                "main/libl/liblzf/liblzf1_3.6-3_amd64.deb",
                "9854b0866201b63e04f1e446f45f01ef4a6f72c61f2250b75f944f6046cc7e8c",
                10_192,
            ),
            (
                "libatomic1",
                "12.2.0-14+deb12u1",
                "main/g/gcc-12/libatomic1_12.2.0-14+deb12u1_amd64.deb",
                "fbd4e154a6b444229ea002cc209df099209c0adc09102e5fd21239a3d2b55e2d",
                9_376,
            ),
        ],
    },
    Database {
        name: "postgresql",
        version: "15.18",
        packages: &[
            (
                "postgresql-15",
                "15.18-0+deb12u1",
                "main/p/postgresql-15/postgresql-15_15.18-0+deb12u1_amd64.deb",
                "6974c43ddec4f383d099e7d642cd59d0af83c2c90c0fb153a4179aa1bb4d73c1",
                16_909_124,
            ),
            (
                "libpq5",
                "15.18-0+deb12u1",
                "main/p/postgresql-15/libpq5_15.18-0+deb12u1_amd64.deb",
                "baef57c288d7d8c09c84cd461da35d28f981aa71c60448c1d95b52110cc9faf9",
                196_908,
            ),
            (
                "libicu72",
                "72.1-3+deb12u1",
                "main/i/icu/libicu72_72.1-3+deb12u1_amd64.deb",
                "f7f6f99c6d7b025914df2447fc93e11d22c44c0c8bdd8b6f36691c9e7ddcef88",
                9_376_124,
            ),
            (
                "libxml2",
                "2.9.14+dfsg-1.3~deb12u6",
                "main/libx/libxml2/libxml2_2.9.14+dfsg-1.3~deb12u6_amd64.deb",
                "4460e39dda10a815881374217cde08474747cfa018358cd8612c14b390eff53b",
                688_760,
            ),
            (
                "libldap-2.5-0",
                "2.5.13+dfsg-5",
                "main/o/openldap/libldap-2.5-0_2.5.13+dfsg-5_amd64.deb",
                "4b6c30f6554149c594628d945edc6003f0eea8d0cc1341638c0e71375db147ed",
                183_248,
            ),
            (
                "libsasl2-2",
                "2.1.28+dfsg-10",
                "main/c/cyrus-sasl2/libsasl2-2_2.1.28+dfsg-10_amd64.deb",
                "11ee190ad39f8d7af441d2c8347388b9449434c73acc67b4b372445ac4152efa",
                59_712,
            ),
        ],
    },
];

impl Database {
    fn pins(&self) -> Vec<Pin> {
        let pin = |(package, version, place, sha256, size): &(&str, &str, &str, &str, u64)| Pin {
            suite: "bookworm".into(),
            architecture: "amd64".into(),
            package: (*package).into(),
            version: (*version).into(),
            sha256: (*sha256).into(),
            size: *size,
            file: format!("pool/{place}"),
        };
        self.packages.iter().map(pin).collect()
    }

    /// Makes a directory such as `.tools/redis-7.0.15` with what the packages have in `/usr`.
    fn install(&self, tools: &Tools<'_>) -> Result<()> {
        let pins = self.pins();
        let source = pins.iter().map(apt::source).collect::<Vec<_>>().join("; ");
        let stamp = Stamp::new(self.name, self.version, source);
        tools.directory(&stamp, |scratch| {
            let unpacked = scratch.join("unpacked");
            for pin in &pins {
                let file = apt::fetch(pin, scratch).wrap_err(NEWER)?;
                apt::unpack(&file, &unpacked)?;
            }
            Ok(unpacked.join("usr"))
        })?;
        Ok(())
    }
}

/// What to do about a file that the archive does not have any more.
const NEWER: &str = "a newer one can be pinned in xtask/src/setup/services.rs";

/// A package with a pin for each architecture. All are of the suite forky, which is the first with loong64. It is not
/// released, and its packages change.
struct Pinned {
    package: &'static str,
    version: &'static str,
    /// Its directory in the archive.
    pool: &'static str,
    files: fn(Architecture) -> &'static [&'static str],
    /// SHA-256 and size of the file.
    sums: fn(Architecture) -> (&'static str, u64),
}

/// The services of fixtures-go/field/debian.yaml, and the C library that they are linked with.
const FIELD: [Pinned; 4] = [
    // Built by Go 1.26.5.
    Pinned {
        package: "caddy",
        version: "2.11.4-1",
        pool: "c/caddy",
        files: |_| &["usr/bin/caddy", "usr/share/doc/caddy/copyright"],
        sums: |architecture| match architecture {
            Architecture::Amd64 => ("76f461ef3a123b18d77c4653a10b14d77b92c4ca13654a05236e9d5e9c49e3f3", 12_161_944),
            Architecture::Arm64 => ("4a9b36ba25422e525b2409abdfc64e9b1b31f272e2b8ffb0d7a81ce8fc60e64a", 10_351_000),
            Architecture::Loong64 => ("318a613b0dba17cbdf983398076fb4482bef20ea911cd9ad92a20f1c48b6f1ce", 10_761_140),
        },
    },
    // Built by Go 1.27.2.
    Pinned {
        package: "nats-server",
        version: "2.15.1-1",
        pool: "n/nats-server",
        files: |_| &["usr/sbin/nats-server", "usr/share/doc/nats-server/copyright"],
        sums: |architecture| match architecture {
            Architecture::Amd64 => ("31ef4ceaa84e8248d449e508472e3770c17c3695cb5cb0ee96e03912724ea884", 5_351_944),
            Architecture::Arm64 => ("68923b614b6b5594bbd63ffdce7258c2155ec448fb4cb7efd099bf9273eca128", 4_498_220),
            Architecture::Loong64 => ("749b60dfa3afc94412f66547a4b529004e669115dc9d63214df62cdb3913e0d2", 4_679_592),
        },
    },
    // Built by Go 1.27.1.
    Pinned {
        package: "prometheus",
        version: "3.5.3+ds1-6",
        pool: "p/prometheus",
        files: |_| &["usr/bin/prometheus", "usr/share/doc/prometheus/copyright"],
        sums: |architecture| match architecture {
            Architecture::Amd64 => ("593bcced02d8082688ea034dfc543848ad145c5f793aae5aad756c4dbdfa98da", 18_286_304),
            Architecture::Arm64 => ("1ee56de93c47df84ba1c1e3c88479db19455db5d99ee59f6bedc7b48f5d120a4", 15_603_272),
            Architecture::Loong64 => ("9f2f2ee3899dbf45efa73b451b8d1586b3addb650d4656b3395087032b7b9257", 16_172_808),
        },
    },
    Pinned {
        package: "libc6",
        version: "2.43-7",
        pool: "g/glibc",
        files: |architecture| match architecture {
            Architecture::Amd64 => &[
                "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
                "usr/lib/x86_64-linux-gnu/libc.so.6",
                "usr/share/doc/libc6/copyright",
            ],
            Architecture::Arm64 => &[
                "usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
                "usr/lib/aarch64-linux-gnu/libc.so.6",
                "usr/share/doc/libc6/copyright",
            ],
            Architecture::Loong64 => &[
                "usr/lib/loongarch64-linux-gnu/ld-linux-loongarch-lp64d.so.1",
                "usr/lib/loongarch64-linux-gnu/libc.so.6",
                "usr/share/doc/libc6/copyright",
            ],
        },
        sums: |architecture| match architecture {
            Architecture::Amd64 => ("5c71715c51103beb4fbba9fe9f8dff604af6610dfa71c70bff342f54a7860803", 1_866_392),
            Architecture::Arm64 => ("2315e75157bf67622bb435724de8be3c4c6f5bb33f3f26e8310842ea66093c74", 1_458_588),
            Architecture::Loong64 => ("b6346725a3b73f4dde5c9ba15d7399b15b45076e923d8a91dedfafc22c649efb", 1_357_144),
        },
    },
];

impl Pinned {
    fn service(&self, architecture: Architecture) -> Service {
        let Self { package, version, pool, files, sums } = self;
        let (sha256, size) = sums(architecture);
        let pin = Pin {
            suite: "forky".into(),
            architecture: architecture.name().into(),
            package: (*package).into(),
            version: (*version).into(),
            sha256: sha256.into(),
            size,
            file: format!("pool/main/{pool}/{package}_{version}_{architecture}.deb"),
        };
        Service { pin, files: files(architecture) }
    }
}

/// Makes directories such as `.tools/caddy-loong64` for the services of fixtures-go/field/debian.yaml. Their names have
/// no version, because that file names them.
///
/// # Errors
/// As for [`ensure`].
pub(crate) fn ensure_field(tools: &Tools<'_>, architecture: Architecture) -> Result<()> {
    for pinned in FIELD {
        let service = pinned.service(architecture);
        let stamp = Stamp::new(pinned.package, architecture.name(), apt::source(&service.pin));
        install(tools, &stamp, &service)?;
    }
    Ok(())
}

fn install(tools: &Tools<'_>, stamp: &Stamp, Service { pin, files }: &Service) -> Result<()> {
    tools.directory(stamp, |scratch| {
        let file = apt::fetch(pin, scratch).wrap_err(NEWER)?;
        let (unpacked, new) = (scratch.join("unpacked"), scratch.join("new"));
        apt::unpack(&file, &unpacked)?;
        keep(&unpacked, &new, files).into_diagnostic().wrap_err("cannot move what was unpacked")?;
        Ok(new)
    })?;
    Ok(())
}

/// Makes `new`, with these files under their own names.
fn keep(unpacked: &Path, new: &Path, files: &[&str]) -> std::io::Result<()> {
    std::fs::create_dir(new)?;
    for file in files.iter().map(Path::new) {
        std::fs::rename(unpacked.join(file), new.join(file.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_wanted_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (unpacked, new) = (dir.path().join("unpacked"), dir.path().join("new"));
        for (path, file) in [("usr/bin", "a"), ("usr/share/doc/a", "copyright"), ("etc", "a")] {
            std::fs::create_dir_all(unpacked.join(path)).unwrap();
            std::fs::write(unpacked.join(path).join(file), "").unwrap();
        }
        keep(&unpacked, &new, &["usr/bin/a", "usr/share/doc/a/copyright"]).unwrap();
        let mut kept: Vec<_> = std::fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        kept.sort();
        assert_eq!(kept, ["a", "copyright"]);
        assert!(keep(&unpacked, &dir.path().join("none"), &["usr/bin/b"]).is_err(), "what is not there is missed");
    }

    #[test]
    fn what_the_field_names_is_installed() {
        let yaml = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures-go/field/debian.yaml");
        let yaml = std::fs::read_to_string(yaml).unwrap();
        let named = yaml.lines().filter_map(|line| line.split_once("../../.tools/"));
        let named: BTreeSet<_> = named.map(|(_, path)| path.to_owned()).collect();
        let installed = Architecture::ALL.into_iter().flat_map(|architecture| {
            FIELD.into_iter().flat_map(move |pinned| {
                let files = pinned.service(architecture).files.iter().filter(|file| !file.ends_with("/copyright"));
                let name = |file: &&str| file.rsplit_once('/').unwrap().1.to_owned();
                files.map(move |file| format!("{}-{architecture}/{}", pinned.package, name(file))).collect::<Vec<_>>()
            })
        });
        assert_eq!(named, installed.collect());
    }
}
