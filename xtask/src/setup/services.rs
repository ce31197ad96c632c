//! Go services as a distribution builds them: stripped, with C, and by that distribution's own Go. The tests measure
//! them.

use std::path::Path;

use memgate_qemu::debian::Pin;
use miette::{Context, IntoDiagnostic, Result};
use xshell::cmd;

use super::{Stamp, Tools, apt};
use crate::step;

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

/// Makes directories such as `.tools/prometheus-node-exporter-1.9.0-1+b4`, each with its program or its libraries.
///
/// Services for amd64 run natively. Other machines skip them and the tests that need them. The service for loong64 runs
/// in a guest.
///
/// # Errors
/// When the machine uses Debian's archive and the archive does not have them.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    for service in services() {
        if service.pin.architecture != "amd64" || cfg!(target_arch = "x86_64") {
            install(tools, &service)?;
        }
    }
    Ok(())
}

fn install(tools: &Tools<'_>, Service { pin, files }: &Service) -> Result<()> {
    let stamp = Stamp::new(&pin.package, &pin.version, apt::source(pin));
    if tools.installed(&stamp).is_none() && !apt::has_debian()? {
        eprintln!(
            "{} {} is left out: it comes from Debian, whose archive is not in use here",
            stamp.tool, stamp.version
        );
        return Ok(());
    }
    tools.directory(&stamp, |scratch| {
        let file = apt::fetch(pin, scratch).wrap_err("a newer one can be pinned in xtask/src/setup/services.rs")?;
        let (unpacked, new) = (scratch.join("unpacked"), scratch.join("new"));
        step::run(cmd!(tools.sh, "dpkg -x {file} {unpacked}"))?;
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
}
